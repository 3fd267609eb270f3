"""What a table or a file breaks of its row contract: counted, shown as a table, and written out row by row.

Row numbers count from 1, as the lines of a .jsonl file do. No function here knows a recipe by name.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Protocol

import polars as pl

from data_contracts.rows.cells import writable
from data_contracts.verdict import Check, check

SHOWN_EXAMPLES = 3
SHOWN_VALUE_CHARS = 28


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

    @property
    def recipe(self) -> str: ...
    @property
    def n_rows(self) -> int: ...
    @property
    def n_rejected(self) -> int: ...
    @property
    def broken(self) -> tuple[BrokenRule, ...] | tuple[RuleCount, ...]: ...


@dataclass(frozen=True)
class RowFindings:
    """A table beside its contract. `frame` is the table, each column in the contract's type when all its cells fit (1 becomes
    1.0)."""

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
        return [one_check(self)]


def one_check(found: Findings) -> Check:
    """All broken rules as one check, for a manifest."""
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


def free_name(name: str, taken: Collection[str]) -> str:
    """The name, with as many underscores behind it as no other column has."""
    while name in taken:
        name += "_"
    return name


def _rejected(findings: RowFindings, numbers: pl.Series) -> pl.DataFrame:
    frame, reasons = findings.frame, findings.reasons
    places = [row - 1 for row in reasons]
    told = pl.DataFrame(
        [
            numbers.gather(places).alias("row"),
            pl.Series("reasons", list(reasons.values()), dtype=pl.List(pl.String)),
        ]
    )
    taken = {name: free_name(name, frame.columns) for name in told.columns if name in frame.columns}
    return told.hstack(writable(frame[places]).rename(taken))
