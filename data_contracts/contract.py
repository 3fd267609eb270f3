"""Rows against the row contract of a recipe: what is broken, where, and what to do about it.

Row numbers count from 1, as the lines of a .jsonl file do. No function here knows a recipe by name.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import IO, Any, Protocol

import polars as pl

from data_contracts.corrections import apply_corrections
from data_contracts.limits import Limits, load_limits
from data_contracts.rows_file import read_rows
from data_contracts.verdict import Check, check

__all__ = [
    "BrokenRule",
    "Findings",
    "RejectedRows",
    "RowFindings",
    "RowTally",
    "RuleCount",
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
    def n_rows(self) -> int:
        """How many rows break it."""
        return len(self.rows)

    @property
    def reason(self) -> str:
        """The rule as it is written beside a rejected row."""
        return f"{self.column}: {self.rule}"


@dataclass(frozen=True)
class RuleCount:
    """One rule, and how many rows of a whole file break it."""

    column: str
    rule: str
    """What is wrong; what to do."""
    n_rows: int
    examples: tuple[tuple[int, Any], ...]
    """The first few of them, with the value in `column`."""

    @property
    def reason(self) -> str:
        """The rule as it is written beside a rejected row."""
        return f"{self.column}: {self.rule}"


class Findings(Protocol):
    """What a table or a file has in common once it stands beside its contract."""

    recipe: str
    n_rows: int
    n_rejected: int
    broken: tuple[BrokenRule, ...] | tuple[RuleCount, ...]


@dataclass(frozen=True)
class RowFindings:
    """A table beside its contract. `frame` is the table, numbers widened to the contract's types (1 becomes 1.0)."""

    recipe: str
    frame: pl.DataFrame
    typed: pl.DataFrame
    """The columns of the contract, each of its type; a cell that does not fit is null."""
    broken: tuple[BrokenRule, ...]

    @property
    def passed(self) -> bool:
        """True when no rule is broken."""
        return not self.broken

    @property
    def n_rows(self) -> int:
        """Rows of the table."""
        return self.frame.height

    @property
    def n_rejected(self) -> int:
        """Rows that break a rule."""
        return len(self.reasons)

    @cached_property
    def reasons(self) -> dict[int, list[str]]:
        """All reasons of each rejected row, by its number."""
        found: dict[int, list[str]] = {}
        for rule in self.broken:
            for row in rule.rows:
                found.setdefault(row, []).append(rule.reason)
        return dict(sorted(found.items()))

    @property
    def keeps(self) -> pl.Series:
        """For each row, true when it breaks no rule."""
        bad = pl.Series([row - 1 for row in self.reasons], dtype=pl.UInt32)
        return pl.repeat(True, self.n_rows, dtype=pl.Boolean, eager=True).scatter(bad, False)

    @property
    def accepted(self) -> pl.DataFrame:
        """The rows that break no rule, in the contract's columns."""
        return self.typed.filter(self.keeps) if self.reasons else self.typed

    def checks(self) -> list[Check]:
        """The same as one check, for a manifest."""
        return [_one_check(self)]


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
        return [_one_check(self)]


def _one_check(found: Findings) -> Check:
    broken = found.broken
    detail = "; ".join(f"{rule.reason} ({_count(rule)})" for rule in broken[:SHOWN_EXAMPLES])
    return check(
        "broken rules of the row contract",
        len(broken),
        "==",
        0,
        detail=f"{found.n_rejected:,} of {found.n_rows:,} rows rejected{detail and ': ' + detail}",
        fix=f"Correct the rows, or the rule in data_contracts/{found.recipe}/rows.py",
    )


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


def format_table(findings: Findings, path: Path | str = "", rejected_path: Path | str = "") -> str:
    """The findings for people: a headline with counts, one aligned line for each broken rule, where to look next."""
    broken, total = findings.broken, findings.n_rows
    where = f"   ({path})" if path else ""
    contract = f"data_contracts/{findings.recipe}/rows.py"
    if not broken:
        return f"{findings.recipe} rows: all {total:,} rows keep {contract}{where}"
    rules = f"{len(broken)} {'rule' if len(broken) == 1 else 'rules'}"
    head = f"{findings.recipe} rows: {rules} broken in {findings.n_rejected:,} of {total:,} rows{where}"
    wide_column, wide_rule = (max(len(getattr(rule, name)) for rule in broken) for name in ("column", "rule"))
    lines = [f"  {one.column:<{wide_column}}  {one.rule:<{wide_rule}}  {_count(one, total)}".rstrip() for one in broken]
    rejected = f"   all broken rows: {rejected_path}" if rejected_path else ""
    return "\n".join([head, *lines, f"  contract: {contract}{rejected}"])


def _count(rule: BrokenRule | RuleCount, total: int = -1) -> str:
    if not rule.n_rows:
        return ""
    if rule.n_rows == total and not rule.examples:
        return f"all {total:,} rows"
    shown = ", ".join(f"{row}{_short(value)}" for row, value in rule.examples)
    return f"{rule.n_rows:,} {'row' if rule.n_rows == 1 else 'rows'}{shown and ', e.g. ' + shown}"


def _short(value: Any) -> str:
    text = repr(value)
    return "" if value is None or len(text) > SHOWN_VALUE_CHARS else f" ({text})"


def write_rejected(findings: RowFindings, path: Path | str) -> int:
    """Write each rejected row with `row` (its number) and `reasons` (all of them) to a .jsonl; return how many."""
    with RejectedRows(path) as rejected:
        rejected.add(findings, pl.int_range(1, findings.n_rows + 1, dtype=pl.UInt32, eager=True))
    return findings.n_rejected


class RejectedRows:
    """A .jsonl of rejected rows that is written aside as they come and renamed into place at the end.

    Without any, or after an error, there is no file, and none of an earlier run either.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._aside = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        self._file: IO[bytes] | None = None

    def add(self, findings: RowFindings, numbers: pl.Series) -> None:
        """Write the rejected rows of one batch; `numbers` are the numbers of its rows in the file."""
        if not findings.reasons:
            return
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._aside.open("wb")
        _rejected(findings, numbers).write_ndjson(self._file)

    def __enter__(self) -> RejectedRows:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._file is not None:
            self._file.close()
        if self._file is None or kind is not None:
            for one in (self._aside, self.path):
                one.unlink(missing_ok=True)
        else:
            self._aside.replace(self.path)


def _rejected(findings: RowFindings, numbers: pl.Series) -> pl.DataFrame:
    frame, reasons = findings.frame, findings.reasons
    places = [row - 1 for row in reasons]
    mine = ("row", "reasons")
    return pl.DataFrame(
        [
            numbers.gather(places).alias("row"),
            pl.Series("reasons", list(reasons.values()), dtype=pl.List(pl.String)),
        ]
    ).hstack(frame.rename({name: f"{name}_" for name in mine if name in frame.columns})[places])
