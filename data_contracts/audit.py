"""Checks on a set of rows that no single row can break: lengths, shares, leaks, and what a shortcut could learn.

Every check carries its number, its limit and one of three verdicts. The recipe says what to look at (`rows.audited`);
nothing here knows a recipe by name.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING

import polars as pl

from data_contracts import markers
from data_contracts.consistency import trace_agrees
from data_contracts.coverage import coverage
from data_contracts.errors import ContractError
from data_contracts.limits import Limits
from data_contracts.shortcuts import SAMPLE_ROWS, SEED, length_independence, surface_shortcuts
from data_contracts.similarity import identical_inputs, largest_similarity, normalised_inputs, repeats
from data_contracts.verdict import Check, check, report

if TYPE_CHECKING:
    import numpy as np

SHOWN_ROWS = 5

LEAKS = (
    ("traces with a raw marker such as <|channel|>", markers.RAW_MARKERS),
    ("traces with a stripped marker such as assistantfinal", markers.STRIPPED_MARKERS),
    ("traces with a second think tag", markers.THINK_TAGS),
)


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

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._n_rows = 0
        self._counts: Counter[str] = Counter()
        self._ends: tuple[int, int] | None = None
        """Characters of the shortest and the longest trace."""
        self._short, self._long = _Hits(), _Hits()
        self._leaks = {name: _Hits() for name, _ in LEAKS}
        self._hashes: list[np.ndarray] = []
        self._numbers: list[np.ndarray] = []
        self._cases: Counter[tuple] = Counter()
        self._sample = _Reservoir(SAMPLE_ROWS)

    def add(self, view: pl.DataFrame) -> None:
        """Count some rows: what `rows.audited` gives, and the number of each in `row`."""
        if not view.height:
            return
        self._n_rows += view.height
        self._add_traces(view)
        self._counts.update(_counts(view))
        self._cases.update(_cases(view, self.limits))
        self._hashes.append(normalised_inputs(view).hash(SEED).to_numpy())
        self._numbers.append(view["row"].cast(pl.UInt32).to_numpy())
        self._sample.add(view.filter(~pl.col("malformed").fill_null(False)))

    def checks(self) -> list[Check]:
        """Every set-level check of what was added."""
        limits, sample = self.limits, self._sample.rows()
        sample = _no_rows(limits) if sample is None else sample
        return [
            check(
                "rows",
                self._n_rows,
                ">=",
                limits.min_rows,
                unit="rows",
                fix="Add rows, or name the right limits profile",
            ),
            *self._trace_lengths(),
            *length_independence(sample, limits),
            *surface_shortcuts(sample, limits),
            *self._noise(),
            *self._signs(),
            *coverage(_expanded(self._cases), limits),
            *self._leaked(),
            *trace_agrees(sample, limits),
            self._repeated_inputs(),
            *repeats(sample, limits),
            report(
                "rows of the seeded sample",
                sample.height or None,
                unit="rows",
                detail=f"of {self._counts['well_formed']:,} well-formed rows; correlations, shortcuts, agreement of trace "
                "and answer and near-duplicates are measured on it, all else on every row",
            ),
        ]

    def _add_traces(self, view: pl.DataFrame) -> None:
        traces = view.select("row", "trace", chars=pl.col("trace").str.len_chars())
        low, high = traces["chars"].min(), traces["chars"].max()
        if low is not None and high is not None:
            before = self._ends or (low, high)
            self._ends = (min(before[0], low), max(before[1], high))
        self._short.add(traces, pl.col("chars") < self.limits.min_trace_chars)
        self._long.add(traces, pl.col("chars") > self.limits.max_trace_chars)
        for name, pattern in LEAKS:
            self._leaks[name].add(traces, pl.col("trace").str.contains(pattern))

    def _trace_lengths(self) -> list[Check]:
        limits = self.limits
        shortest, longest = self._ends or (None, None)
        fix = f"Rewrite these traces to one length in every class ({_limits_file(limits)} has the bounds)"
        return [
            check(
                f"{name} trace",
                measured,
                comparison,
                limit,
                unit="characters",
                detail=f"{outside.count:,} of {self._n_rows:,} rows outside{': ' if outside.count else ''}{outside.some('rows')}",
                fix=fix,
            )
            for name, measured, comparison, limit, outside in (
                ("shortest", shortest, ">=", limits.min_trace_chars, self._short),
                ("longest", longest, "<=", limits.max_trace_chars, self._long),
            )
        ]

    def _noise(self) -> list[Check]:
        low, high = self.limits.min_noise_fraction, self.limits.max_noise_fraction
        of, what, fix = self._counts["well_formed"], "well-formed rows", "Add or drop noise rows"
        return _share("noise fraction", self._counts["noise"], of, self.limits, low, high, what, fix)

    def _signs(self) -> list[Check]:
        low, high = self.limits.min_positive_fraction, self.limits.max_positive_fraction
        return [
            *_share(
                "YES-more-likely fraction",
                self._counts["positive"],
                self._counts["signed"],
                self.limits,
                low,
                high,
                "rows with a direction",
                "Ask some of the questions the other way round, or add rows of the rarer sign",
            ),
            *_share(
                "fraction of rows where metric and YES move apart",
                self._counts["apart"],
                self._counts["both_move"],
                self.limits,
                self.limits.min_disagreeing_fraction,
                None,
                "rows in which both move",
                "Add rows such as 'Fed cuts rates' with 'Will the Fed cut?': only they show the sign flip",
            ),
        ]

    def _leaked(self) -> list[Check]:
        fix = "Cut the trace out of the raw answer again; do not delete the marker by hand, what follows it is no trace"
        return [
            check(name, hits.count, "==", 0, unit="rows", detail=hits.some("rows"), fix=fix, enough=self._n_rows > 0)
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
            detail=_some("rows", again),
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
    """At most `size` rows of all that were added, each with the same chance; the same ones whatever the parts were."""

    def __init__(self, size: int) -> None:
        import numpy as np

        self._size = size
        self._random = np.random.default_rng(SEED)
        self._kept: pl.DataFrame | None = None

    def add(self, view: pl.DataFrame) -> None:
        lot = pl.Series("__lot", self._random.random(view.height))
        drawn = view.with_columns(lot)
        if self._kept is not None:
            if self._kept.height == self._size:
                drawn = drawn.filter(pl.col("__lot") < self._kept["__lot"].max())
            if not drawn.height:
                return
        drawn = drawn.bottom_k(self._size, by="__lot")
        # A filtered column of text holds on to the whole text it came from: copied cell by cell, the batch is let go.
        drawn = pl.DataFrame(drawn.rows(), schema=drawn.schema, orient="row")
        both = drawn if self._kept is None else pl.concat([self._kept, drawn], how="vertical_relaxed")
        self._kept = both.bottom_k(self._size, by="__lot")

    def rows(self) -> pl.DataFrame | None:
        return None if self._kept is None else self._kept.drop("__lot").sort("row")


def _counts(view: pl.DataFrame) -> dict[str, int]:
    well_formed = ~pl.col("malformed").fill_null(False)
    signed = well_formed & (pl.col("sign") != 0)
    both = signed & (pl.col("metric_sign") != 0)
    rules = {
        "well_formed": well_formed,
        "noise": well_formed & pl.col("noise"),
        "signed": signed,
        "positive": signed & (pl.col("sign") > 0),
        "both_move": both,
        "apart": both & (pl.col("sign") == -pl.col("metric_sign")),
    }
    return view.select(rule.fill_null(False).sum().alias(name) for name, rule in rules.items()).row(0, named=True)


_CASE = ("malformed", "noise", "sign", "metric_sign", "kind")


def _cases(view: pl.DataFrame, limits: Limits) -> dict[tuple, int]:
    """How many rows there are of each case that `coverage` tells apart; a size only says on which side of its limits it
    is, so that the cases are few whatever the number of rows."""
    size = (
        pl.when(pl.col("size") <= limits.small_size)
        .then(pl.lit(limits.small_size))
        .when(pl.col("size") >= limits.large_size)
        .then(pl.lit(limits.large_size))
        .when(pl.col("size").is_not_null())
        .then(pl.lit((limits.small_size + limits.large_size) / 2))
    )
    counted = view.group_by(*_CASE, size=size).len()
    return {tuple(row[:-1]): row[-1] for row in counted.rows()}


def _expanded(cases: Counter[tuple]) -> pl.DataFrame:
    """The cases as a view again, one row for each row that was counted: `coverage` counts rows."""
    schema = {"malformed": pl.Boolean, "noise": pl.Boolean, "sign": pl.Int8, "metric_sign": pl.Int8, "kind": pl.String}
    frame = pl.DataFrame(list(cases), schema={**schema, "size": pl.Float64}, orient="row")
    times = pl.Series(list(cases.values()), dtype=pl.UInt32)
    return frame[pl.int_range(frame.height, eager=True, dtype=pl.UInt32).repeat_by(times).explode().drop_nulls()]


def _no_rows(limits: Limits) -> pl.DataFrame:
    """The audit's view of a table without rows."""
    columns = import_module(f"data_contracts.{limits.recipe}.rows").ROWS.to_schema().columns
    empty = pl.DataFrame(schema={name: column.dtype.type for name, column in columns.items()})
    return view_of(empty, limits).with_row_index("row", offset=1)


