"""Rows against the row contract of a recipe: what is broken, where, and what to do about it.

Row numbers count from 1, as the lines of a .jsonl file do. No function here knows a recipe by name.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import polars as pl

from data_contracts.limits import Limits, load_limits
from data_contracts.rows.cells import fit, plain
from data_contracts.rows.findings import SHOWN_EXAMPLES, BrokenRule, RowFindings, RuleCount, one_check
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
    schema = column_types(recipe)
    optional = {name for name, column in _columns(recipe).items() if not column.required}
    whole, typed, structural = _typed(plain(frame), schema, optional, texts or {})
    doubtful: dict[str, set[int]] = {}
    for rule in structural:
        doubtful.setdefault(rule.column, set()).update(rule.rows)
    broken = [*_extra_columns(frame, schema), *structural]
    broken += _value_rules(_model(recipe), typed, doubtful) if frame.height else []
    return RowFindings(recipe, whole, typed, tuple(broken))


def _model(recipe: str) -> Any:
    return import_module(f"data_contracts.{recipe}.rows").ROWS


def column_types(recipe: str) -> dict[str, Any]:
    """Each column of the row contract, and the polars type of its cells."""
    return {name: column.dtype.type for name, column in _columns(recipe).items()}


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
    """The table with its numbers and texts in the contract's types where all cells of a column fit; the same as the contract
    types it; and the rules its columns break.

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
        if cells.dtype != dtype or name in texts:
            fitting, wrong = fit(cells, dtype, texts.get(name))
            for rule, mask in wrong.items():
                rows = _numbers(mask)
                broken.append(BrokenRule(name, rule, rows, _examples(cells, rows)))
            whole = whole if wrong else whole.with_columns(fitting)
            cells = fitting
        typed[name] = cells.fill_nan(None) if cells.dtype.is_float() else cells
    return whole, pl.DataFrame(typed), broken


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
    shown = rows[:SHOWN_EXAMPLES]
    return tuple(zip(shown, cells.gather([row - 1 for row in shown]).to_list(), strict=True))
