"""Gates: the numbers a model must reach before it may be released, filled from `data_contracts/<recipe>/gates.yaml`.

A gate names a metric; the recipe's scoring gives metrics by the same names. One that was not measured is *cannot tell*.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from data_contracts.paths import CONTRACTS_FOLDER
from data_contracts.verdict import Check, Comparison, Verdict, check, report
from data_contracts.yaml_model import read_yaml, validated

FEWEST_ROWS = 30
"""Fewest rows behind a gate whose limit is no share: below it a bootstrap interval is too narrow to be believed."""


@dataclass(frozen=True)
class Measured:
    """What an evaluation found of one metric."""

    value: float | int | None
    """None: no held-out row speaks of it."""
    rows: int
    """Held-out rows that speak of it; of a difference, the rows that both models answered."""
    noise: float = 0.0
    """How far the same model differs from itself when it is asked again."""


class Gate(BaseModel):
    """The limit of one metric: exactly one of `min`, `max`, `above`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    min: float | None = None
    """Smallest value that passes."""
    max: float | None = None
    """Largest value that passes."""
    above: float | None = None
    """The value must be larger than this: equal is not enough."""
    only_where_asked: bool = False
    """Held-out rows may hold none that the metric speaks of; it is then reported as such and holds nothing up."""
    why: str = Field(min_length=10)
    """Where the number comes from, and what to do when it is missed; shown beside a failure."""

    @model_validator(mode="after")
    def _one_limit(self) -> Gate:
        given = [name for name in ("min", "max", "above") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of min, max, above; found {', '.join(given) or 'none'}")
        return self

    @property
    def rows_needed(self) -> int:
        """Fewest rows that can tell.

        The rule of three (Hanley and Lippman-Hand, JAMA 1983): n faultless rows leave room for a share of faults of 3/n, at
        95 %. So 30 rows for a limit of 0.90 and 150 for 0.98; with fewer, not even a faultless model has proven itself.
        """
        faults = 1 - self.min if self.min is not None else self.max
        if faults is None or not 0 < faults < 1:
            return FEWEST_ROWS
        return math.ceil(round(3 / faults, 6))

    def _limit(self) -> tuple[Comparison, float]:
        given: list[tuple[Comparison, float | None]] = [(">=", self.min), ("<=", self.max), (">", self.above)]
        return next((comparison, limit) for comparison, limit in given if limit is not None)

    def against(self, metric: str, found: Measured) -> Check:
        """The measured value beside this limit. Too few rows, and a value within the noise of it, are *cannot tell*."""
        comparison, limit = self._limit()
        why = ""
        if found.value is None:
            why = f"the evaluation gave no number for {metric}"
        elif found.rows < self.rows_needed:
            why = f"{found.rows} held-out rows speak of it; {self.rows_needed} are needed to tell"
        elif 0 < found.noise >= abs(found.value - limit):
            why = f"within the noise: asked again, the same file differs by {found.noise:.3f}"
        return check(metric, found.value, comparison, limit, enough=not why, detail=why, fix=self.why)


class RankedBy(BaseModel):
    """One metric by which models are ranked."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    metric: str = Field(min_length=1)
    """Name of a metric of the recipe's scoring."""
    best: Literal["highest", "lowest"] = "highest"
    """Which end of it is the better one."""


class Gates(BaseModel):
    """All gates of a recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    interval_fraction: float = Field(gt=0.5, lt=1)
    """Coverage of the bootstrap intervals that the gates speak of; 0.95 is a 95 % interval."""
    min_heldout_rows: int = Field(ge=1)
    """Fewest held-out rows; below it no gate has the power to tell, and all are *cannot tell*."""
    ceiling_metric: str = Field(min_length=1)
    """Metric on which the rows' own answers must score 1: if they do not, rows or parser are wrong, not the models."""
    shown: list[str]
    """Metrics that a board shows beside those with a gate."""
    metrics: dict[str, Gate] = Field(min_length=1)
    """Gate by name of the metric."""
    ranking: list[RankedBy] = []
    """What a comparison of models ranks by: where the first metric cannot tell two apart, the next is asked."""


def load_gates(recipe: str) -> Gates:
    """The gates of a recipe.

    Raises:
        ConfigError: every unknown key, missing key and impossible value of gates.yaml at once.
    """
    values = read_yaml(CONTRACTS_FOLDER / recipe / "gates.yaml", "gates")
    return validated(Gates, values, "gates", f"data_contracts/{recipe}/gates.yaml")


def check_gates(gates: Gates, measured: Mapping[str, Measured], heldout_rows: int) -> list[Check]:
    """Each gate beside its measured metric.

    A metric not measured, too few held-out rows, of all or of those that speak of it, and a value within the noise of its
    limit are *cannot tell*. A gate on what some sets need not hold lets a metric pass of which no row speaks.
    """
    size = check(
        "held-out rows",
        heldout_rows,
        ">=",
        gates.min_heldout_rows,
        fix="Evaluate on more rows: no gate can tell below this",
    )
    return [size, *(_judged(gates, name, measured.get(name), heldout_rows) for name in gates.metrics)]


def _judged(gates: Gates, name: str, found: Measured | None, heldout_rows: int) -> Check:
    gate = gates.metrics[name]
    if gate.only_where_asked and found is not None and found.value is None:
        return report(name, "not asked", detail="no held-out row is of its kind")
    checked = gate.against(name, found or Measured(None, 0))
    if heldout_rows >= gates.min_heldout_rows:
        return checked
    few = f"only {heldout_rows:,} held-out rows"
    return checked.model_copy(update={"measured": None, "verdict": Verdict.CANNOT_TELL, "detail": few})
