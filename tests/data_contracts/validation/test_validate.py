"""A file that passes in batches gives what the whole table gives, and leaves no half-made result behind."""

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import yaml

from data_contracts.audit.audit import _Reservoir, audit_rows
from data_contracts.errors import ContractError
from data_contracts.rows import rows_file
from data_contracts.rows.contract import check_rows
from data_contracts.rows.findings import format_table, write_rejected
from data_contracts.validation.validate import validate_file
from data_contracts.verdict import Verdict

pytestmark = pytest.mark.usefixtures("few_draws")
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def batches(monkeypatch):
    """Files pass in batches of some 45 rows."""
    monkeypatch.setattr(rows_file, "BATCH_BYTES", 60_000)
    monkeypatch.setattr(rows_file, "BATCH_ROWS", 45)


@pytest.fixture
def several(gold):
    """Gold three times, its inputs changed, and every kind of wrong cell in rows 1, 50, 150 and 200."""
    frame = pl.concat([gold] * 3).with_row_index("n")
    frame = frame.with_columns(headline=pl.format("{} (case {})", "headline", "n")).drop("n")
    row = pl.int_range(pl.len()) + 1
    return frame.with_columns(
        novelty=pl.when(row.is_in([1, 200])).then(pl.lit(7.0)).otherwise("novelty"),
        source_batch=pl.when(row == 50).then(pl.lit("")).otherwise("source_batch"),
        information_type=pl.when(row == 150).then(pl.lit("gossip")).otherwise("information_type"),
    )


def write(frame: pl.DataFrame, path: Path) -> Path:
    frame.write_ndjson(path) if path.suffix == ".jsonl" else frame.write_parquet(path)
    return path


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_batches_give_what_the_whole_table_gives(several, limits, tmp_path, batches, name):
    path = write(several, tmp_path / name)
    found = validate_file("signals", path, out=tmp_path / "out")
    whole = check_rows("signals", several, limits)
    assert whole.n_rejected == 4
    assert format_table(found.findings) == format_table(whole)
    write_rejected(whole, tmp_path / "whole.jsonl")
    assert found.rejected_path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    at_once = {one.name: one for one in audit_rows(whole.accepted, limits)}
    in_parts = {one.name: one for one in found.audit if "held-out" not in one.name and "heldout" not in one.name}
    assert len(in_parts) == len(found.audit) - 5
    assert list(in_parts) == list(at_once)
    for check_name, one in in_parts.items():  # details name rows, and those are counted in the file here
        other = at_once[check_name]
        assert (one.measured, one.verdict, one.threshold) == (other.measured, other.verdict, other.threshold), (
            check_name
        )


def test_row_numbers_are_those_of_the_file(several, tmp_path, batches):
    """Row 230 repeats row 7, and row 99 has a long trace: rejected rows before them do not move their numbers."""
    rows = several.to_dicts()
    rows[229] = dict(rows[6])
    rows[98]["trace"] += " " + "The rest says nothing new. " * 4 + "Done."
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    audit = {one.name: one for one in validate_file("signals", path, out=tmp_path / "out").audit}
    assert audit["inputs that occur before in the same table"].detail == "rows 230"
    assert "rows 99" in audit["longest trace"].detail


def test_noise_is_counted_among_well_formed_rows(gold, limits, tmp_path):
    malformed = gold.filter(pl.col("error_code").is_not_null())
    more = pl.concat(
        [gold, *[malformed.with_columns(headline=pl.format("{} {}", "headline", pl.lit(n))) for n in "abc"]]
    )
    found = validate_file("signals", write(more, tmp_path / "rows.jsonl"), out=tmp_path / "out")
    audit = {one.name: one for one in found.audit}
    well_formed = gold.filter(pl.col("error_code").is_null())
    noise = well_formed.filter(pl.col("relevance") <= 0.1)
    assert audit["rows"].measured == more.height
    assert audit["noise fraction (at least)"].measured == pytest.approx(noise.height / well_formed.height, abs=1e-6)
    assert audit["noise fraction (at least)"].detail == f"{noise.height} of {well_formed.height} well-formed rows"


