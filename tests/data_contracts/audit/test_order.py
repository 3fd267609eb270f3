"""A contract says the same twice: no verdict depends on how the rows lie in a file."""

from __future__ import annotations

import polars as pl
import pytest

from data_contracts.audit.audit import audit_rows, audit_splits
from data_contracts.audit.content_order import by_content
from data_contracts.limits import load_limits
from data_contracts.paths import CONTRACTS_FOLDER
from data_contracts.rows.rows_file import read_rows
from data_contracts.verdict import Check, failures

EXAMPLES = CONTRACTS_FOLDER / "signals" / "examples"
LIMITS = load_limits("signals")
SPOILED_CHARS = 40
"""Characters taken off every trace of one sign in the spoiled set."""


def rows_of(split: str) -> pl.DataFrame:
    return read_rows(EXAMPLES / f"{split}.jsonl")


def shuffled(frame: pl.DataFrame, seed: int) -> pl.DataFrame:
    return frame.sample(fraction=1, shuffle=True, seed=seed)


def numbers(checks: list[Check]) -> list[tuple]:
    assert len(checks) > 30
    return [(check.name, check.measured, check.threshold, check.verdict) for check in checks]


def spoiled(split: str) -> pl.DataFrame:
    """What speaks for YES is argued at length, what speaks against it is cut short: length becomes a proxy for the label."""
    text = pl.col("trace")
    cut = text.str.slice(0, text.str.len_chars() - SPOILED_CHARS * 5)
    return rows_of(split).with_columns(trace=pl.when(pl.col("direction") < 0).then(cut).otherwise(text))


@pytest.mark.parametrize("split", ["gold", "heldout"])
def test_no_number_depends_on_the_order_of_rows(split):
    frame = rows_of(split)
    expected = numbers(audit_rows(frame, LIMITS))
    for seed in (2, 6, 42):  # of which two were refused
        assert numbers(audit_rows(shuffled(frame, seed), LIMITS)) == expected


@pytest.mark.slow
@pytest.mark.parametrize("split", ["gold", "heldout"])
def test_one_verdict_in_a_hundred_orders(split):
    frame = rows_of(split)
    verdicts = {tuple(numbers(audit_rows(shuffled(frame, seed), LIMITS))) for seed in range(100)}
    assert len(verdicts) == 1
    assert not failures(audit_rows(frame, LIMITS))


@pytest.mark.slow
def test_one_row_less_of_gold_flips_no_check():
    """33 tries, each without another row; in 5 of them a check on other rows flipped."""
    frame = rows_of("gold").with_row_index("place")
    tries = range(0, frame.height, 3)
    assert len(tries) == 33
    for place in tries:
        less = frame.filter(pl.col("place") != place).drop("place")
        assert not failures(audit_rows(less, LIMITS)), place


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_a_spoiled_set_is_refused_in_every_order(seed):
    bad = {check.name for check in failures(audit_rows(shuffled(spoiled("gold"), seed), LIMITS))}
    assert "|rank correlation| of trace length with sign" in bad
    assert "balanced accuracy of guessing sign from trace length alone" in bad


def test_the_shuffle_of_the_profile_for_qwen3_passes():
    """configs/signals/qwen3-0.6b.yaml: gold, 99 and 51 rows, seed 42; it was refused by 0.664 against 0.66."""
    from tasks.recipes.signals.recipe import build_rows

    train, heldout = (pl.DataFrame(rows) for rows in build_rows("gold", 99, 51, 42))
    assert (train.height, heldout.height) == (99, 51)
    assert not failures([*audit_rows(train, LIMITS), *audit_splits(train, heldout, LIMITS)])


def test_the_order_follows_from_the_content_alone():
    frame = rows_of("gold").with_row_index("row", offset=1)
    other = shuffled(frame.drop("row"), 3).with_row_index("row", offset=1)
    assert by_content(frame).drop("row").equals(by_content(other).drop("row"))
    assert not by_content(frame).drop("row").equals(frame.drop("row"))
