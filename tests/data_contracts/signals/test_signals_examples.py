"""The shipped examples are what they say: good rows pass, each bad row fails for its reason alone, gold is clean."""

import re
from collections import Counter

import polars as pl
import pytest

from data_contracts.audit.audit import audit_rows, audit_splits
from data_contracts.limits import load_limits
from data_contracts.prompting.prompt import load_prompt, output_model
from data_contracts.rows.contract import check_rows
from data_contracts.rows.findings import format_table
from data_contracts.rows.rows_file import read_rows
from data_contracts.signals.rows import ERROR_CODES, INFORMATION_TYPES, ROWS, audited
from data_contracts.verdict import Verdict, failures

FORMS = {
    "either of two": (r" rather than ", 5),
    "negated": (r"\b(?:fail to|not|without|never)\b", 12),
    "by a date": (r"\b(?:by|before|no later than) (?:[A-Z][a-z]+ \d|Christmas|the end of|year end)", 30),
    "threshold": (r"(?i)\b(?:above|below|over|under|at least|more than|fewer than|less than|exceed|top)\b.*\d", 40),
}
"""Forms of questions: how each is known, and how many gold and held-out rows together must have it."""
SIX_FIELDS = ["relevance", "direction", "magnitude", "source_credibility", "information_type", "novelty"]


def test_every_good_row_passes(examples, small):
    good = read_rows(examples / "good.jsonl")
    assert good.height >= 6
    findings = check_rows("signals", good, small)
    assert findings.passed, format_table(findings)
    assert findings.accepted.height == good.height


def test_every_bad_row_is_rejected_for_its_stated_reason_and_no_other(examples, small):
    bad = read_rows(examples / "bad.jsonl")
    assert bad.height >= 12
    findings = check_rows("signals", bad.drop("expected_reason"), small)
    for number, expected in enumerate(bad["expected_reason"], start=1):
        found = findings.reasons.get(number, [])
        assert len(found) == 1, f"row {number}: expected only '{expected}', found {found}"
        assert found[0].startswith(expected), f"row {number}: expected '{expected}', found {found}"
    assert findings.accepted.height == 0


def test_every_rule_of_the_contract_has_a_bad_row(examples, small):
    bad = read_rows(examples / "bad.jsonl").drop("expected_reason")
    told = {(rule.column, rule.rule) for rule in check_rows("signals", bad, small).broken}
    schema = ROWS.to_schema()
    rules = {one.error for column in schema.columns.values() for one in column.checks}
    rules |= {one.error for one in schema.checks}
    assert len(rules) >= 18
    assert rules <= {rule for _, rule in told}
    assert {column for column, _ in told} == set(schema.columns)


def test_gold_keeps_rows_and_audit_under_the_default_limits(gold, limits):
    findings = check_rows("signals", gold)
    assert findings.passed, format_table(findings)
    checks = audit_rows(gold, limits)
    assert len(checks) >= 15
    assert not failures(checks), "\n".join(one.sentence() for one in failures(checks))


def test_gold_covers_what_the_story_asks_for(gold):
    rows = gold.filter(pl.col("error_code").is_null())
    noise = rows.filter(pl.col("relevance") <= 0.1)
    signs = pl.col("direction").sign(), pl.col("metric_direction").cast(pl.Float64)
    apart = rows.filter((signs[1] != 0) & (signs[0] == -signs[1]))
    assert gold.height >= 80
    assert gold.height - rows.height >= 8
    assert set(gold["error_code"].drop_nulls()) == set(ERROR_CODES)
    assert 0.3 <= noise.height / rows.height <= 0.4
    assert apart.height >= 20
    assert set(rows["information_type"]) == set(INFORMATION_TYPES)
    lengths = {name: part["trace"].str.len_chars().mean() for name, part in (("noise", noise), ("all", rows))}
    assert abs(lengths["noise"] - lengths["all"]) < 25


def test_no_two_gold_traces_share_a_sentence_or_an_opening(gold):
    openings = [" ".join(trace.lower().split()[:3]) for trace in gold["trace"]]
    sentences = [one.strip().lower() for trace in gold["trace"] for one in trace.split(". ")]
    assert len(set(openings)) == len(openings)
    assert len(set(sentences)) == len(sentences)


def test_gold_rows_fit_prompt_and_output(gold):
    prompt, model = load_prompt("signals"), output_model("signals")
    for row in gold.filter(pl.col("error_code").is_null()).iter_rows(named=True):
        assert row["headline"] in prompt.messages(row)[1]["content"]
        model.model_validate({name: row[name] for name in SIX_FIELDS})


