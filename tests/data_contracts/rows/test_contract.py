"""Broken tables: everything wrong is told at once, with rows, values and the next step."""

import json

import polars as pl
import pytest

from data_contracts.rows.contract import RowTally, check_batch, check_rows
from data_contracts.rows.findings import RejectedRows, format_table, write_rejected
from data_contracts.verdict import Verdict

GOLDEN = """\
signals rows: 4 rules broken in 15 of 25 rows   (rows.jsonl)
  headline   ends with a source tag such as ' - Reuters'; strip it where the row is made  12 rows, e.g. 1, 2, 3
  direction  not from -1 to 1; -1 makes YES less likely, +1 more likely                   1 row, e.g. 14 (-7.0)
  direction  not 0 in a noise row; set it to 0, or raise relevance above 0.1              2 rows, e.g. 12 (0.5), 25 (0.5)
  magnitude  empty (null or NaN); fill it in, or drop the row                             1 row, e.g. 15
  contract: data_contracts/signals/rows.py   all broken rows: rejected.jsonl"""


def put(frame: pl.DataFrame, column: str, row: int, value) -> pl.DataFrame:
    """The table with one cell replaced; `row` counts from 1."""
    cells = frame[column].to_list()
    cells[row - 1] = value
    return frame.with_columns(pl.Series(column, cells, dtype=frame.schema[column]))


@pytest.fixture
def gold(gold):
    """25 well-formed gold rows, 8 of them noise."""
    rows = gold.filter(pl.col("error_code").is_null()).drop("error_code", "error_message", "context")
    signal, noise = (rows.filter((pl.col("relevance") <= 0.1) == wanted) for wanted in (False, True))
    return pl.concat([signal.head(17), noise.head(8)])


@pytest.fixture
def broken(gold):
    """25 rows of which 15 break a rule; row 12 breaks two. Rows 12 and 25 are noise, 14 and 15 are not."""
    signal, noise = (gold.filter((pl.col("relevance") <= 0.1) == wanted) for wanted in (False, True))
    frame = pl.concat([signal[:11], noise[:1], signal[11:], noise[1:]])
    assert (frame.height, noise.height) == (25, 8)
    for row in range(1, 13):
        frame = put(frame, "headline", row, frame["headline"][row - 1] + " - Reuters")
    for column, row, value in (
        ("direction", 12, 0.5),
        ("direction", 14, -7.0),
        ("magnitude", 15, None),
        ("direction", 25, 0.5),
    ):
        frame = put(frame, column, row, value)
    return frame


def test_table_reads_as_the_house_style_says(broken):
    text = format_table(check_rows("signals", broken), "rows.jsonl", "rejected.jsonl")
    assert text == GOLDEN
    assert len(text.splitlines()) <= 60


def test_a_clean_table_says_so(gold):
    assert format_table(check_rows("signals", gold), "gold.jsonl") == (
        "signals rows: all 25 rows keep data_contracts/signals/rows.py   (gold.jsonl)"
    )


def test_rejected_rows_are_written_with_all_their_reasons(broken, tmp_path):
    findings = check_rows("signals", broken)
    assert write_rejected(findings, tmp_path / "new" / "rejected.jsonl") == 15
    rows = [json.loads(line) for line in (tmp_path / "new" / "rejected.jsonl").read_text("utf-8").splitlines()]
    assert [row["row"] for row in rows] == [*range(1, 13), 14, 15, 25]
    assert [row["row"] for row in rows if len(row["reasons"]) == 2] == [12]
    assert rows[0]["headline"].endswith(" - Reuters")
    assert findings.accepted.height == broken.height - 15
    assert list((tmp_path / "new").iterdir()) == [tmp_path / "new" / "rejected.jsonl"]


def test_a_check_for_the_manifest_follows_the_findings(gold, broken):
    assert check_rows("signals", gold).checks()[0].verdict is Verdict.PASS
    failed = check_rows("signals", broken).checks()[0]
    assert failed.verdict is Verdict.FAIL
    assert "15 of 25 rows rejected" in failed.detail


@pytest.mark.parametrize("rows", [0, 19])
def test_an_empty_or_too_small_table_fails(gold, rows):
    findings = check_rows("signals", gold.head(rows))
    assert not findings.passed
    assert [one.column for one in findings.broken] == ["(table)"]
    assert f"{rows} rows, fewer than min_rows 20 of limits.yaml (default)" in format_table(findings)


def test_a_table_without_columns_fails_on_every_column(gold):
    text = format_table(check_rows("signals", pl.DataFrame()))
    assert f"{len(gold.columns) + 1} rules broken in 0 of 0 rows" in text
    assert text.count("the column is missing") == len(gold.columns)


def test_missing_extra_and_mistyped_columns_and_bad_values_are_told_at_once(gold, small):
    novelty = gold["novelty"].cast(pl.String).to_list()
    novelty[3] = "high"
    frame = gold.sort("relevance", descending=True)
    frame = put(frame, "magnitude", 5, 3.0).rename({"direction": "directon"})
    frame = frame.with_columns(novelty=pl.Series(novelty), source_batch=pl.lit(7), metric_direction=pl.lit(True))
    findings = check_rows("signals", frame, small)
    told = {one.column: one for one in findings.broken}
    assert told["direction"].rule == "the column is missing; add it, or correct its name"
    assert told["directon"].rule == "the column is not in the contract; did you mean direction?"
    assert told["novelty"].rule == "type String, not Float64; write numbers without quotes"
    assert (told["novelty"].rows, told["novelty"].examples) == ((4,), ((4, "high"),))
    assert told["source_batch"].rule == "type Int32, not String; write text in quotes"
    assert len(told["metric_direction"].rows) == 25
    assert told["magnitude"].rows == (5,)
    assert len(findings.broken) == 6
    assert "all 25 rows" in format_table(findings)