def audit_splits(train: pl.DataFrame, heldout: pl.DataFrame, limits: Limits) -> list[Check]:
    """Whether held-out inputs are new to a model that saw `train`: none identical, and none nearly so.

    Raises:
        ContractError: a column that the audit looks at is missing.
    """
    inputs, new_inputs = (normalised_inputs(view_of(one, limits)) for one in (train, heldout))
    enough = bool(len(inputs) and len(new_inputs))
    same = identical_inputs(inputs, new_inputs)
    nearest, detail = largest_similarity(inputs, new_inputs) if enough else (None, "no rows to compare")
    limit, name = limits.max_input_similarity_fraction, "largest similarity of a held-out input with a training input"
    fix = f"Drop these rows from one of the two splits ({_limits_file(limits)} has the limit)"
    return [
        check(
            "held-out inputs that are also in training",
            len(same),
            "==",
            0,
            unit="rows",
            detail=_some("held-out rows", same) if enough else "no rows to compare",
            fix=fix,
            enough=enough,
        ),
        report(name, nearest, detail=f"{detail}; no limit: inputs are templated")
        if limit is None
        else check(name, nearest, "<=", limit, detail=detail, fix=fix, enough=enough),
    ]


def view_of(frame: pl.DataFrame, limits: Limits) -> pl.DataFrame:
    """What the recipe lets the audit look at, one row for each row of `frame`.

    Raises:
        ContractError: a column that the audit looks at is missing.
    """
    try:
        return import_module(f"data_contracts.{limits.recipe}.rows").audited(frame)
    except pl.exceptions.PolarsError as error:
        first = (str(error).splitlines() or [""])[0]
        raise ContractError(
            f"audit: the {frame.height:,} rows lack what the audit of {limits.recipe} looks at ({first}). "
            f"Found columns {', '.join(frame.columns) or 'none'}. Run the row contract first and correct what it names."
        ) from None


def _limits_file(limits: Limits) -> str:
    return f"data_contracts/{limits.recipe}/limits.yaml, {limits.profile}"


def _some(what: str, numbers: list[int]) -> str:
    return (
        f"{what} {', '.join(map(str, numbers[:SHOWN_ROWS]))}{', ...' if len(numbers) > SHOWN_ROWS else ''}"
        if numbers
        else ""
    )


def _share(
    name: str, hits: int, of: int, limits: Limits, low: float | None, high: float | None, what: str, fix: str
) -> list[Check]:
    fraction = round(hits / of, 6) if of else None
    bounds = [(">=", low), ("<=", high)]
    return [
        check(
            f"{name} ({'at least' if comparison == '>=' else 'at most'})",
            fraction,
            comparison,
            limit,
            detail=f"{hits:,} of {of:,} {what}",
            fix=f"{fix} ({_limits_file(limits)})",
            enough=of >= limits.min_audit_rows // 2,
        )
        for comparison, limit in bounds
        if limit is not None
    ]