def test_reference_rows_are_the_three_of_the_story_and_not_in_gold(examples, gold, limits, small):
    reference = read_rows(examples / "reference.jsonl")
    assert reference["reference"].to_list() == ["high signal", "pure noise", "ambiguous weak signal"]
    rows = reference.drop("reference")
    findings = check_rows("signals", rows, small)
    assert findings.passed, format_table(findings)
    splits = audit_splits(gold, rows, limits)
    assert [one.verdict for one in splits] == [Verdict.PASS] * 5, [one.sentence() for one in splits]
    lengths = rows["trace"].str.len_chars()
    assert lengths.min() >= limits.min_trace_chars
    assert lengths.max() <= limits.max_trace_chars
    assert rows["magnitude"][0] >= 0.4
    assert rows["relevance"][1] <= 0.1
    assert 0 < rows["magnitude"][2] < 0.1


def test_nano_permits_short_traces_but_not_those_of_the_default(gold):
    failed = {one.name for one in failures(audit_rows(gold, load_limits("signals", "nano")))}
    assert {"longest trace", "rows"} <= failed


@pytest.fixture
def heldout(examples):
    return read_rows(examples / "heldout.jsonl")


@pytest.fixture
def both(gold, heldout):
    return pl.concat([gold, heldout], how="diagonal")


def test_the_held_out_rows_keep_rows_and_audit_and_are_new_to_gold(gold, heldout, limits):
    assert heldout.height >= 40
    findings = check_rows("signals", heldout)
    assert findings.passed, format_table(findings)
    checks = [*audit_rows(heldout, limits), *audit_splits(gold, heldout, limits)]
    assert len(checks) >= 20
    assert not failures(checks), "\n".join(one.sentence() for one in failures(checks))


def test_the_reference_rows_are_in_neither_file(examples, both, limits):
    reference = read_rows(examples / "reference.jsonl").drop("reference")
    checks = audit_splits(both, reference, limits)
    assert len(checks) == 5 and not failures(checks), [one.sentence() for one in failures(checks)]
    for column in ("headline", "question", "trace"):
        assert not set(reference[column]) & set(both[column]), column
    known = both.select(reference.columns)[5:6]
    assert failures(audit_splits(both, pl.concat([reference, known]), limits))


def uneven(frame: pl.DataFrame) -> list[str]:
    """Classes whose traces are longer, shorter or otherwise spread than all of them: by 25 characters, by a quarter."""
    view = audited(frame).with_columns(chars=pl.col("trace").str.len_chars())
    mean, spread = view["chars"].mean(), view["chars"].std()
    classes = {name: part["chars"] for (name,), part in view.group_by("row_class")}
    assert set(classes) >= {"noise", "YES more likely", "YES less likely", "malformed"}
    return sorted(
        name
        for name, chars in classes.items()
        if len(chars) >= 5 and (abs(chars.mean() - mean) > 25 or not 0.8 <= chars.std() / spread <= 1.25)
    )


@pytest.mark.parametrize("file", ["gold", "heldout", "both"])
def test_the_four_classes_have_one_length_in_mean_and_spread(request, file):
    rows = request.getfixturevalue(file)
    assert uneven(rows) == []
    noise = (pl.col("relevance") <= 0.1).fill_null(False)
    longer = pl.when(noise).then(pl.col("trace") + " " + "x" * 60).otherwise("trace")
    alike = pl.when(noise).then(pl.col("trace").str.slice(0, 700).str.pad_end(850, "x")).otherwise("trace")
    assert "noise" in uneven(rows.with_columns(trace=longer))
    assert "noise" in uneven(rows.with_columns(trace=alike))


@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_question_is_asked_often_enough(both, form):
    pattern, least = FORMS[form]
    asked = both.filter(pl.col("error_code").is_null() & pl.col("question").str.contains(pattern))
    assert asked.height >= least
    assert asked.filter(pl.col("relevance") > 0.1).height > 0


def commonest_run(traces: list[str], words: int = 5) -> tuple[float, str]:
    """Share of the traces that hold the most common run of five words, numbers masked; and that run."""
    found: Counter[str] = Counter()
    for trace in traces:
        said = re.findall(r"[\w#']+", re.sub(r"\d[\d,.]*", "#", trace.lower()))
        found.update({" ".join(said[i : i + words]) for i in range(len(said) - words + 1)})
    run, count = found.most_common(1)[0]
    return count / len(traces), run


def test_no_phrase_stands_in_many_traces(both):
    traces = both["trace"].to_list()
    share, run = commonest_run(traces)
    assert share <= 0.08, run
    phrased = [f"{trace} Taken as a whole that is it." if i % 10 == 0 else trace for i, trace in enumerate(traces)]
    assert commonest_run(phrased)[0] >= 0.1