def test_numbers_all_in_quotes_are_refused_in_every_row(gold, small):
    findings = check_rows("signals", gold.with_columns(pl.col("relevance").cast(pl.String)), small)
    assert [len(one.rows) for one in findings.broken] == [25]


def test_whole_numbers_are_widened_and_nan_is_an_empty_cell(gold, small):
    frame = gold.with_columns(novelty=pl.lit(1, dtype=pl.Int8), source_credibility=pl.lit(0.5, dtype=pl.Float32))
    findings = check_rows("signals", frame, small)
    assert findings.passed
    assert findings.frame.schema["novelty"] == pl.Float64
    nan = check_rows("signals", put(gold, "relevance", 2, float("nan")), small)
    assert [one.reason for one in nan.broken] == ["relevance: empty (null or NaN); fill it in, or drop the row"]


def test_a_column_of_nulls_is_told_as_empty_cells(gold, small):
    findings = check_rows("signals", gold.with_columns(trace=pl.lit(None)), small)
    assert [(one.column, len(one.rows)) for one in findings.broken] == [("trace", 25)]


def test_columns_named_like_the_report_s_own_survive_in_rejected_rows(gold, small, tmp_path):
    findings = check_rows("signals", gold.head(2).with_columns(row=pl.lit("mine")), small)
    write_rejected(findings, tmp_path / "rejected.jsonl")
    row = json.loads((tmp_path / "rejected.jsonl").read_text("utf-8").splitlines()[0])
    assert (row["row"], row["row_"]) == (1, "mine")


def test_a_rule_that_cannot_run_is_an_error_and_not_a_pass(gold, small, monkeypatch):
    from data_contracts.signals.rows import ROWS

    def bug(cls, data):
        return data.lazyframe.select(pl.col("no such column"))

    import pandera.polars as pa

    class Buggy(ROWS):
        broken_rule = pa.dataframe_check(name="headline", error="never shown")(bug)

    monkeypatch.setattr("data_contracts.signals.rows.ROWS", Buggy)
    with pytest.raises(RuntimeError, match="could not run a rule"):
        check_rows("signals", gold, small)


def numbers_of(frame, first):
    return pl.int_range(first, first + frame.height, dtype=pl.UInt32, eager=True)


@pytest.mark.parametrize("rows", [1, 7, 25])
def test_a_table_in_parts_gives_the_findings_of_the_whole(broken, tmp_path, limits, rows):
    whole = check_rows("signals", broken)
    write_rejected(whole, tmp_path / "whole.jsonl")
    tally = RowTally("signals")
    with RejectedRows(tmp_path / "parts.jsonl") as rejected:
        for first in range(1, broken.height + 1, rows):
            part = broken[first - 1 : first - 1 + rows]
            tally.add(check_batch("signals", part), numbers_of(part, first))
            rejected.add(check_batch("signals", part), numbers_of(part, first))
    tally.close(limits)
    assert format_table(tally, "rows.jsonl", "rejected.jsonl") == GOLDEN
    assert tally.checks() == whole.checks()
    assert (tmp_path / "parts.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_counts_do_not_keep_row_numbers(gold):
    """A million rows that all break a rule must not fill the memory."""
    tally, findings = RowTally("signals"), check_batch("signals", gold.drop("trace"))
    for first in range(1, 10_000, 25):
        tally.add(findings, numbers_of(gold, first))
    (rule,) = tally.broken
    assert (rule.n_rows, tally.n_rejected, rule.examples) == (10_000, 10_000, ())


def test_an_error_on_the_way_leaves_no_rejected_rows_and_no_old_ones(broken, tmp_path):
    path = tmp_path / "rejected.jsonl"
    path.write_text("of an earlier run")
    with pytest.raises(OSError, match="stop"), RejectedRows(path) as rejected:
        rejected.add(check_rows("signals", broken), numbers_of(broken, 1))
        raise OSError("stop")
    assert list(tmp_path.iterdir()) == []


def test_a_cell_of_text_among_numbers_is_the_only_one_told(gold, small):
    """polars makes the whole column text; `texts` says which cells were."""
    cells = gold["novelty"].cast(pl.String)
    text = pl.Series([index == 3 for index in range(25)])
    findings = check_rows("signals", gold.with_columns(cells), small, {"novelty": text})
    assert [(one.column, one.rule, one.rows) for one in findings.broken] == [
        ("novelty", "type text, not Float64; write numbers without quotes", (4,))
    ]
    assert findings.accepted["novelty"].to_list() == gold["novelty"].gather([*range(3), *range(4, 25)]).to_list()
    numbers = check_rows("signals", gold, small, {"headline": ~text})
    assert [(one.column, one.rule, one.rows) for one in numbers.broken] == [
        ("headline", "type number, not String; write text in quotes", (4,))
    ]


def test_malformed_rows_keep_the_contract_without_an_answer(examples, small):
    from data_contracts.rows.rows_file import read_rows

    rows = read_rows(examples / "gold.jsonl").filter(pl.col("error_code").is_not_null())
    assert rows.height >= 8
    assert check_rows("signals", rows, small).passed
    half = rows.with_columns(relevance=pl.lit(0.5))
    assert check_rows("signals", half, small).accepted.height == 0
