"""Checks on a set of rows that no single row can break: lengths, leaks, repeats, and what a shortcut could learn.

Every check carries its number, its limit and one of three verdicts. The recipe says what to look at (`rows.audited`) and
which family of limits adds further checks (`rows.LIMITS`); nothing here knows a recipe by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple, Protocol

import polars as pl

from data_contracts.audit import assessment, writing
from data_contracts.audit.content_order import by_content, content_lots
from data_contracts.audit.guessing import SEED
from data_contracts.audit.heldout_search import HeldoutSearch
from data_contracts.audit.overlap import file_checks, some, split_checks
from data_contracts.audit.shortcuts import MALFORMED_ROWS, SAMPLE_ROWS, length_independence, surface_shortcuts
from data_contracts.audit.similarity import normalised, repeats
from data_contracts.errors import ConfigError, ContractError
from data_contracts.limits import AssessmentLimits, Limits, WritingLimits
from data_contracts.paths import CONTRACTS_FOLDER
from data_contracts.prompting import markers
from data_contracts.rows.rows_file import read_rows
from data_contracts.verdict import Check, Comparison, check, report

if TYPE_CHECKING:
    import numpy as np

SHOWN_ROWS = 5

LEAKS = {
    "a raw marker such as <|channel|>": markers.RAW_MARKERS,
    "a stripped marker such as assistantfinal": markers.STRIPPED_MARKERS,
}


class Tally(Protocol):
    """Counts of a set that comes in parts, and the checks that a family makes of them."""

    def add(self, view: pl.DataFrame) -> None: ...
    def checks(self, sample: pl.DataFrame) -> list[Check]: ...


class Family(NamedTuple):
    """The checks that a family of limits adds to those of every set."""

    limits: type[Limits]
    tally: Callable[..., Tally]
    """Makes the checks; called with the limits."""
    columns: tuple[str, ...]
    """What the view must hold for them."""
    sampled: str
    """What is measured on the sample."""


FAMILIES = {
    one.limits.family: one
    for one in (
        Family(AssessmentLimits, assessment.AssessmentTally, assessment.COLUMNS, assessment.SAMPLED),
        Family(WritingLimits, writing.WritingTally, writing.COLUMNS, writing.SAMPLED),
    )
}


def families_of(limits: Limits) -> list[Family]:
    """The families whose checks these limits ask for.

    Raises:
        ConfigError: a limit belongs to no family whose checks are made, so nothing would look at it.
    """
    found = [FAMILIES[limits.family]] if limits.family in FAMILIES else []
    known = set(Limits.model_fields).union(*(one.limits.model_fields for one in found))
    if unread := sorted(set(type(limits).model_fields) - known):
        raise ConfigError(
            f"audit: no check reads {', '.join(unread)} of {type(limits).__name__} ({limits.where}). "
            f"Known families: {', '.join(one.limits.__name__ for one in FAMILIES.values())}. Name one as LIMITS in rows.py."
        )
    return found


def audit_rows(frame: pl.DataFrame, limits: Limits) -> list[Check]:
    """Every set-level check of one table.

    Raises:
        ContractError: a column that the audit looks at is missing; `contract.check_rows` tells more.
    """
    tally = SetTally(limits)
    tally.add(view_of(frame, limits).with_row_index("row", offset=1))
    return tally.checks()


class SetTally:
    """A set of rows that comes in parts: exact counts, and a seeded sample for what only a sample can tell.

    Memory does not follow the number of rows, but for 12 bytes a row: a 64-bit hash of the input and the row's number, by
    which identical inputs are found. Two different inputs among a million share a hash with a chance of 3 in 10^8.
    """

    def __init__(self, limits: Limits, heldout: pl.DataFrame | None = None) -> None:
        """`heldout`: rows of which the set must hold no copy."""
        self.limits = limits
        self._search = None if heldout is None else HeldoutSearch(view_of(heldout, limits), limits)
        self._families = [one.tally(limits) for one in families_of(limits)]
        self._n_rows = 0
        self._n_well_formed = 0
        self._ends: tuple[int, int] | None = None
        """Characters of the shortest and the longest text."""
        self._short, self._long = _Hits(), _Hits()
        self._patterns = {**LEAKS, limits.leaked_tag: markers.THINK_TAGS}
        self._leaks = {name: _Hits() for name in self._patterns}
        self._hashes: list[np.ndarray] = []
        self._numbers: list[np.ndarray] = []
        self._sample, self._malformed = _Reservoir(SAMPLE_ROWS), _Reservoir(MALFORMED_ROWS)

    def add(self, view: pl.DataFrame) -> None:
        """Count some rows: what `rows.audited` gives, and the number of each in `row`."""
        if not view.height:
            return
        malformed = pl.col("malformed").fill_null(False)
        well_formed = view.filter(~malformed)
        self._n_rows += view.height
        self._n_well_formed += well_formed.height
        self._add_texts(view)
        for family in self._families:
            family.add(view)
        self._hashes.append(normalised(view).hash(SEED).to_numpy())
        self._numbers.append(view["row"].cast(pl.UInt32).to_numpy())
        self._sample.add(well_formed)
        self._malformed.add(view.filter(malformed))
        if self._search is not None:
            self._search.add(view)

    def checks(self) -> list[Check]:
        """Every set-level check of what was added."""
        limits, sample = self.limits, self._sampled_rows()
        malformed = self._malformed.rows()
        both = sample if malformed is None else pl.concat([sample, malformed], how="vertical_relaxed").sort("row")
        return [
            check(
                "rows",
                self._n_rows,
                ">=",
                limits.min_rows,
                unit="rows",
                fix="Add rows, or name the right limits profile",
            ),
            *self._text_lengths(),
            *length_independence(by_content(both), limits),
            *surface_shortcuts(by_content(both), limits),
            *self._leaked(),
            self._repeated_inputs(),
            *repeats(sample, limits),
            *self._family_checks(sample),
            report(
                "rows of the seeded sample",
                sample.height or None,
                unit="rows",
                detail=f"of {self._n_well_formed:,} well-formed rows; correlations, shortcuts, {self._sampled()} and "
                "near-duplicates are measured on it, all else on every row",
            ),
        ]

    def heldout_checks(self) -> list[Check]:
        """What was added, beside the held-out rows, copies of which were looked for in all of it."""
        if self._search is None:
            return []
        heldout = self._search.heldout
        same = self._rows_like(normalised(heldout))
        return file_checks(same, self._sampled_rows(), heldout, self._search, self.limits)

    def _sampled_rows(self) -> pl.DataFrame:
        sample = self._sample.rows()
        return _no_rows(self.limits) if sample is None else sample

    def _rows_like(self, inputs: pl.Series) -> list[int]:
        """Numbers of the rows whose input has the hash of one of these."""
        import numpy as np

        if not self._hashes:
            return []
        known = np.isin(np.concatenate(self._hashes), inputs.hash(SEED).to_numpy())
        return np.sort(np.concatenate(self._numbers)[known]).tolist()

    def _family_checks(self, sample: pl.DataFrame) -> list[Check]:
        """The checks of each declared family; one that makes none is our own bug, never a passed audit."""
        found = []
        for family in self._families:
            checks = family.checks(sample)
            if not checks:
                raise RuntimeError(f"{type(family).__name__} made no check on {self._n_rows} rows")
            found += checks
        return found

    def _sampled(self) -> str:
        return ", ".join(one.sampled for one in families_of(self.limits)) or "lengths"

    def _add_texts(self, view: pl.DataFrame) -> None:
        texts = view.select("row", text=self.limits.text).with_columns(chars=pl.col("text").str.len_chars())
        low, high = texts["chars"].min(), texts["chars"].max()
        if isinstance(low, int) and isinstance(high, int):
            before = self._ends or (low, high)
            self._ends = (min(before[0], low), max(before[1], high))
        shortest, longest = self.limits.text_chars
        self._short.add(texts, pl.col("chars") < shortest)
        self._long.add(texts, pl.col("chars") > longest)
        for name, pattern in self._patterns.items():
            self._leaks[name].add(texts, pl.col("text").str.contains(pattern))

    def _text_lengths(self) -> list[Check]:
        limits, what = self.limits, self.limits.text
        shortest, longest = self._ends or (None, None)
        least, most = limits.text_chars
        fix = f"Rewrite these {what}s to one length in every class ({limits.where} has the bounds)"
        ends: list[tuple[str, int | None, Comparison, int, _Hits]] = [
            ("shortest", shortest, ">=", least, self._short),
            ("longest", longest, "<=", most, self._long),
        ]
        return [
            check(
                f"{name} {what}",
                measured,
                comparison,
                limit,
                unit="characters",
                detail=f"{outside.count:,} of {self._n_rows:,} rows outside{': ' if outside.count else ''}{outside.some('rows')}",
                fix=fix,
            )
            for name, measured, comparison, limit, outside in ends
        ]

    def _leaked(self) -> list[Check]:
        what = self.limits.text
        fix = f"Cut the {what} out of the raw answer again; do not delete the marker by hand, what follows it is no {what}"
        enough = self._n_rows > 0
        return [
            check(
                f"{what}s with {name}",
                hits.count,
                "==",
                0,
                unit="rows",
                detail=hits.some("rows"),
                fix=fix,
                enough=enough,
            )
            for name, hits in self._leaks.items()
        ]

    def _repeated_inputs(self) -> Check:
        again = self._repeated_rows()
        return check(
            "inputs that occur before in the same table",
            len(again),
            "==",
            0,
            unit="rows",
            detail=some("rows", again),
            fix="Drop the repeats: an input counted twice is learned twice, and may carry two answers",
            enough=self._n_rows > 0,
        )

    def _repeated_rows(self) -> list[int]:
        """Numbers of the rows whose input has the hash of an earlier one."""
        import numpy as np

        if not self._hashes:
            return []
        hashes, numbers = np.concatenate(self._hashes), np.concatenate(self._numbers)
        order = np.argsort(hashes, kind="stable")
        repeated = order[1:][hashes[order[1:]] == hashes[order[:-1]]]
        return np.sort(numbers[repeated]).tolist()


@dataclass
class _Hits:
    """How many rows something is true of, and the numbers of the first."""

    count: int = 0
    first: list[int] = field(default_factory=list)

    def add(self, rows: pl.DataFrame, rule: pl.Expr) -> None:
        found = rows.filter(rule.fill_null(False))["row"]
        self.count += len(found)
        self.first += found.head(SHOWN_ROWS - len(self.first)).to_list()

    def some(self, what: str) -> str:
        more = ", ..." if self.count > len(self.first) else ""
        return f"{what} {', '.join(map(str, self.first))}{more}" if self.count else ""


class _Reservoir:
    """At most `size` rows of all that were added, each with the same chance, drawn by their content: the same ones whatever the
    parts and the order of rows were."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: pl.DataFrame | None = None

    def add(self, view: pl.DataFrame) -> None:
        drawn = view.with_columns(content_lots(view).alias("__lot"))
        if self._kept is not None:
            if self._kept.height == self._size:
                drawn = drawn.filter(pl.col("__lot") <= self._kept["__lot"].max())
            if not drawn.height:
                return
        drawn = drawn.bottom_k(self._size, by=["__lot", "row"])
        # A filtered column of text holds on to the whole text it came from: copied cell by cell, the batch is let go.
        drawn = pl.DataFrame(drawn.rows(), schema=drawn.schema, orient="row")
        both = drawn if self._kept is None else pl.concat([self._kept, drawn], how="vertical_relaxed")
        self._kept = both.bottom_k(self._size, by=["__lot", "row"])

    def rows(self) -> pl.DataFrame | None:
        return None if self._kept is None else self._kept.drop("__lot").sort("row")


