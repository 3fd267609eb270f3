"""Rows against the row contract of a recipe: what is broken, where, and what to do about it.

Row numbers count from 1, as the lines of a .jsonl file do. No function here knows a recipe by name.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import polars as pl

from data_contracts.corrections import apply_corrections
from data_contracts.limits import Limits, load_limits
from data_contracts.rows_file import read_rows
from data_contracts.verdict import Check, check

__all__ = [
    "BrokenRule",
    "RowFindings",
    "apply_corrections",
    "check_rows",
    "format_table",
    "read_rows",
    "write_rejected",
]

SHOWN_EXAMPLES = 3
SHOWN_VALUE_CHARS = 28
EMPTY_CELL = "empty (null or NaN); fill it in, or drop the row"
"""Also the text of a recipe's own rule on a column that is empty in some rows only."""


@dataclass(frozen=True)
class BrokenRule:
    """One rule, and the rows that break it."""

    column: str
    rule: str
    """What is wrong; what to do."""
    rows: tuple[int, ...]
    """Numbers of the rows, in order; empty where the table as a whole is at fault."""
    examples: tuple[tuple[int, Any], ...]
    """The first few of them, with the value in `column`."""

    @property
    def reason(self) -> str:
        """The rule as it is written beside a rejected row."""
        return f"{self.column}: {self.rule}"


@dataclass(frozen=True)
class RowFindings:
    """A table beside its contract. `frame` is the table, numbers widened to the contract's types (1 becomes 1.0)."""

    recipe: str
    frame: pl.DataFrame
    broken: tuple[BrokenRule, ...]

    @property
    def passed(self) -> bool:
        """True when no rule is broken."""
        return not self.broken

    @property
    def reasons(self) -> dict[int, list[str]]:
        """All reasons of each rejected row, by its number."""
        found: dict[int, list[str]] = {}
        for rule in self.broken:
            for row in rule.rows:
                found.setdefault(row, []).append(rule.reason)
        return dict(sorted(found.items()))

    @property
    def accepted(self) -> pl.DataFrame:
        """The rows that break no rule."""
        bad = pl.Series(list(self.reasons), dtype=pl.UInt32)
        return self.frame.with_row_index("__row", offset=1).filter(~pl.col("__row").is_in(bad.implode())).drop("__row")

    def checks(self) -> list[Check]:
        """The same as one check, for a manifest."""
        detail = "; ".join(f"{rule.reason} ({_count(rule)})" for rule in self.broken[:SHOWN_EXAMPLES])
        return [
            check(
                "broken rules of the row contract",
                len(self.broken),
                "==",
                0,
                detail=f"{len(self.reasons):,} of {self.frame.height:,} rows rejected{detail and ': ' + detail}",
                fix=f"Correct the rows, or the rule in data_contracts/{self.recipe}/rows.py",
            )
        ]


def check_rows(recipe: str, frame: pl.DataFrame, limits: Limits | None = None) -> RowFindings:
    """Every broken rule of `data_contracts/<recipe>/rows.py`, at once: columns, types and values.

    `limits` gives the smallest table that is accepted; without it the recipe's default profile does.
    """
    limits = limits or load_limits(recipe)
    model = import_module(f"data_contracts.{recipe}.rows").ROWS
    columns = model.to_schema().columns
    schema = {name: column.dtype.type for name, column in columns.items()}
    optional = {name for name, column in columns.items() if not column.required}
    broken: list[BrokenRule] = []
    if frame.height < limits.min_rows:
        limit = f"min_rows {limits.min_rows:,} of limits.yaml ({limits.profile})"
        rule = f"{frame.height:,} rows, fewer than {limit}; add rows"
        broken.append(BrokenRule("(table)", rule, (), ()))
    broken += _extra_columns(frame, schema)
    whole, typed, structural = _typed(frame, schema, optional)
    broken += structural
    doubtful = {rule.column: set(rule.rows) for rule in structural}
    broken += _value_rules(model, typed, doubtful) if frame.height else []
    return RowFindings(recipe, whole, tuple(broken))


def _typed(
    frame: pl.DataFrame, schema: dict, optional: set[str]
) -> tuple[pl.DataFrame, pl.DataFrame, list[BrokenRule]]:
    """The table with whole numbers widened; the same as the contract types it; and the rules its columns break.

    Cells that do not fit their type become null in the second table, so that one wrong cell hides no other rule.
    """
    whole, typed, broken = frame, {}, []
    for name, dtype in schema.items():
        if name not in frame.columns and name in optional:
            typed[name] = pl.Series(name, [None] * frame.height, dtype=dtype)
            continue
        if name not in frame.columns:
            rule = "the column is missing; add it, or correct its name"
            broken.append(BrokenRule(name, rule, tuple(range(1, frame.height + 1)), ()))
            typed[name] = pl.Series(name, [None] * frame.height, dtype=dtype)
            continue
        cells = frame[name]
        if _widens(cells.dtype, dtype):
            cells = cells.cast(dtype)
            whole = whole.with_columns(cells)
        elif cells.dtype != dtype:
            fitting = (
                cells.cast(dtype, strict=False)
                if _castable(cells.dtype)
                else pl.Series(name, [None] * len(cells), dtype=dtype)
            )
            misfits = _numbers(fitting.is_null() & cells.is_not_null()) or tuple(range(1, frame.height + 1))
            rule = f"type {cells.dtype}, not {dtype}; {_type_advice(dtype)}"
            broken.append(BrokenRule(name, rule, misfits, _examples(cells, misfits)))
            cells = fitting
        typed[name] = cells.fill_nan(None) if cells.dtype.is_float() else cells
    return whole, pl.DataFrame(typed), broken


