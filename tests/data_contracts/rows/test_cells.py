"""Cells of other types: what says the same is taken over, and what does not is named cell by cell, without a traceback."""

import json
from datetime import date, datetime, time, timedelta
from decimal import Decimal

import polars as pl
import pyarrow as pa
import pytest
from pyarrow import parquet

from data_contracts.rows import rows_file
from data_contracts.rows.cells import BEYOND_64_BITS, NOT_UTF8, NOT_WHOLE, fit, plain
from data_contracts.rows.contract import check_rows
from data_contracts.rows.findings import write_rejected
from data_contracts.rows.rows_file import read_batch, row_batches
from data_contracts.validation.validate import validate_file
from data_contracts.verdict import Verdict


@pytest.fixture
def rows(gold) -> pl.DataFrame:
    return gold.filter(pl.col("error_code").is_null()).drop("error_code", "error_message", "context")


def told(findings) -> list[tuple]:
    return [(one.column, one.rule, one.rows) for one in findings.broken]


def put(frame: pl.DataFrame, column: str, cells: list, dtype=None) -> pl.DataFrame:
    """The table with the first cells of a column replaced."""
    kept = frame[column].to_list()[len(cells) :]
    return frame.with_columns(pl.Series(column, cells + kept, dtype=dtype or frame.schema[column]))


def lines(tmp_path, rows: pl.DataFrame, **changes):
    """The rows as a .jsonl, its third line changed."""
    every = rows.to_dicts()
    every[2] |= changes
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in every), "utf-8")
    return path


def checked(path, small):
    batch = read_batch(path)
    return check_rows("signals", batch.frame, small, batch.texts)


def test_a_whole_number_written_as_a_decimal_is_that_number(rows, small, tmp_path):
    """pandas makes floats of integers beside a missing one, and 1.0 in a single line makes the whole batch floats."""
    sign = rows["metric_direction"][2]
    found = checked(lines(tmp_path, rows, metric_direction=float(sign)), small)
    assert found.passed
    assert found.frame["metric_direction"].to_list() == rows["metric_direction"].to_list()
    floats = check_rows("signals", rows.with_columns(pl.col("metric_direction").cast(pl.Float64)), small)
    assert floats.passed
    assert floats.frame.schema["metric_direction"] == floats.typed.schema["metric_direction"] == pl.Int64


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        (0.5, NOT_WHOLE),
        (1e20, BEYOND_64_BITS),
        (2**63, BEYOND_64_BITS),
        (2**64 - 1, BEYOND_64_BITS),
        (2**70, BEYOND_64_BITS),
    ],
)
def test_only_the_cell_that_is_no_whole_number_is_told(rows, small, tmp_path, value, rule):
    path = lines(tmp_path, rows, metric_direction=value)
    found = checked(path, small)
    assert told(found) == [("metric_direction", rule, (3,))]
    assert found.broken[0].examples == ((3, value),)
    write_rejected(found, tmp_path / "rejected.jsonl")
    (rejected,) = (tmp_path / "rejected.jsonl").read_text("utf-8").splitlines()
    assert json.loads(rejected)["metric_direction"] == value


def test_a_large_number_leaves_the_other_columns_and_rows_as_they_are(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 9007199254740993, "b": 1}\n{"a": -1, "b": 9223372036854775808}\n')
    frame = read_batch(path).frame
    assert frame.schema == {"a": pl.Int64, "b": pl.Int128}
    assert frame.rows() == [(9007199254740993, 1), (-1, 9223372036854775808)]


def test_numbers_beside_text_are_still_numbers(rows, small, tmp_path):
    every = rows.to_dicts()
    sign = every[3]["metric_direction"]
    every[2]["metric_direction"], every[3]["metric_direction"] = "up", float(sign)
    every[4]["metric_direction"], every[5]["metric_direction"] = 0.5, 2**63
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in every), "utf-8")
    found = checked(path, small)
    assert told(found) == [
        ("metric_direction", "type text, not Int64; write numbers without quotes", (3,)),
        ("metric_direction", NOT_WHOLE, (5,)),
        ("metric_direction", BEYOND_64_BITS, (6,)),
    ]
    assert found.typed["metric_direction"][3] == sign


