"""Further `Label: value` lines of a prompt: where they enter, what may not, and that both checkers agree on every line."""

from __future__ import annotations

import hashlib
import json

import polars as pl
import pytest

from data_contracts.audit.audit import audit_rows
from data_contracts.errors import ContractError
from data_contracts.prompting import context
from data_contracts.prompting.prompt import load_prompt
from data_contracts.rows.contract import check_rows
from data_contracts.rows.rows_file import read_rows
from data_contracts.validation.validate import validate_file
from data_contracts.verdict import Verdict

pytestmark = pytest.mark.usefixtures("few_draws")
ROW = {"headline": "Brent slides to $61.40", "question": "Will Brent settle below $60 in October?"}
USER = "Headline: Brent slides to $61.40\nQuestion: Will Brent settle below $60 in October?"


@pytest.fixture(scope="module")
def words():
    return load_prompt("signals")


def user(words, row, *given):
    return words.messages(row, *given)[1]["content"]


@pytest.mark.parametrize("row", [ROW, ROW | {"context": None}])
def test_without_lines_the_bytes_are_the_old_ones(words, row):
    assert user(words, row) == USER
    assert words.messages(row)[0]["content"] == words.system


def test_lines_follow_the_words_in_their_order(words):
    row = ROW | {"context": "Published: 2026-10-05\nCurrent price: 0.45"}
    assert user(words, row) == USER + "\nPublished: 2026-10-05\nCurrent price: 0.45"
    assert user(words, row, [("Sessions left", "18")]).endswith("\nCurrent price: 0.45\nSessions left: 18")
    assert user(words, ROW, [("B", "2"), ("A", "{headline}")]) == USER + "\nB: 2\nA: {headline}"


def test_a_contract_without_the_section_takes_no_line_and_keeps_its_digest(words):
    closed = words.model_copy(update={"context": None})
    before = hashlib.sha256(closed.model_dump_json(exclude={"context"}).encode()).hexdigest()
    assert closed.words_digest == before != words.words_digest
    assert user(closed, ROW) == USER
    with pytest.raises(ContractError, match=r"1 context lines were given, and signals/prompt\.md takes none"):
        closed.messages(ROW | {"context": "Published: 2026-10-05"})
    with pytest.raises(ContractError, match="2 context lines were given"):
        closed.messages(ROW, [("A", "1"), ("B", "2")])


WRONG = {
    "published: today": context.FORM,
    "Published 2026": context.FORM,
    "Published:2026": context.FORM,
    "Published:  2026": context.FORM,
    "Published: ": context.FORM,
    "Published: 2026 ": context.FORM,
    " Published: 2026": context.FORM,
    "Market  closes: June": context.FORM,
    "Ünlü: June": context.FORM,
    "A: 1\n\nB: 2": context.FORM,
    "A: 1\n": context.FORM,
    "": context.FORM,
    " ": context.FORM,
    "What everybody in the market thinks: 0.4": context.SHORT_LABEL,
    "Note: " + "x" * 201: context.SHORT_VALUE,
    "Note: <|im_start|>system": context.NO_MARKER,
    "Note: so be it</think>": context.NO_MARKER,
    "Note: thus assistantfinal": context.NO_MARKER,
    "Note: [INST]": context.NO_MARKER,
    "Note: a\tb": context.PRINTABLE,
    "Note: a\rHeadline: b": context.PRINTABLE,
    "Note: a\u2028Headline: b": context.PRINTABLE,
    "Note: a\x85Headline: b": context.PRINTABLE,
    "Note: \u202eolleh": context.PRINTABLE,
    "Note: a\x1bb": context.PRINTABLE,
    "Note: \ufffd": context.PRINTABLE,
    "Headline: Brent soars": context.OWN_LABEL,
    "A: 1\nQuestion: Will it?": context.OWN_LABEL,
    "QUESTION: Will it?": context.OWN_LABEL,
    "Price: 1\nprice: 2": context.TWICE,
    "Price: 1\nClosed: no\nPrice: 1": context.TWICE,
}
RIGHT = [
    "A: 1",
    "Published: 2026-03-14\nMarket closes: June 30, 23:59 UTC",
    "Price (YES): 0.34\nHeadlines today: 12\nSource's note: « no haste », said the governor: 東京 😀",
    "Label of thirty-two characters..: " + "v" * 200,
]


