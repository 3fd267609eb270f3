"""Rows that a model has seen are found among held-out rows, by their input or by their trace, and named."""

from pathlib import Path

import polars as pl
import pytest

from data_contracts.audit import audit, heldout_search, similarity
from data_contracts.audit.audit import audit_rows, audit_splits
from data_contracts.limits import load_limits
from data_contracts.rows.rows_file import read_rows
from data_contracts.validation.validate import validate_file
from data_contracts.verdict import Verdict, failures

pytestmark = pytest.mark.usefixtures("few_draws")
SAME = "inputs that are also in examples/heldout.jsonl"
NEAR = "largest similarity of a held-out input with an input of the file"
TEXT = "largest similarity of a held-out trace with a trace of the file"
PARTS = [f"largest similarity of a held-out {one} with a {one} of the file" for one in ("headline", "question")]


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
    return {name: audit[name] for name in (SAME, NEAR, TEXT, *PARTS) if name in audit}


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
        SAME: Verdict.PASS, NEAR: Verdict.FAIL, TEXT: Verdict.PASS, **dict.fromkeys(PARTS, Verdict.FAIL),
    }  # fmt: skip
    found = overlap(pl.concat([gold, asked_anew(heldout[4:5])]), tmp_path)
    assert (found[NEAR].verdict, found[TEXT].verdict) == (Verdict.PASS, Verdict.FAIL)
    assert f"held-out row 5 and file row {gold.height + 1}" in found[TEXT].detail


def test_the_held_out_rows_are_not_compared_with_themselves(examples, tmp_path):
    names = {one.name for one in validate_file("signals", examples / "heldout.jsonl", out=tmp_path).audit}
    assert len(names) > 10 and not names & {SAME, NEAR, TEXT, *PARTS}


@pytest.mark.parametrize("reworded", [False, True])
@pytest.mark.parametrize("part", [0, 1])
def test_one_line_of_a_held_out_input_beside_a_new_one_fails_by_itself(gold, examples, tmp_path, part, reworded):
    column = ("headline", "question")[part]
    line = read_rows(examples / "heldout.jsonl")[column][7]
    line = " ".join("nine" if i == 3 and reworded else word for i, word in enumerate(line.split()))
    leaked = gold.with_columns(pl.when(pl.int_range(pl.len()) == 30).then(pl.lit(line)).otherwise(column).alias(column))
    found = overlap(leaked, tmp_path)
    assert [name for name, one in found.items() if one.verdict is not Verdict.PASS] == [PARTS[part]]
    assert "held-out row 8 and file row 31" in found[PARTS[part]].detail
    assert not set(PARTS) & overlap(leaked, tmp_path, "nano").keys(), "templates share their lines"


@pytest.mark.parametrize("part", ["headline", "question"])
def test_each_line_of_the_contract_s_own_held_out_rows_must_be_new_to_training(gold, examples, limits, part):
    heldout = read_rows(examples / "heldout.jsonl").select(gold.columns)
    leaked = gold.with_columns(
        pl.when(pl.int_range(pl.len()) == 30).then(pl.lit(heldout[part][7])).otherwise(part).alias(part)
    )
    bad = failures(audit_splits(leaked, heldout, limits))
    assert [one.name for one in bad] == [f"largest similarity of a held-out {part} with a training {part}"]
    assert "held-out row 8 and training row 31" in bad[0].detail
    mine = leaked[31:60], leaked[30:31].with_columns(pl.lit(leaked[part][40]).alias(part))
    assert not failures(audit_splits(*mine, limits)), "your own rows may ask one question of many headlines"


def test_a_copy_far_from_the_sample_is_found(gold, examples, tmp_path, monkeypatch):
    monkeypatch.setattr(audit, "SAMPLE_ROWS", 20)
    heldout = read_rows(examples / "heldout.jsonl").select(gold.columns)
    words = heldout["trace"][4].split()
    near = " ".join("well," if i % 12 == 11 else word for i, word in enumerate(words))
    for trace in (heldout["trace"][4], near, near.upper()):
        copies = pl.concat([gold, asked_anew(gold[6:7]).with_columns(trace=pl.lit(trace))])
        found = overlap(copies, tmp_path)
        assert found[TEXT].verdict is Verdict.FAIL
        assert f"held-out row 5 and file row {gold.height + 1}" in found[TEXT].detail
        assert "copies looked for in every row, the number where there is none is of 20" in found[TEXT].detail


def test_every_held_out_text_is_found_by_itself_and_gold_is_hardly_looked_at(gold, examples, limits):
    heldout = audit.view_of(read_rows(examples / "heldout.jsonl"), limits).with_row_index("row", offset=1)
    search = heldout_search.HeldoutSearch(heldout, limits)
    search.add(audit.view_of(gold, limits).with_row_index("row", offset=1))
    assert all(search.nearest(name)[0] < 0.35 for name in ("input", "trace", "part_headline", "part_question"))
    for row in range(heldout.height):
        one = heldout_search.HeldoutSearch(heldout, limits)
        one.add(heldout[row : row + 1])
        for name in ("input", "trace", "part_headline", "part_question"):
            if heldout[name][row]:
                assert one.nearest(name)[0] == 1.0, (name, row)


def test_rows_that_are_too_many_to_compare_are_told(examples, limits, monkeypatch):
    monkeypatch.setattr(heldout_search, "MOST_COMPARED", 60)
    heldout = audit.view_of(read_rows(examples / "heldout.jsonl"), limits).with_row_index("row", offset=1)
    search = heldout_search.HeldoutSearch(heldout, limits)
    for _ in range(2):
        search.add(heldout)
    assert search.nearest("trace")[2] == "every row (the first 60 of 102 that share words)"