def test_broken_lines_leave_neither_rejected_rows_nor_a_page(several, tmp_path, batches):
    path = write(several, tmp_path / "rows.jsonl")
    assert validate_file("signals", path, out=tmp_path / "out").rejected_path.is_file()
    with path.open("a") as file:
        file.write('{"headline": \n')
    with pytest.raises(ContractError, match=rf"rows\.jsonl:{several.height + 1}: "):
        validate_file("signals", path, out=tmp_path / "out")
    assert list((tmp_path / "out" / "rows.jsonl").iterdir()) == []


def test_one_quoted_number_rejects_one_row(gold, tmp_path):
    rows = gold.to_dicts()
    rows[2]["novelty"] = "0.5"
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    found = validate_file("signals", path, out=tmp_path / "out")
    assert [(one.column, one.n_rows, one.examples) for one in found.findings.broken] == [("novelty", 1, ((3, "0.5"),))]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_a_file_without_rows_passes_nothing(gold, tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"") if name == "rows.jsonl" else gold.head(0).write_parquet(path)
    found = validate_file("signals", path, out=tmp_path / "out")
    assert found.verdict is Verdict.FAIL
    assert "0 rows, fewer than min_rows" in found.table()
    assert found.page_path.is_file()


def test_corrections_reach_across_batches_and_keep_row_numbers(several, tmp_path, batches, monkeypatch):
    monkeypatch.setattr("data_contracts.rows.corrections.CONTRACTS_FOLDER", tmp_path)
    (tmp_path / "signals").mkdir()
    row = several.row(120, named=True)
    entry = {"source_batch": row["source_batch"], "match": {"headline": row["headline"]}, "action": "drop"}
    corrections = tmp_path / "signals" / "corrections.yaml"
    corrections.write_text(yaml.safe_dump({"corrections": [{**entry, "reason": "the label was wrong"}]}))
    path = write(several, tmp_path / "rows.jsonl")
    found = validate_file("signals", path, out=tmp_path / "out")
    assert found.corrections[0].measured == 1
    assert found.findings.n_rows == several.height - 1
    assert {row for rule in found.findings.broken for row, _ in rule.examples} == {1, 50, 150, 200}
    wide = {**entry, "match": {"metric_direction": 1}, "reason": "fits rows of many batches"}
    corrections.write_text(yaml.safe_dump({"corrections": [wide]}))
    with pytest.raises(ContractError, match="entry 1 .* not 1. Add values to its match"):
        validate_file("signals", path, out=tmp_path / "out")
    assert list((tmp_path / "out" / "rows.jsonl").iterdir()) == []


def test_the_sample_is_the_same_whatever_the_batches(several):
    view = several.select("trace").with_row_index("row")
    samples = []
    for rows in (1, 40, 1_000):
        reservoir = _Reservoir(25)
        for first in range(0, view.height, rows):
            reservoir.add(view[first : first + rows])
        samples.append(reservoir.rows())
    assert samples[0].height == 25
    assert samples[0].equals(samples[1])
    assert samples[0].equals(samples[2])
    assert samples[0]["row"].to_list() != list(range(25)), "a sample, not the beginning"


@pytest.mark.slow
def test_memory_does_not_follow_the_rows(gold, tmp_path):
    """Ten times the rows, in one process each: the peak may differ by what the allocator keeps, not by the file."""
    lines = [json.dumps({**row, "question": f"Q {{}} {row['question']}"}) for row in gold.to_dicts()]
    peaks = []
    for times in (60, 600):
        path = tmp_path / f"{times}.jsonl"
        path.write_text(
            "".join(line.replace("Q {}", f"Case {n}:") + "\n" for n in range(times) for line in lines), "utf-8"
        )
        peaks.append(peak_mib(path, tmp_path / "out"))
    assert path.stat().st_size > 70 * 2**20
    assert peaks[1] - peaks[0] < 60, peaks


def peak_mib(path: Path, out: Path) -> float:
    code = (
        "import sys, re, data_contracts.rows.rows_file as files; files.BATCH_BYTES = 2**21; "
        "from data_contracts.validation.validate import validate_file; validate_file('signals', sys.argv[1], out=sys.argv[2]); "
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    )
    argv = [sys.executable, "-c", code, str(path), str(out)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300)
    return int(done.stdout) / 1024
