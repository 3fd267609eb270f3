"""Known-bad rows as data: `data_contracts/<recipe>/corrections.yaml`, each with a reason, refused when out of date."""

from __future__ import annotations

from typing import Any, Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, model_validator

from data_contracts.errors import ConfigError, ContractError
from data_contracts.paths import CONTRACTS_FOLDER
from data_contracts.rows.cells import put
from data_contracts.rows.contract import column_types
from data_contracts.verdict import Check, report
from data_contracts.yaml_model import read_yaml, validated

Value = str | float | int
SHOWN_BATCHES = 8
KINDS = {pl.String: "text", pl.Int64: "whole numbers", pl.Float64: "numbers"}
"""What the columns of a contract hold."""


class Correction(BaseModel):
    """One bad row: how to find it, what to do with it, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    source_batch: str = Field(min_length=1)
    """Batch that the row belongs to; a table without this batch is not searched."""
    in_some_builds: bool = False
    """The batch is made in some builds only (a teacher's rows, a file of one's own): a build whose tables lack it goes on."""
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
        ConfigError: every wrong entry at once, values included that a column of the contract cannot hold.
    """
    where = f"data_contracts/{recipe}/corrections.yaml"
    values = read_yaml(CONTRACTS_FOLDER / recipe / "corrections.yaml", "corrections")
    entries = validated(Corrections, values, "corrections", where).corrections
    if not entries:
        return []
    types = column_types(recipe)
    problems = [
        f"corrections: {where}: entry {number} ({one.reason}): {part} {name} {value!r}, and {name} holds {KINDS[types[name]]}. "
        "Correct the value."
        for number, one in enumerate(entries, start=1)
        for part, values in (("match", one.match), ("set", one.set))
        for name, value in values.items()
        if types.get(name) in KINDS and not _suits(value, types[name])
    ]
    if problems:
        raise ConfigError(problems)
    return entries


def _suits(value: Value, dtype: Any) -> bool:
    if isinstance(value, str) or dtype == pl.String:
        return isinstance(value, str) and dtype == pl.String
    return -(2**63) <= value < 2**63 and (dtype == pl.Float64 or value == int(value))


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
        self._types = column_types(recipe)
        self._where = f"data_contracts/{recipe}/corrections.yaml"
        self._batches: set[str] = set()
        """All that were seen."""
        self._fits: dict[int, int] = {}
        """Rows found so far, for each entry whose batch was seen."""
        self._troubles: dict[int, str] = {}
        """What kept an entry from being looked for in every part so far; empty once it was looked for in one: a part may
        lack an optional column."""

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The part with its known-bad rows dropped or set right. Whether each was found once is told by `close`."""
        if not self._corrections or "source_batch" not in frame.columns:
            return frame
        batches = set(frame["source_batch"].unique())
        self._batches |= batches
        for number, one in enumerate(self._corrections, start=1):
            if one.source_batch in batches:
                frame = self._applied(frame, number, one)
        return frame

    def _applied(self, frame: pl.DataFrame, number: int, one: Correction) -> pl.DataFrame:
        self._fits.setdefault(number, 0)
        if lacking := [name for name in (*one.match, *one.set) if name not in frame.columns]:
            self._troubles.setdefault(number, f"names {', '.join(lacking)}, not a column of the table")
            return frame
        wanted = {"source_batch": one.source_batch, **one.match}
        try:
            hit = frame.select(
                pl.all_horizontal(pl.col(name) == pl.lit(value) for name, value in wanted.items()).fill_null(False)
            ).to_series()
        except pl.exceptions.PolarsError:
            types = ", ".join(f"{name} is {frame.schema[name]}" for name in one.match)
            self._troubles.setdefault(number, f"fits 0 rows: its values are of other types than the table's ({types})")
            return frame
        self._troubles[number] = ""
        self._fits[number] += (found := int(hit.sum()))
        if found != 1:
            return frame
        if one.action == "drop":
            return frame.filter(~hit)
        known = self._types  # a column that is none of the contract's rejects its rows, whatever is set
        return frame.with_columns(
            put(frame[name], hit, one.set[name], known[name]) for name in one.set if name in known
        )

    def close(self, *, whole_build: bool = False) -> list[Check]:
        """One report of what was done in all parts. `whole_build`: these were all tables of a build, so that an entry whose
        batch is in none of them is out of date, too, unless it says `in_some_builds`.

        Raises:
            ContractError: as `apply_corrections`.
        """
        problems = [one for one in map(self._problem, sorted(self._fits)) if one]
        entries = dict(enumerate(self._corrections, start=1))
        elsewhere = [number for number in entries if number not in self._fits]
        if whole_build and self._batches:
            problems += [self._gone(number) for number in elsewhere if not entries[number].in_some_builds]
        if problems:
            raise ContractError("\n".join(problems))
        done = [f"{entries[number].action}: {entries[number].reason}" for number in sorted(self._fits)]
        other = f"{len(elsewhere)} not looked at here: the rows hold none of their batches"
        detail = "; ".join([*([other] if elsewhere else []), *done])
        return [report("corrections applied", len(done), detail=detail)]

    def _gone(self, number: int) -> str:
        one = self._corrections[number - 1]
        seen = ", ".join(sorted(map(str, self._batches))[:SHOWN_BATCHES])
        return (
            f"corrections: entry {number} ({one.reason}) fits no row: the build has no batch '{one.source_batch}' (it has "
            f"{seen}). Its row is gone: delete the entry in {self._where}, or give it `in_some_builds: true` if other "
            "builds make that batch."
        )

    def _problem(self, number: int) -> str:
        one, fits = self._corrections[number - 1], self._fits[number]
        what = f"entry {number} ({one.reason})"
        if trouble := self._troubles.get(number):
            return f"corrections: {what} {trouble}. Correct the rows, or the entry in {self._where}."
        if fits == 1:
            return ""
        advice = "It was fixed at its source: delete the entry" if not fits else "Add values to its match"
        return f"corrections: {what} fits {fits} rows of '{one.source_batch}', not 1. {advice} in {self._where}."