def test_an_unsigned_number_of_64_bits_is_told_by_its_row(rows, small):
    cells = [2**63, *(abs(one) for one in rows["metric_direction"][1:])]
    found = check_rows("signals", rows.with_columns(metric_direction=pl.Series(cells, dtype=pl.UInt64)), small)
    assert told(found) == [("metric_direction", BEYOND_64_BITS, (1,))]


def test_no_number_and_infinity_in_a_column_of_integers(rows, small):
    signs = rows["metric_direction"].cast(pl.Float64)
    found = check_rows("signals", put(rows, "metric_direction", [float("nan"), float("inf")], pl.Float64), small)
    assert found.typed["metric_direction"].to_list() == [None, None, *signs.cast(pl.Int64)[2:]]
    assert [(one.column, one.rows) for one in found.broken] == [("metric_direction", (2,)), ("metric_direction", (1,))]


@pytest.mark.parametrize("dtype", [pl.Float32, pl.Float16])
def test_a_number_of_fewer_bits_stays_on_its_side_of_a_border(rows, small, tmp_path, dtype):
    """0.1 in 32 bits is 0.10000000149 in 64: widened as it is, a noise row would be none."""
    noise = pl.col("relevance") <= 0.1
    border = rows.with_columns(relevance=pl.when(noise).then(pl.lit(0.1)).otherwise("relevance"))
    narrow = border.with_columns(pl.col("relevance").cast(dtype))
    assert check_rows("signals", border, small).passed
    assert check_rows("signals", narrow, small).passed
    path = tmp_path / "rows.parquet"
    parquet.write_table(narrow.to_arrow(), path)
    for frame in (read_batch(path).frame, next(row_batches(path)).frame):
        assert frame["relevance"].equals(border["relevance"])


def test_32_bits_keep_all_digits_that_they_hold():
    values = [0.1, 0.3, 0.7, 1e-8, 123456.79, 1 / 3, None, float("nan"), float("-inf")]
    given = pl.Series("a", values, dtype=pl.Float32)
    wide = plain(given.to_frame())["a"]
    assert wide.dtype == pl.Float64
    assert wide[:5].to_list() == values[:5]
    assert wide.cast(pl.Float32).equals(given)


def test_categories_bytes_and_decimals_are_the_text_and_the_numbers_that_they_hold(rows, small, tmp_path):
    kinds = pl.Enum(rows["information_type"].unique())
    frame = rows.with_columns(
        pl.col("headline").cast(pl.Binary),
        pl.col("source_batch").cast(pl.Categorical),
        pl.col("information_type").cast(kinds),
        pl.Series("novelty", [Decimal(str(one)) for one in rows["novelty"]], dtype=pl.Decimal(10, 4)),
    )
    assert check_rows("signals", frame, small).passed
    path = tmp_path / "rows.parquet"
    table = frame.to_arrow()
    place = table.column_names.index("trace")
    parquet.write_table(table.set_column(place, "trace", table["trace"].cast(pa.string()).dictionary_encode()), path)
    for batch in (read_batch(path), next(row_batches(path))):
        assert batch.frame.equals(rows)
        assert check_rows("signals", batch.frame, small).frame.equals(rows)


def test_bytes_that_are_no_text_are_told_by_their_row_and_written_out(rows, small, tmp_path):
    headlines = rows["headline"].cast(pl.Binary).to_list()
    headlines[4] = b"caf\xe9 opens"
    path = tmp_path / "rows.parquet"
    rows.with_columns(
        headline=pl.Series(headlines, dtype=pl.Binary), raw=pl.lit(b"\x00\xff"), parts=pl.concat_list(pl.lit(b"\xff"))
    ).write_parquet(path)
    found = validate_file("signals", path, out=tmp_path / "out")
    assert [(one.column, one.n_rows) for one in found.findings.broken] == [
        ("raw", rows.height),
        ("parts", rows.height),
        ("headline", 1),
    ]
    rejected = [json.loads(line) for line in found.rejected_path.read_text("utf-8").splitlines()]
    assert rejected[4]["headline"] == "caf\\xe9 opens"
    assert f"headline: {NOT_UTF8}" in rejected[4]["reasons"]
    assert (rejected[0]["raw"], rejected[0]["parts"]) == ("\x00\\xff", "[b'\\xff']")
    assert len(rejected) == rows.height


