"""Known-bad rows as data: `data_contracts/<recipe>/corrections.yaml`, each with a reason, refused when out of date."""

from __future__ import annotations

from typing import Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, model_validator

from data_contracts.errors import ContractError
from data_contracts.prompt import CONTRACTS_FOLDER
from data_contracts.verdict import Check, report
from data_contracts.yaml_model import read_yaml, validated

Value = str | float | int


class Correction(BaseModel):
    """One bad row: how to find it, what to do with it, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    source_batch: str = Field(min_length=1)
    """Batch that the row belongs to; a table without this batch is not searched."""
    match: dict[str, Value] = Field(min_length=1)
    """Values that single out one row of the batch, the bad value among them. Never empty: that would hit every row."""
    action: Literal["drop", "set"]
    """Take the row out, or write `set` into it."""
    set: dict[str, Value] = Field(default_factory=dict)
    """New values by column; for action `set` only."""
    reason: str = Field(min_length=10)
    """Why, in words that a later reader can check."""

    @model_validator(mode="after")
    def _set_has_values(self) -> Correction:
        if (self.action == "set") != bool(self.set):
            raise ValueError("action 'set' needs values under `set`, and action 'drop' must have none")
        return self


class Corrections(BaseModel):
    """All corrections of a recipe, in the order in which they are applied."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    corrections: list[Correction]


def load_corrections(recipe: str) -> list[Correction]:
    """The entries of corrections.yaml.

    Raises:
        ConfigError: every wrong entry at once.
    """
    values = read_yaml(CONTRACTS_FOLDER / recipe / "corrections.yaml", "corrections")
    return validated(Corrections, values, "corrections", f"data_contracts/{recipe}/corrections.yaml").corrections


def apply_corrections(recipe: str, frame: pl.DataFrame) -> tuple[pl.DataFrame, list[Check]]:
    """The table with its known-bad rows dropped or set right, and one report of what was done.

    Raises:
        ContractError: a correction's row no longer exists, it fits several rows, or it names a column that the table
            lacks; all of them at once.
    """
    corrector = Corrector(recipe)
    return corrector.apply(frame), corrector.close()


class Corrector:
    """The same for a table that comes in parts."""

    def __init__(self, recipe: str) -> None:
        self._corrections = load_corrections(recipe)
        self._where = f"data_contracts/{recipe}/corrections.yaml"
        self._fits: dict[int, int] = {}
        """Rows found so far, for each entry whose batch was seen."""
        self._lacking: dict[int, str] = {}
        """Columns that every part so far lacked; empty once a part had them all: a part may lack an optional column."""

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The part with its known-bad rows dropped or set right. Whether each was found once is told by `close`."""
        batches = set(frame["source_batch"].unique()) if self._corrections and "source_batch" in frame.columns else ()
        for number, one in enumerate(self._corrections, start=1):
            if one.source_batch not in batches:
                continue
            self._fits.setdefault(number, 0)
            if lacking := [name for name in (*one.match, *one.set) if name not in frame.columns]:
                self._lacking.setdefault(number, ", ".join(lacking))
                continue
            self._lacking[number] = ""
            wanted = {"source_batch": one.source_batch, **one.match}
            hit = pl.all_horizontal(pl.col(name) == pl.lit(value) for name, value in wanted.items())
            try:
                found = frame.filter(hit).height
                if found == 1:
                    drops = one.action == "drop"
                    frame = frame.filter(hit.not_().fill_null(True)) if drops else _set(frame, hit, one.set)
            except pl.exceptions.PolarsError:  # a number beside a column of text: that row is not the one meant
                found = 0
            self._fits[number] += found
        return frame

    def close(self) -> list[Check]:
        """One report of what was done in all parts.

        Raises:
            ContractError: as `apply_corrections`.
        """
        if problems := [one for one in map(self._problem, sorted(self._fits)) if one]:
            raise ContractError("\n".join(problems))
        done = [
            f"{one.action}: {one.reason}" for one in (self._corrections[number - 1] for number in sorted(self._fits))
        ]
        detail = f"{len(self._corrections) - len(done)} belong to other batches" + "".join(f"; {what}" for what in done)
        return [report("corrections applied", len(done), detail=detail if self._corrections else "")]

    def _problem(self, number: int) -> str:
        one, fits = self._corrections[number - 1], self._fits[number]
        if lacking := self._lacking[number]:
            return f"corrections: entry {number} names {lacking}, not a column of the table. Correct {self._where}."
        if fits == 1:
            return ""
        advice = "It was fixed at its source: delete the entry" if not fits else "Add values to its match"
        what = f"entry {number} ({one.reason})"
        return f"corrections: {what} fits {fits} rows of '{one.source_batch}', not 1. {advice} in {self._where}."


def _set(frame: pl.DataFrame, hit: pl.Expr, values: dict[str, Value]) -> pl.DataFrame:
    mask = frame.select(hit).to_series()  # taken before any column changes: a match may name a column that is set
    return frame.with_columns(
        pl.when(mask).then(pl.lit(value, dtype=frame.schema[name])).otherwise(pl.col(name)).alias(name)
        for name, value in values.items()
    )
