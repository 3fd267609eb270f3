"""Corrections: applied to exactly one row, with a reason, and refused once the row is gone."""

import polars as pl
import pytest
import yaml

from data_contracts.errors import ConfigError, ContractError
from data_contracts.rows.corrections import Corrector, apply_corrections, load_corrections
from data_contracts.verdict import Verdict


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.setattr("data_contracts.rows.corrections.CONTRACTS_FOLDER", tmp_path)
    (tmp_path / "signals").mkdir()

    def write(*entries: dict) -> None:
        text = yaml.safe_dump({"corrections": list(entries)})
        (tmp_path / "signals" / "corrections.yaml").write_text(text, encoding="utf-8")

    return write


def entry(gold, row=0, **changes) -> dict:
    chosen = gold.row(row, named=True)
    return {
        "source_batch": chosen["source_batch"],
        "match": {"headline": chosen["headline"], "novelty": chosen["novelty"]},
        "action": "drop",
        "reason": "the label was wrong",
        **changes,
    }


def test_the_shipped_list_is_empty_and_changes_nothing(gold):
    assert load_corrections("signals") == []
    frame, checks = apply_corrections("signals", gold)
    assert frame.equals(gold)
    assert checks[0].measured == 0


def test_rows_are_dropped_and_set(gold, write):
    write(entry(gold, 0), entry(gold, 1, action="set", set={"novelty": 0.99, "direction": -0.5}))
    frame, checks = apply_corrections("signals", gold)
    assert frame.height == gold.height - 1
    assert gold["headline"][0] not in frame["headline"].to_list()
    assert frame.row(0, named=True)["novelty"] == 0.99
    assert frame.row(0, named=True)["direction"] == -0.5
    assert frame[1:].equals(gold[2:])
    assert (checks[0].measured, frame.schema) == (2, gold.schema)


def test_a_row_that_no_longer_exists_fails_and_all_problems_are_told(gold, write):
    fixed = entry(gold, 0)
    fixed["match"]["novelty"] = -1.0
    wide = entry(gold, 1, match={"trace_style": "long"})
    several = entry(gold, 2, match={"source_batch": gold["source_batch"][2]})
    write(fixed, wide, several)
    with pytest.raises(ContractError) as error:
        apply_corrections("signals", gold)
    said = str(error.value).splitlines()
    assert len(said) == 3
    assert "entry 1 (the label was wrong) fits 0 rows" in said[0]
    assert "delete the entry" in said[0]
    assert "trace_style, not a column" in said[1]
    assert "Add values to its match" in said[2]
    assert all("data_contracts/signals/corrections.yaml" in line for line in said)


def test_a_batch_that_a_single_file_lacks_is_counted_as_not_looked_at(gold, write):
    """`validate` sees one file of many: it cannot know that the row is gone."""
    write(entry(gold, 0, source_batch="teacher-2026-03"))
    frame, checks = apply_corrections("signals", gold)
    assert frame.equals(gold)
    assert (checks[0].measured, checks[0].verdict) == (0, Verdict.PASS)
    assert checks[0].detail == "1 not looked at here: the rows hold none of their batches"


def test_a_batch_that_no_table_of_a_build_has_is_out_of_date(gold, write):
    write(
        entry(gold, 0, source_batch="teacher-2026-03"),
        entry(gold, 1),
        entry(gold, 2, source_batch="teacher-b", in_some_builds=True),
    )
    corrector = Corrector("signals")
    for split in (gold[:50], gold[50:]):
        corrector.apply(split)
    with pytest.raises(ContractError) as error:
        corrector.close(whole_build=True)
    (said,) = str(error.value).splitlines()
    for part in (
        "entry 1 (the label was wrong)",
        "no batch 'teacher-2026-03'",
        "it has gold-a, gold-b, gold-c, gold-d",
    ):
        assert part in said, part
    assert "delete the entry in data_contracts/signals/corrections.yaml, or give it `in_some_builds: true`" in said
    write(entry(gold, 0), entry(gold, 2, source_batch="teacher-b", in_some_builds=True))
    corrector = Corrector("signals")
    corrector.apply(gold)
    (done,) = corrector.close(whole_build=True)
    assert (done.measured, done.detail.partition(";")[0]) == (
        1,
        "1 not looked at here: the rows hold none of their batches",
    )


