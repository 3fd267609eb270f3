"""Gates: the numbers a model must reach before it may be released, filled from `data_contracts/<recipe>/gates.yaml`.

A gate names a metric; the recipe's scoring gives metrics by the same names. One that was not measured is *cannot tell*.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from data_contracts.prompt import CONTRACTS_FOLDER
from data_contracts.verdict import Check, check, report
from data_contracts.yaml_model import read_yaml, validated


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

    def against(self, metric: str, measured: float | int | None, *, detail: str = "") -> Check:
        """The measured value beside this limit; None is *cannot tell*."""
        comparison, limit = (
            (">=", self.min)
            if self.min is not None
            else ("<=", self.max)
            if self.max is not None
            else (">", self.above)
        )
        return check(metric, measured, comparison, limit, detail=detail, fix=self.why)


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


def check_gates(gates: Gates, measured: Mapping[str, float | int | None], heldout_rows: int) -> list[Check]:
    """Each gate beside its measured metric. A metric not measured, or too few held-out rows, is *cannot tell*.

    None in `measured` says that no row speaks of the metric; a gate on what some sets need not hold lets that pass.
    """
    enough = heldout_rows >= gates.min_heldout_rows
    few = "" if enough else f"only {heldout_rows:,} held-out rows"
    size = check(
        "held-out rows",
        heldout_rows,
        ">=",
        gates.min_heldout_rows,
        fix="Evaluate on more rows: no gate can tell below this",
    )
    return [size] + [
        report(name, "not asked", detail="no held-out row is of its kind")
        if gate.only_where_asked and name in measured and measured[name] is None
        else gate.against(name, measured.get(name) if enough else None, detail=few or _absent(name, measured))
        for name, gate in gates.metrics.items()
    ]


def _absent(name: str, measured: Mapping[str, float | int | None]) -> str:
    return "" if measured.get(name) is not None else f"the evaluation gave no number for {name}"
