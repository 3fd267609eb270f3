"""The shipped examples are what they say: good rows pass, each bad row fails for its reason alone, gold is clean."""

import polars as pl

from data_contracts.audit import audit_rows, audit_splits
from data_contracts.contract import check_rows, format_table, read_rows
from data_contracts.limits import load_limits
from data_contracts.prompt import load_prompt, output_model
from data_contracts.signals.rows import ERROR_CODES, INFORMATION_TYPES, ROWS
from data_contracts.verdict import Verdict, failures

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
    assert [one.verdict for one in splits] == [Verdict.PASS] * 3, [one.sentence() for one in splits]
    lengths = rows["trace"].str.len_chars()
    assert lengths.min() >= limits.min_trace_chars
    assert lengths.max() <= limits.max_trace_chars
    assert rows["magnitude"][0] >= 0.4
    assert rows["relevance"][1] <= 0.1
    assert 0 < rows["magnitude"][2] < 0.1


def test_nano_permits_short_traces_but_not_those_of_the_default(gold):
    failed = {one.name for one in failures(audit_rows(gold, load_limits("signals", "nano")))}
    assert {"longest trace", "rows"} <= failed
