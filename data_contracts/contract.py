"""Rows against the row contract of a recipe: what is broken, where, and what to do about it.

Row numbers count from 1, as the lines of a .jsonl file do. No function here knows a recipe by name.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import polars as pl

from data_contracts.findings import SHOWN_EXAMPLES, BrokenRule, RowFindings, RuleCount, one_check
from data_contracts.limits import Limits, load_limits
from data_contracts.verdict import Check

EMPTY_CELL = "empty (null or NaN); fill it in, or drop the row"
"""Also the text of a recipe's own rule on a column that is empty in some rows only."""


class RowTally:
    """The findings of a file that comes batch by batch: counts and first examples, whatever the number of rows."""

    def __init__(self, recipe: str) -> None:
        self.recipe = recipe
        self.n_rows = 0
        self.n_rejected = 0
        self._rules: dict[tuple[str, str], RuleCount] = {}

    def add(self, findings: RowFindings, numbers: pl.Series) -> None:
        """Count one batch; `numbers` are the numbers of its rows in the file."""
        self.n_rows += findings.n_rows
        self.n_rejected += findings.n_rejected
        for rule in findings.broken:
            before = self._rules.get((rule.column, rule.rule), RuleCount(rule.column, rule.rule, 0, ()))
            here = tuple((int(numbers[row - 1]), value) for row, value in rule.examples)
            examples = (*before.examples, *here)[:SHOWN_EXAMPLES]
            self._rules[rule.column, rule.rule] = RuleCount(
                rule.column, rule.rule, before.n_rows + rule.n_rows, examples
            )

    def close(self, limits: Limits) -> None:
        """All batches were added: hold the number of rows to its limit."""
        for rule in _too_few(self.n_rows, limits):
            self._rules[rule.column, rule.rule] = RuleCount(rule.column, rule.rule, 0, ())

    @property
    def broken(self) -> tuple[RuleCount, ...]:
        """The broken rules in the order of the contract; one on the table, or on a column that it lacks, is first."""
        schema = _model(self.recipe).to_schema()
        checks = [*(one for column in schema.columns.values() for one in column.checks), *schema.checks]
        place = {name: index for index, name in enumerate(schema.columns)}
        order = {one.error: index for index, one in reversed(list(enumerate(checks)))}
        return tuple(
            sorted(self._rules.values(), key=lambda rule: (place.get(rule.column, -1), order.get(rule.rule, -1)))
        )

    def checks(self) -> list[Check]:
        """The same as one check, for a manifest."""
        return [one_check(self)]


def check_rows(
    recipe: str, frame: pl.DataFrame, limits: Limits | None = None, texts: Mapping[str, pl.Series] | None = None
) -> RowFindings:
    """Every broken rule of `data_contracts/<recipe>/rows.py`, at once: columns, types and values.

    `limits` gives the smallest table that is accepted; without it the recipe's default profile does. `texts` says for
    columns that were text beside numbers which cells were text (`rows_file.RowBatch`).
    """
    limits = limits or load_limits(recipe)
    found = check_batch(recipe, frame, texts)
    return RowFindings(recipe, found.frame, found.typed, (*_too_few(frame.height, limits), *found.broken))


def check_batch(recipe: str, frame: pl.DataFrame, texts: Mapping[str, pl.Series] | None = None) -> RowFindings:
    """The same for a part of a table, which may have any number of rows."""
    columns = _columns(recipe)
    schema = {name: column.dtype.type for name, column in columns.items()}
    optional = {name for name, column in columns.items() if not column.required}
    whole, typed, structural = _typed(frame, schema, optional, texts or {})
    doubtful = {rule.column: set(rule.rows) for rule in structural}
    broken = [*_extra_columns(frame, schema), *structural]
    broken += _value_rules(_model(recipe), typed, doubtful) if frame.height else []
    return RowFindings(recipe, whole, typed, tuple(broken))


def _model(recipe: str) -> Any:
    return import_module(f"data_contracts.{recipe}.rows").ROWS


def _columns(recipe: str) -> dict[str, Any]:
    return _model(recipe).to_schema().columns


def _too_few(n_rows: int, limits: Limits) -> list[BrokenRule]:
    if n_rows >= limits.min_rows:
        return []
    limit = f"min_rows {limits.min_rows:,} of limits.yaml ({limits.profile})"
    return [BrokenRule("(table)", f"{n_rows:,} rows, fewer than {limit}; add rows", (), ())]


def _typed(
    frame: pl.DataFrame, schema: dict, optional: set[str], texts: Mapping[str, pl.Series]
) -> tuple[pl.DataFrame, pl.DataFrame, list[BrokenRule]]:
    """The table with whole numbers widened; the same as the contract types it; and the rules its columns break.

    Cells that do not fit their type become null in the second table, so that one wrong cell hides no other rule.
    """
    whole, typed, broken = frame, {}, []
    for name, dtype in schema.items():
        if name not in frame.columns:
            if name not in optional:
                rule = "the column is missing; add it, or correct its name"
                broken.append(BrokenRule(name, rule, tuple(range(1, frame.height + 1)), ()))
            typed[name] = pl.Series(name, [None] * frame.height, dtype=dtype)
            continue
        cells = frame[name]
        if _widens(cells.dtype, dtype):
            cells = cells.cast(dtype)
            whole = whole.with_columns(cells)
        elif cells.dtype != dtype or name in texts:
            cells, rule = _misfits(cells, dtype, texts.get(name))
            broken.append(rule)
        typed[name] = cells.fill_nan(None) if cells.dtype.is_float() else cells
    return whole, pl.DataFrame(typed), broken


def _misfits(cells: pl.Series, dtype: Any, text: pl.Series | None) -> tuple[pl.Series, BrokenRule]:
    """The cells that fit `dtype`, the others null; and the rule that those break: all cells when one cannot tell which."""
    castable = cells.dtype.is_numeric() or cells.dtype == pl.String
    if text is not None:
        wrong = cells.is_not_null() & (~text if dtype == pl.String else text)
        fitting = cells.to_frame().select(pl.when(~wrong).then(cells).cast(dtype, strict=False)).to_series()
        given = "number" if dtype == pl.String else "text"
        numbers = _numbers(wrong)
    else:
        empty = pl.Series(cells.name, [None] * len(cells), dtype=dtype)
        fitting = cells.cast(dtype, strict=False) if castable else empty
        given = str(cells.dtype)
        numbers = _numbers(fitting.is_null() & cells.is_not_null()) or tuple(range(1, len(cells) + 1))
    rule = f"type {given}, not {dtype}; {_type_advice(cells.dtype, dtype)}"
    return fitting.rename(cells.name), BrokenRule(cells.name, rule, numbers, _examples(cells, numbers))


def _widens(given: pl.DataType, wanted: pl.DataType) -> bool:
    numbers = given.is_integer() or (given.is_float() and wanted.is_float())
    return given != wanted and (given == pl.Null or (numbers and wanted in (pl.Float64, pl.Int64)))


def _type_advice(given: pl.DataType, wanted: pl.DataType) -> str:
    if given.is_nested():
        return "rows are flat: join a list into one text, with line breaks between"
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