def test_an_entry_for_some_builds_is_still_out_of_date_where_its_batch_is(gold, write):
    write(entry(gold, 0, in_some_builds=True, match={"headline": "mended at its source"}))
    with pytest.raises(ContractError, match="fits 0 rows"):
        apply_corrections("signals", gold)


def test_all_wrong_entries_are_told_at_once(gold, write):
    write(entry(gold, match={}), entry(gold, action="set"), entry(gold, reason="bad"), entry(gold, action="delete"))
    with pytest.raises(ConfigError) as error:
        load_corrections("signals")
    assert len(error.value.problems) == 4


@pytest.mark.parametrize(
    ("part", "name", "value", "kind"),
    [
        ("set", "direction", "abc", "numbers"),
        ("set", "direction", "0.5", "numbers"),
        ("set", "metric_direction", 0.5, "whole numbers"),
        ("set", "metric_direction", 2**63, "whole numbers"),
        ("set", "novelty", float("inf"), "numbers"),
        ("set", "context", 1, "text"),
        ("match", "novelty", "0.5", "numbers"),
        ("match", "headline", 7, "text"),
    ],
)
def test_a_value_that_the_column_cannot_hold_is_told_before_any_row_is_read(gold, write, part, name, value, kind):
    """Told later, it would read as a row that was mended, or be cut to what fits."""
    one = entry(gold, 0, action="set", set={"novelty": 0.5})
    one[part] = {name: value}
    write(one, entry(gold, 1))
    with pytest.raises(ConfigError) as error:
        Corrector("signals")
    assert f"entry 1 (the label was wrong): {part} {name} {value!r}, and {name} holds {kind}. Correct" in str(
        error.value
    )


def test_a_table_of_other_types_than_the_values_says_so_and_never_to_delete_the_entry(gold, write):
    write(entry(gold, 0))
    with pytest.raises(ContractError, match="fits 0 rows: its values are of other types") as error:
        apply_corrections("signals", gold.with_columns(novelty=gold["novelty"].cast(str)))
    assert "novelty is String" in str(error.value) and "delete" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "cells", "value", "dtype"),
    [
        ("context", [None] * 99, "Venue: Oslo", pl.String),
        ("novelty", [1] * 99, 0.25, pl.Float64),
        ("metric_direction", [1.0] * 99, -1, pl.Int64),
        ("metric_direction", [0.5] * 99, -1, pl.Float64),
        ("metric_direction", ["up"] * 99, -1, pl.String),
    ],
)
def test_a_value_is_written_whole_whatever_a_part_of_a_file_was_read_as(gold, write, name, cells, value, dtype):
    frame = gold.with_columns(pl.Series(name, cells))
    write(entry(gold, 3, match={"headline": gold["headline"][3]}, action="set", set={name: value}))
    column = apply_corrections("signals", frame)[0][name]
    assert column.dtype == dtype
    assert column[3] == (str(value) if dtype == pl.String else value)
    assert [*column[:3], *column[4:]] == cells[1:]


def test_a_column_of_another_kind_is_left_to_the_contract(gold, write):
    frame = gold.with_columns(novelty=pl.lit(True))
    write(entry(gold, 3, match={"headline": gold["headline"][3]}, action="set", set={"novelty": 0.5}))
    assert apply_corrections("signals", frame)[0].equals(frame)


def test_a_row_with_an_empty_cell_is_not_dropped_with_another(gold, write):
    """A comparison with an empty cell is neither true nor false, and must not count as a hit."""
    write(entry(gold, 0))
    frame = gold.with_columns(novelty=gold["novelty"].scatter([5], None))
    assert apply_corrections("signals", frame)[0].height == gold.height - 1


def test_a_part_without_an_optional_column_is_no_problem_when_another_part_has_the_row(gold, write):
    malformed = next(i for i, code in enumerate(gold["error_code"]) if code is not None)
    write(
        entry(
            gold,
            malformed,
            match={"headline": gold["headline"][malformed], "error_code": gold["error_code"][malformed]},
        )
    )
    without = gold.filter(gold["error_code"].is_null()).drop("error_code", "error_message")
    for parts in ((without, gold), (gold, without)):
        corrector = Corrector("signals")
        assert sum(corrector.apply(one).height for one in parts) == without.height + gold.height - 1
        assert corrector.close()[0].measured == 1
    corrector = Corrector("signals")
    corrector.apply(without)
    with pytest.raises(ContractError, match="names error_code, not a column of the table"):
        corrector.close()
