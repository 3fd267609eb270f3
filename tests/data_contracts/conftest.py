"""The shipped rows and limits of the signals contract."""

from pathlib import Path

import polars as pl
import pytest

from data_contracts.audit import guessing
from data_contracts.limits import Limits, load_limits
from data_contracts.paths import CONTRACTS_FOLDER
from data_contracts.rows.rows_file import read_rows


@pytest.fixture(scope="session")
def examples() -> Path:
    return CONTRACTS_FOLDER / "signals" / "examples"


@pytest.fixture(scope="session")
def gold(examples: Path) -> pl.DataFrame:
    return read_rows(examples / "gold.jsonl")


@pytest.fixture(scope="session")
def limits() -> Limits:
    return load_limits("signals")


@pytest.fixture
def small(limits: Limits) -> Limits:
    """The default limits, for tables of a few rows."""
    return limits.model_copy(update={"min_rows": 1})


@pytest.fixture
def few_draws(monkeypatch):
    """For tests that compare or show audits and hold no accuracy to its limit: permutations take most of the time of an audit."""
    monkeypatch.setattr(guessing, "MAX_REPEATS", 2)
    monkeypatch.setattr(guessing, "PERMUTED", 20)