@pytest.mark.parametrize("name", ["whole", "batches"])
def test_text_that_a_parquet_file_only_claims_is_never_believed(rows, small, tmp_path, name):
    """pyarrow hands on any bytes under the name of text, and polars ends the process where they are none."""
    table = rows.to_arrow()
    wrong = pa.array([b"\xff\xfe", *(one.encode() for one in rows["headline"][1:])], pa.binary())
    claimed = pa.Array.from_buffers(pa.string(), len(wrong), wrong.buffers())
    path = tmp_path / "rows.parquet"
    parquet.write_table(table.set_column(table.column_names.index("headline"), "headline", claimed), path)
    if name == "whole":
        with pytest.raises(rows_file.ContractError, match="invalid UTF-8"):
            read_batch(path)
    else:
        found = validate_file("signals", path, out=tmp_path / "out")
        assert [(one.column, one.rule, one.n_rows) for one in found.findings.broken] == [("headline", NOT_UTF8, 1)]


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("headline", date(2026, 1, 1), "type Date, not String; write it as text"),
        ("novelty", datetime(2026, 1, 1), "not Float64; write it as a number"),
        ("novelty", True, "type Boolean, not Float64; write it as a number"),
        ("metric_direction", timedelta(1), "not Int64; write it as a number"),
        ("headline", time(1), "type Time, not String; write it as text"),
        ("headline", ["a", "b"], "rows are flat: join a list"),
        ("novelty", {"a": 1}, "rows are flat"),
    ],
)
def test_a_column_of_another_kind_is_told_in_the_rows_that_hold_something(rows, small, tmp_path, column, value, said):
    cells = pl.Series(column, [value] * (rows.height - 1) + [None])
    found = check_rows("signals", rows.with_columns(cells), small)
    (rule,) = [one for one in found.broken if said in one.rule]
    assert (rule.column, rule.rows) == (column, tuple(range(1, rows.height)))
    assert rule.examples[0] == (1, value)
    assert write_rejected(found, tmp_path / "rejected.jsonl") == rows.height


def test_a_column_that_holds_nothing_is_empty_whatever_its_type(rows, small):
    for dtype in (pl.Categorical, pl.Date, pl.List(pl.String), pl.Binary, pl.Boolean):
        found = check_rows("signals", rows.with_columns(trace=pl.lit(None, dtype=dtype)), small)
        assert [(one.column, one.rule.partition(" ")[0], len(one.rows)) for one in found.broken] == [
            ("trace", "empty", rows.height)
        ], dtype


def test_what_fits_is_told_nothing():
    fitting, wrong = fit(pl.Series("a", [1.0, None, -0.0, float("nan"), 2.0**53]), pl.Int64)
    assert (fitting.to_list(), wrong) == ([1, None, 0, None, 2**53], {})


def test_columns_named_like_our_own_are_told_and_kept(gold, tmp_path):
    rows = gold.to_dicts()
    rows[3] |= {"row": 5, "row_": 6, "__row": 7}
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    found = validate_file("signals", path, out=tmp_path / "out")
    assert found.verdict is Verdict.FAIL
    assert {one.column for one in found.findings.broken} == {"row", "row_", "__row"}
    (line,) = map(json.loads, found.rejected_path.read_text("utf-8").splitlines())
    assert (line["row"], line["row__"], line["row_"], line["__row"]) == (4, 5, 6, 7)


def test_a_file_whose_name_looks_like_a_pattern_is_read(rows, tmp_path):
    path = tmp_path / "rows[1].parquet"
    rows.write_parquet(path)
    assert read_batch(path).frame.equals(rows)
    rows.head(0).write_parquet(path)
    assert next(row_batches(path)).frame.height == 0
