"""The hand-written variants: each right by construction, and a wrong one told by file, line and field."""

from __future__ import annotations

import json
import re
from collections import Counter

import polars as pl
import pytest

from data_contracts.errors import ContractError
from data_contracts.rows.contract import check_rows
from data_contracts.rows.findings import format_table
from data_contracts.rows.rows_file import read_rows
from data_contracts.signals.metamorphic import INPUT, KINDS, load_variants, replaced

DENIALS = re.compile(
    r"(?i)\b(?:not|no|none|never|fail|without|denied|unchanged|uncut|lapse|closed|missing|against|below|under|fewer|less"
    r"|remain|still|wait)\b"
)
"""Words that turn a question round: of a question and its negation one holds an odd number of them, the other an even one."""


@pytest.fixture(scope="module")
def variants():
    return load_variants()


@pytest.fixture
def rows(examples):
    return {(row["headline"], row["question"]): row for row in read_rows(examples / "heldout.jsonl").to_dicts()}


def of_kind(variants, kind):
    return [one for one in variants if one.kind == kind]


def test_there_are_enough_of_each_kind_over_many_rows(variants):
    counts = Counter(one.kind for one in variants)
    assert counts.keys() == set(KINDS)
    least = {"negated_question": 12, "swapped_names": 12, "moved_date": 8, "reordered_context": 6}
    assert all(counts[kind] >= n for kind, n in least.items()), counts
    assert len(variants) >= 40 and len({one.row for one in variants}) >= 25


def test_every_changed_row_keeps_the_row_contract(variants, rows, small):
    changed = [rows[one.row] | one.changed for one in variants]
    findings = check_rows("signals", pl.DataFrame(changed, infer_schema_length=None), small)
    assert findings.passed, format_table(findings)


def test_only_what_the_kind_says_is_changed(variants, rows):
    for one in variants:
        before = {name: rows[one.row][name] for name in INPUT}
        changed = {name for name in INPUT if one.changed[name] != before[name]}
        if one.kind == "negated_question":
            assert changed == {"question"}
        elif one.kind == "reordered_context":
            assert changed == {"context"}
            assert sorted(one.changed["context"].split("\n")) == sorted(before["context"].split("\n"))
        else:
            back = tuple((new, old) for old, new in one.replaced)
            assert changed and {name: replaced(one.changed[name], back) for name in INPUT} == before, one


def test_no_old_name_is_left(variants):
    for one in of_kind(variants, "swapped_names"):
        whole = "\n".join(one.changed[name] or "" for name in INPUT).lower()
        assert not [old for old, _ in one.replaced if old.lower() in whole and old.lower() not in str(one.replaced)]
        assert not [old for old, _ in one.replaced if re.search(rf"\b{re.escape(old.lower())}\b", whole)], one


def test_negation_turns_the_question(variants, rows):
    asked = {}
    for one in of_kind(variants, "negated_question"):
        row, question = rows[one.row], one.changed["question"]
        assert row["direction"] != 0
        odd = {len(DENIALS.findall(text)) % 2 for text in (row["question"], question)}
        assert odd == {0, 1}, (row["question"], question)
        asked.setdefault(" ".join(re.sub(r"\b[A-Z]\S*", "X", question.removeprefix("Will ")).split()[:3]), []).append(
            one
        )
    assert max(map(len, asked.values())) <= 3, "the negations follow a template"


def test_a_row_of_each_class_is_changed(variants, rows):
    noise = [one for one in variants if rows[one.row]["relevance"] is not None and rows[one.row]["relevance"] <= 0.1]
    malformed = [one for one in variants if rows[one.row]["error_code"]]
    signs = {rows[one.row]["direction"] > 0 for one in of_kind(variants, "negated_question")}
    assert len(noise) >= 10 and len(malformed) >= 2 and signs == {True, False}


ROW = {"headline": "Norges Bank lowers fourth-quarter rate path to 3.74% from 3.93%",
       "question": "Will Norges Bank reduce its policy rate no later than its September meeting?"}  # fmt: skip
LINES = "Published: 2026-06-18\nCurrent price: 0.46"
SWAPPED = {
    "headline": ROW["headline"].replace("Norges Bank", "Sveriges Riksbank"),
    "question": ROW["question"].replace("Norges Bank", "Sveriges Riksbank"),
    "replaced": "Norges Bank => Sveriges Riksbank",
}


def line(kind, **changes):
    return {
        "kind": kind,
        "of_headline": ROW["headline"],
        "of_question": ROW["question"],
        **ROW,
        "context": LINES,
    } | changes