def _no_rows(limits: Limits) -> pl.DataFrame:
    """The audit's view of a table without rows."""
    columns = import_module(f"data_contracts.{limits.recipe}.rows").ROWS.to_schema().columns
    empty = pl.DataFrame(schema={name: column.dtype.type for name, column in columns.items()})
    return view_of(empty, limits).with_row_index("row", offset=1)


def audit_splits(train: pl.DataFrame, heldout: pl.DataFrame, limits: Limits) -> list[Check]:
    """Whether held-out rows are new to a model that saw `train`: no input identical, no input or learned text nearly so.

    Raises:
        ContractError: a column that the audit looks at is missing.
    """
    files = (CONTRACTS_FOLDER / limits.recipe / "examples" / f"{name}.jsonl" for name in ("heldout", "reference"))
    own = [view_of(read_rows(path), limits) for path in files if path.is_file()]
    return split_checks(
        view_of(train, limits),
        view_of(heldout, limits),
        limits,
        pl.concat(own, how="vertical_relaxed") if own else None,
    )


def view_of(frame: pl.DataFrame, limits: Limits) -> pl.DataFrame:
    """What the recipe lets the audit look at, one row for each row of `frame`.

    Raises:
        ContractError: a column that the audit looks at is missing.
        ConfigError: the recipe's view lacks what its family of limits looks at.
    """
    try:
        view = import_module(f"data_contracts.{limits.recipe}.rows").audited(frame)
    except pl.exceptions.PolarsError as error:
        first = (str(error).splitlines() or [""])[0]
        raise ContractError(
            f"audit: the {frame.height:,} rows lack what the audit of {limits.recipe} looks at ({first}). "
            f"Found columns {', '.join(frame.columns) or 'none'}. Run the row contract first and correct what it names."
        ) from None
    wanted = ["input", "source_batch", limits.text, limits.argument]
    wanted += [name for one in families_of(limits) for name in one.columns]
    if lacking := sorted(set(wanted) - set(view.columns)):
        raise ConfigError(
            f"audit: `audited` in data_contracts/{limits.recipe}/rows.py does not give {', '.join(lacking)}, which "
            f"{type(limits).__name__} looks at. Found {', '.join(view.columns)}. Add them to the view."
        )
    return view if "malformed" in view.columns else view.with_columns(malformed=pl.lit(False))
