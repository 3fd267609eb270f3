"""Corrections: applied to exactly one row, with a reason, and refused once the row is gone."""

import pytest
import yaml

from data_contracts.corrections import Corrector, apply_corrections, load_corrections
from data_contracts.errors import ConfigError, ContractError


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.setattr("data_contracts.corrections.CONTRACTS_FOLDER", tmp_path)
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


def test_a_batch_that_the_table_lacks_is_counted_and_left_alone(gold, write):
    write(entry(gold, 0, source_batch="teacher-2026-03"))
    frame, checks = apply_corrections("signals", gold)
    assert frame.equals(gold)
    assert "1 belong to other batches" in checks[0].detail


def test_all_wrong_entries_are_told_at_once(gold, write):
    write(entry(gold, match={}), entry(gold, action="set"), entry(gold, reason="bad"), entry(gold, action="delete"))
    with pytest.raises(ConfigError) as error:
        load_corrections("signals")
    assert len(error.value.problems) == 4


def test_a_value_of_another_type_than_the_column_fits_no_row(gold, write):
    write(entry(gold, 0))
    with pytest.raises(ContractError, match="fits 0 rows"):
        apply_corrections("signals", gold.with_columns(novelty=gold["novelty"].cast(str)))


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