WRONG = [
    (line("negated"), "kind: 'negated' is not one of negated_question, swapped_names"),
    (line("swapped_names", of_headline="Norges Bank lowers its path"), "of_headline, of_question: no row of heldout.jsonl"),
    (line("negated_question"), "question: is the row's own; ask what is true exactly when"),
    (line("negated_question", question="Will it?"), "kind: the row's context holds a price of YES"),
    (line("negated_question", question="Will it?", context=None), "context: differs from the row's"),
    (line("negated_question", question="Will it?", headline="Norges Bank waits"), "headline: differs from the row's"),
    (line("negated_question", question="Will it?", replaced="A => B"), "replaced: kind negated_question replaces no"),
    (line("reordered_context"), "context: has the row's own order; change it"),
    (line("reordered_context", context="Current price: 0.46"), "context: holds other lines than the row"),
    (line("reordered_context", question="Will it?", context="\n".join(LINES.split("\n")[::-1])), "question: differs from"),
    (line("swapped_names", **(SWAPPED | {"replaced": None})), "replaced: is empty; write a line 'old => new'"),
    (line("swapped_names", **(SWAPPED | {"replaced": "Norges Bank to Riksbank"})), "is not 'old => new'"),
    (line("swapped_names", **(SWAPPED | {"question": ROW["question"]})), "question: is not the row's with the replacements"),
    (line("swapped_names", **(SWAPPED | {"headline": SWAPPED["headline"] + " now"})), "headline: is not the row's with the"),
    (line("swapped_names", replaced="Danmarks Nationalbank => Riksbank"), "'Danmarks Nationalbank' does not occur in the row"),
    (line("swapped_names", replaced="Norges => September"), "'September' occurs in the row already"),
    (
        line("swapped_names", **{k: v.replace("Norges", "Estonian") for k, v in ROW.items()}, replaced="Norges => Estonian"),
        None,
    ),
    (line("moved_date", **SWAPPED), "is no date for a date; write days, months or years"),
    (line("moved_date", headline=None), "headline: is not text; write it"),
    (line("moved_date", note="why"), "note: nothing reads it; take it out"),
]  # fmt: skip


def write(path, *lines):
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in lines), "utf-8")
    return path


@pytest.mark.parametrize(("wrong", "said"), WRONG)
def test_a_wrong_variant_is_told_by_file_line_and_field(tmp_path, wrong, said):
    right = line("swapped_names", **SWAPPED)
    path = write(tmp_path / "metamorphic.jsonl", right if wrong["kind"] != "swapped_names" else line("x", **ROW), wrong)
    if said is None:
        write(path, wrong)
        assert len(load_variants(path)) == 1
        return
    with pytest.raises(ContractError) as error:
        load_variants(path)
    assert any(f"{path}:2: " in one and said in one for one in str(error.value).splitlines()), str(error.value)


def test_what_is_left_of_a_name_is_found(tmp_path):
    georgia = {
        "of_headline": "Georgia House passes school-bus camera bill, 142-27",
        "of_question": "Will Georgia's parliament repeal its foreign-agents law by the end of the year?",
        "headline": "Armenia House passes school-bus camera bill, 142-27",
        "question": "Will Georgia's parliament repeal its foreign-agents law by the end of the year?",
        "context": "Published: 2026-03-10\nCurrent price: 0.04",
        "kind": "swapped_names",
        "replaced": "Georgia House => Armenia House",
    }
    with pytest.raises(ContractError, match="'Georgia' is left of 'Georgia House'; replace every form of the name"):
        load_variants(write(tmp_path / "metamorphic.jsonl", georgia))


def test_a_row_has_one_variant_of_a_kind_and_all_problems_are_told_at_once(tmp_path):
    path = write(tmp_path / "m.jsonl", line("swapped_names", **SWAPPED), line("swapped_names", **SWAPPED), line("odd"))
    with pytest.raises(ContractError, match="2 problems in 3 variants of m.jsonl") as error:
        load_variants(path)
    assert "m.jsonl:2: kind: the row has a variant of kind swapped_names already; delete one" in str(error.value)
    assert "m.jsonl:3: kind: 'odd'" in str(error.value)


def test_a_variant_of_a_row_that_is_gone_is_told(tmp_path, examples):
    lines = (examples / "heldout.jsonl").read_text("utf-8").splitlines(keepends=True)
    heldout = tmp_path / "heldout.jsonl"
    heldout.write_text("".join(one for one in lines if "Norges Bank" not in one), "utf-8")
    with pytest.raises(ContractError, match=r"no row of heldout\.jsonl has them"):
        load_variants(examples / "metamorphic.jsonl", heldout)