def _widens(given: pl.DataType, wanted: pl.DataType) -> bool:
    numbers = given.is_integer() or (given.is_float() and wanted.is_float())
    return given != wanted and (given == pl.Null or (numbers and wanted in (pl.Float64, pl.Int64)))


def _castable(given: pl.DataType) -> bool:
    return given.is_numeric() or given == pl.String


def _type_advice(wanted: pl.DataType) -> str:
    return "write text in quotes" if wanted == pl.String else "write numbers without quotes"


def _extra_columns(frame: pl.DataFrame, schema: dict) -> list[BrokenRule]:
    found = []
    for name in frame.columns:
        if name not in schema:
            near = difflib.get_close_matches(
                name, [one for one in schema if one not in frame.columns] or list(schema), n=1
            )
            hint = f"did you mean {near[0]}?" if near else "remove it, or declare it"
            rows = _numbers(frame[name].is_not_null())
            found.append(
                BrokenRule(name, f"the column is not in the contract; {hint}", rows, _examples(frame[name], rows))
            )
    return found


def _value_rules(model: Any, typed: pl.DataFrame, doubtful: dict[str, set[int]]) -> list[BrokenRule]:
    """All rules on values, by pandera; cells already known to be missing or of a wrong type are not told twice."""
    from pandera.errors import SchemaErrors

    try:
        model.validate(typed, lazy=True)
    except SchemaErrors as errors:
        found = [_broken_rule(one, typed, doubtful) for one in errors.schema_errors]
        return sorted((one for one in found if one), key=lambda rule: typed.columns.index(rule.column))
    return []


def _broken_rule(error: Any, typed: pl.DataFrame, doubtful: dict[str, set[int]]) -> BrokenRule | None:
    if error.check_output is None:  # a rule that could not be run: our own bug, never a passed rule
        raise RuntimeError(f"the row contract could not run a rule: {error}") from error
    is_null_rule = error.reason_code.name == "SERIES_CONTAINS_NULLS"
    column = str(error.schema.name if is_null_rule or error.schema.name in typed.columns else error.check.name)
    rule = EMPTY_CELL if is_null_rule else error.check.error
    skip = doubtful.get(column, set()) if rule == EMPTY_CELL else set()
    rows = tuple(row for row in _numbers(~error.check_output["check_output"]) if row not in skip)
    return BrokenRule(column, rule, rows, _examples(typed[column], rows)) if rows else None


def _numbers(mask: pl.Series) -> tuple[int, ...]:
    return tuple((mask.fill_null(False).arg_true() + 1).to_list())


def _examples(cells: pl.Series, rows: tuple[int, ...]) -> tuple[tuple[int, Any], ...]:
    return tuple((row, cells[row - 1]) for row in rows[:SHOWN_EXAMPLES])


def format_table(findings: RowFindings, path: Path | str = "", rejected_path: Path | str = "") -> str:
    """The findings for people: a headline with counts, one aligned line for each broken rule, where to look next."""
    broken, total = findings.broken, findings.frame.height
    where = f"   ({path})" if path else ""
    contract = f"data_contracts/{findings.recipe}/rows.py"
    if not broken:
        return f"{findings.recipe} rows: all {total:,} rows keep {contract}{where}"
    rules = f"{len(broken)} {'rule' if len(broken) == 1 else 'rules'}"
    head = f"{findings.recipe} rows: {rules} broken in {len(findings.reasons):,} of {total:,} rows{where}"
    wide_column, wide_rule = (max(len(getattr(rule, name)) for rule in broken) for name in ("column", "rule"))
    lines = [f"  {one.column:<{wide_column}}  {one.rule:<{wide_rule}}  {_count(one, total)}".rstrip() for one in broken]
    rejected = f"   all broken rows: {rejected_path}" if rejected_path else ""
    return "\n".join([head, *lines, f"  contract: {contract}{rejected}"])


def _count(rule: BrokenRule, total: int = -1) -> str:
    if not rule.rows:
        return ""
    if len(rule.rows) == total and not rule.examples:
        return f"all {total:,} rows"
    shown = ", ".join(f"{row}{_short(value)}" for row, value in rule.examples)
    return f"{len(rule.rows):,} {'row' if len(rule.rows) == 1 else 'rows'}{shown and ', e.g. ' + shown}"


def _short(value: Any) -> str:
    text = repr(value)
    return "" if value is None or len(text) > SHOWN_VALUE_CHARS else f" ({text})"


def write_rejected(findings: RowFindings, path: Path | str) -> int:
    """Write each rejected row with `row` (its number) and `reasons` (all of them) to a .jsonl; return how many."""
    path, reasons = Path(path), findings.reasons
    added = pl.DataFrame(
        {"row": list(reasons), "reasons": list(reasons.values())},
        schema={"row": pl.UInt32, "reasons": pl.List(pl.String)},
    )
    numbered = findings.frame.rename(
        {name: f"{name}_" for name in ("row", "reasons") if name in findings.frame.columns}
    )
    rejected = added.join(numbered.with_row_index("row", offset=1), on="row", how="left", maintain_order="left")
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    rejected.write_ndjson(aside)
    aside.replace(path)
    return rejected.height
