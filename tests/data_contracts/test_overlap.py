"""Rows that a model has seen are found among held-out rows, by their input or by their trace, and named."""

from pathlib import Path

import polars as pl
import pytest

from data_contracts import similarity
from data_contracts.audit import audit_rows, audit_splits
from data_contracts.limits import load_limits
from data_contracts.rows_file import read_rows
from data_contracts.validate import validate_file
from data_contracts.verdict import Verdict, failures

SAME = "inputs that are also in examples/heldout.jsonl"
NEAR = "largest similarity of a held-out input with an input of the file"
TEXT = "largest similarity of a held-out trace with a trace of the file"


def asked_anew(row: pl.DataFrame) -> pl.DataFrame:
    """The trace of a row under another headline and question."""
    headline, question = "Ferry strike called off in Piraeus", "Will the ferries sail on Monday?"
    return row.with_columns(headline=pl.lit(headline), question=pl.lit(question), context=pl.lit(None, pl.String))


@pytest.mark.parametrize("chunk_rows", [4, 2_000])
def test_a_copied_trace_under_a_new_headline_fails_across_splits(gold, limits, monkeypatch, chunk_rows):
    monkeypatch.setattr(similarity, "CHUNK_ROWS", chunk_rows)
    same, near, text = audit_splits(gold, asked_anew(gold[6:7]), limits)
    assert (same.verdict, near.verdict, text.verdict) == (Verdict.PASS, Verdict.PASS, Verdict.FAIL)
    assert "held-out row 1 and training row 7" in text.detail and text.measured == 1.0
    assert audit_splits(gold[:6], asked_anew(gold[6:7]), limits)[2].verdict is Verdict.PASS
    told = audit_splits(gold, asked_anew(gold[6:7]), load_limits("signals", "nano"))[2]
    assert (told.comparison, told.measured) == ("report", 1.0)


def test_half_a_copied_trace_is_still_a_copy(gold, limits):
    words, others = gold["trace"][6].split(), gold["trace"][8].split()
    half = " ".join([*words[: len(words) // 2 + 10], *others[len(words) // 2 + 10 :]])
    mixed = asked_anew(gold[6:7]).with_columns(trace=pl.lit(half))
    assert audit_splits(gold[:8], mixed, limits)[2].verdict is Verdict.FAIL


def test_a_copied_trace_under_a_new_headline_fails_in_one_table(gold, limits):
    row = gold["error_code"].is_null().arg_true()[4]
    bad = failures(audit_rows(pl.concat([gold, asked_anew(gold[row : row + 1])]), limits))
    assert [one.name for one in bad] == ["largest similarity of two traces of the table"], bad
    assert f"rows {row + 1} and {gold.height + 1} (1.00)" in bad[0].detail


def overlap(frame: pl.DataFrame, folder: Path, profile: str = "default") -> dict:
    """Name -> check of a file's overlap with the contract's own held-out rows."""
    path = folder / "rows.jsonl"
    frame.write_ndjson(path)
    audit = {one.name: one for one in validate_file("signals", path, profile, out=folder / "out").audit}
    return {name: audit[name] for name in (SAME, NEAR, TEXT)}


def test_gold_and_the_held_out_rows_have_nothing_in_common(gold, tmp_path):
    assert {one.verdict for one in overlap(gold, tmp_path).values()} == {Verdict.PASS}


def test_one_held_out_row_in_a_file_fails_and_is_named(gold, examples, tmp_path):
    heldout = read_rows(examples / "heldout.jsonl").select(gold.columns)
    leaked = pl.concat([gold[:40], heldout[4:5].with_columns(pl.col("headline").str.to_uppercase()), gold[40:]])
    found = overlap(leaked, tmp_path)
    assert (found[SAME].verdict, found[SAME].measured, found[SAME].detail) == (Verdict.FAIL, 1, "rows 41")
    assert found[NEAR].verdict is Verdict.FAIL and "held-out row 5 and file row 41" in found[NEAR].detail
    assert overlap(leaked, tmp_path, "nano")[SAME].verdict is Verdict.FAIL


def test_a_reworded_held_out_row_and_a_copied_trace_fail(gold, examples, tmp_path):
    heldout = read_rows(examples / "heldout.jsonl").select(gold.columns)
    reworded = heldout[4:5].with_columns(
        pl.col("headline") + " again", trace=gold["trace"].tail(1) + " Or so it seems."
    )
    found = overlap(pl.concat([gold[:-1], reworded]), tmp_path)
    assert {name: one.verdict for name, one in found.items()} == {
        SAME: Verdict.PASS, NEAR: Verdict.FAIL, TEXT: Verdict.PASS,
    }  # fmt: skip
    found = overlap(pl.concat([gold, asked_anew(heldout[4:5])]), tmp_path)
    assert (found[NEAR].verdict, found[TEXT].verdict) == (Verdict.PASS, Verdict.FAIL)
    assert f"held-out row 5 and file row {gold.height + 1}" in found[TEXT].detail


def test_the_held_out_rows_are_not_compared_with_themselves(examples, tmp_path):
    names = {one.name for one in validate_file("signals", examples / "heldout.jsonl", out=tmp_path).audit}
    assert len(names) > 10 and not names & {SAME, NEAR, TEXT}
