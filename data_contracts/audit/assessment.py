"""Checks on a set whose rows assess an input: noise, signs, sizes, what a trace concludes, and which cases are there.

They belong to `AssessmentLimits`; audit.py asks for them when a recipe's rows.py names that family.
"""

from __future__ import annotations

from collections import Counter

import polars as pl

from data_contracts.audit.consistency import trace_agrees
from data_contracts.audit.coverage import coverage, spread_of_labels
from data_contracts.limits import AssessmentLimits
from data_contracts.verdict import Check, Comparison, check

COLUMNS = ("malformed", "noise", "sign", "metric_sign", "size", "kind")
"""What the audit's view must hold for these checks."""
SAMPLED = "the spread of labels, agreement of trace and answer"


class AssessmentTally:
    """Counts of a set that comes in parts."""

    def __init__(self, limits: AssessmentLimits) -> None:
        self.limits = limits
        self._counts: Counter[str] = Counter()
        self._cases: Counter[tuple] = Counter()

    def add(self, view: pl.DataFrame) -> None:
        """Count some rows."""
        self._counts.update(_counts(view))
        self._cases.update(_cases(view, self.limits))

    def checks(self, sample: pl.DataFrame) -> list[Check]:
        """Every check of this family; agreement of trace and answer is measured on the sample."""
        return [
            *self._noise(),
            *self._signs(),
            *coverage(_expanded(self._cases), self.limits),
            *spread_of_labels(sample, self.limits),
            *trace_agrees(sample, self.limits),
        ]

    def _noise(self) -> list[Check]:
        low, high = self.limits.min_noise_fraction, self.limits.max_noise_fraction
        of, what, fix = self._counts["well_formed"], "well-formed rows", "Add or drop noise rows"
        return _share("noise fraction", self._counts["noise"], of, self.limits, low, high, what, fix)

    def _signs(self) -> list[Check]:
        low, high, words = self.limits.min_positive_fraction, self.limits.max_positive_fraction, self.limits.words
        return [
            *_share(
                words.more_fraction,
                self._counts["positive"],
                self._counts["signed"],
                self.limits,
                low,
                high,
                words.signed_rows,
                words.balance,
            ),
            *_share(
                f"fraction of rows where {words.apart}",
                self._counts["apart"],
                self._counts["both_move"],
                self.limits,
                self.limits.min_disagreeing_fraction,
                None,
                "rows in which both move",
                words.add_apart,
            ),
        ]


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


def _cases(view: pl.DataFrame, limits: AssessmentLimits) -> dict[tuple, int]:
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


def _share(
    name: str, hits: int, of: int, limits: AssessmentLimits, low: float | None, high: float | None, what: str, fix: str
) -> list[Check]:
    fraction = round(hits / of, 6) if of else None
    bounds: list[tuple[Comparison, float | None]] = [(">=", low), ("<=", high)]
    return [
        check(
            f"{name} ({'at least' if comparison == '>=' else 'at most'})",
            fraction,
            comparison,
            limit,
            detail=f"{hits:,} of {of:,} {what}",
            fix=f"{fix} ({limits.where})",
            enough=of >= limits.min_audit_rows // 2,
        )
        for comparison, limit in bounds
        if limit is not None
    ]