@pytest.mark.parametrize("text", [*WRONG, *RIGHT])
def test_the_row_contract_and_the_renderer_agree_on_every_line(words, gold, small, text):
    row = gold.filter(pl.col("error_code").is_null()).head(1).with_columns(context=pl.lit(text))
    reasons = check_rows("signals", row, small).reasons.get(1, [])
    if text in RIGHT:
        assert reasons == []
        assert user(words, ROW | {"context": text}) == f"{USER}\n{text}"
        return
    rule = WRONG[text]
    wanted = rule.text if isinstance(rule, context.LineRule) else rule
    assert f"context: {wanted}" in reasons
    with pytest.raises(ContractError) as error:
        words.messages(ROW | {"context": text})
    told = str(error.value)
    assert wanted in told and "context lines may not enter" in told
    assert {reason.removeprefix("context: ") for reason in reasons} == {
        line.partition("): ")[2] for line in told.splitlines() if line.startswith("  - ")
    }


def test_every_problem_is_told_with_its_line_and_what_to_do(words):
    given = [("Fed: rate", "3.5"), ("Price", 0.3), ("Note", "a\nHeadline: b"), 7, ("ok", "x"), ("Question", "Why?")]
    with pytest.raises(ContractError) as error:
        words.messages(ROW | {"context": "Price: 0.2"}, given)
    told = str(error.value)
    assert told.startswith("prompt: 6 of 7 context lines may not enter. Expected lines '{label}: {value}'")
    for line, what in (
        ("line 2 ('Fed: rate: 3.5')", "a label holds a colon"),
        ("line 3 (('Price', 0.3))", "is str and float, not a label and a value; give both as text"),
        ("line 4 ('Note: a\\nHeadline: b')", "invisible characters"),
        ("line 5 (7)", "is int, not a label and a value"),
        ("line 6 ('ok: x')", "begin it with a capital"),
        ("line 7 ('Question: Why?')", "one of the prompt's own; rename the line"),
    ):
        assert any(line in one and what in one for one in told.splitlines()), (line, told)


def test_a_list_is_refused_by_name_wherever_it_comes_from(words, gold, small, tmp_path):
    with pytest.raises(ContractError, match="column context of the row is list, not text"):
        words.messages(ROW | {"context": ["Price: 0.2"]})
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({**ROW, "context": ["Price: 0.2"]}) + "\n")
    with pytest.raises(ContractError, match=r"rows\.jsonl:1: context: nested value; rows are flat"):
        read_rows(path)
    lists = gold.with_columns(context=pl.lit(["Price: 0.2"]))
    told = {one.column: one.rule for one in check_rows("signals", lists, small).broken}
    assert told["context"].startswith("type List(String), not String; rows are flat: join a list into one text")


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_files_of_both_kinds_carry_lines_and_name_the_row_that_may_not(gold, tmp_path, ending):
    assert 15 <= gold["context"].is_not_null().sum() <= 40
    wrong = gold.with_row_index("n").with_columns(
        context=pl.when(pl.col("n") == 4).then(pl.lit("Headline: another")).otherwise("context")
    )
    path = tmp_path / f"rows.{ending}"
    frame = wrong.drop("n")
    frame.write_ndjson(path) if ending == "jsonl" else frame.write_parquet(path)
    found = validate_file("signals", path, out=tmp_path / "out")
    assert [(one.column, one.n_rows, one.examples[0][0]) for one in found.findings.broken] == [("context", 1, 5)]
    assert context.OWN_LABEL in found.rejected_path.read_text("utf-8")


def test_lines_count_as_input(gold, limits):
    """The same question with another line is another input, and lines on one class alone are a shortcut."""
    name = "inputs that occur before in the same table"
    twice = pl.concat([gold, gold.head(1).with_columns(context=pl.lit("Price: 0.9"))])
    assert {one.name: one for one in audit_rows(twice, limits)}[name].measured == 0
    assert {one.name: one for one in audit_rows(pl.concat([gold, gold.head(1)]), limits)}[name].measured == 1
    noise = (pl.col("relevance") <= 0.1) & pl.col("error_code").is_null()
    marked = gold.with_columns(context=pl.when(noise).then(pl.lit("Published: 2026-10-05\nMarket closes: June")))
    guess = {one.name: one for one in audit_rows(marked, limits)}[
        "balanced accuracy of guessing noise from surface features"
    ]
    assert guess.verdict is Verdict.FAIL
    assert guess.measured > 0.9
    assert "noise" in guess.detail and "True" not in guess.detail


def test_labels_are_counted_by_the_rows_that_hold_them():
    assert context.count_labels(["A: 1\nB: 2", None, "A: 3"]) == {"A": 2, "B": 1}
    assert context.count_labels([None]) == context.count_labels([]) == {}
