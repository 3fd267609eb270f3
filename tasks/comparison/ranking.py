"""Which models of a comparison can be told apart, and the rank that follows; two that cannot be share one.

A pair is compared on the rows that both answered: the bootstrap interval of the mean difference, paired by row, must lie
beyond zero by more than both models' noise floors (how far each differs from itself when asked again). Few rows can mislead
the bootstrap: three that differ alike give an interval without width. So as many rows must differ as a two-sided sign test
needs before it can reach the interval's confidence, `2 * 0.5**n <= 1 - fraction`: six for 95 % (Conover, Practical
Nonparametric Statistics, 3.4).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from data_contracts.gates import RankedBy
from tasks.evaluation.survey import Scores
from tasks.measures.bootstrap import difference_interval, score_of

Reading = Literal["differ", "all but tied", "cannot tell"]


@dataclass(frozen=True)
class Ranked:
    """What ranking needs to know of one model."""

    name: str
    scores: Scores
    noise_floor: Mapping[str, float]
    """Metric -> mean change of a row's score when it is asked again; a metric that was not measured is absent."""


@dataclass(frozen=True)
class Pair:
    """Two models beside each other, by the metric that tells them apart, else by the first that says anything."""

    first: str
    second: str
    reading: Reading
    better: str | None
    """Whichever is better when they differ."""
    metric: str | None
    """None when no metric has a common row."""
    difference: float | None = None
    """Mean of first - second over `rows`."""
    low: float | None = None
    high: float | None = None
    noise_floor: float | None = None
    """Sum of both models' floors; None when one was not measured."""
    rows: int = 0
    """Rows that both were scored on."""
    rows_apart: int = 0
    """Rows on which their scores differ."""

    def turned(self) -> Pair:
        """The same, seen from the other side."""
        low, high, difference = (None if one is None else 0.0 - one for one in (self.high, self.low, self.difference))
        return replace(self, first=self.second, second=self.first, difference=difference, low=low, high=high)


def fewest_rows_apart(interval_fraction: float) -> int:
    """Rows that must differ before a difference can be believed; see the module's docstring."""
    return math.ceil(1 + math.log2(1 / (1 - interval_fraction)) - 1e-9)


def compare(first: Ranked, second: Ranked, ranking: Sequence[RankedBy], interval_fraction: float) -> Pair:
    """The pair by the first metric of `ranking` that tells the two apart."""
    found = [_by_metric(first, second, one, interval_fraction) for one in ranking]
    told = [pair for pair in found if pair.metric is not None] or found
    readings = ("differ", "all but tied", "cannot tell")
    return next(pair for reading in readings for pair in told if pair.reading == reading)


def _by_metric(first: Ranked, second: Ranked, by: RankedBy, interval_fraction: float) -> Pair:
    ours, theirs = first.scores.get(by.metric, []), second.scores.get(by.metric, [])
    found = difference_interval(ours, theirs, interval_fraction)
    if found is None:
        return Pair(first.name, second.name, "cannot tell", None, None)
    difference, low, high = found
    both = [(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None]
    apart = sum(a != b for a, b in both)
    floors = [one.noise_floor.get(by.metric) for one in (first, second)]
    known = [value for value in floors if value is not None]
    floor = sum(known) if len(known) == len(floors) else None
    needed = fewest_rows_apart(interval_fraction)
    reading: Reading = "all but tied"
    if floor is None or len(both) < needed:
        reading = "cannot tell"
    elif apart >= needed and (low > floor or high < -floor):
        reading = "differ"
    ahead = first if (difference > 0) == (by.best == "highest") else second
    better = ahead.name if reading == "differ" else None
    return Pair(
        first.name,
        second.name,
        reading,
        better,
        by.metric,
        difference,
        low,
        high,
        floor,
        rows=len(both),
        rows_apart=apart,
    )


@dataclass(frozen=True)
class Standing:
    """The ranked models, the best first."""

    order: list[str]
    ranks: dict[str, int | None]
    """1 + the number of models that are better beyond doubt; None for a model that could be compared with no other."""
    pairs: list[Pair]
    """Every two models, once."""

    def pair(self, one: str, other: str) -> Pair:
        """How `one` stands to `other`."""
        found = next(p for p in self.pairs if {p.first, p.second} == {one, other})
        return found if found.first == one else found.turned()

    @property
    def neighbours(self) -> list[Pair]:
        """Each model of the order beside the next."""
        return [self.pair(one, other) for one, other in zip(self.order, self.order[1:], strict=False)]


def rank(models: Sequence[Ranked], ranking: Sequence[RankedBy], interval_fraction: float) -> Standing:
    """Compare every two models, then count for each how many are better.

    Being all but tied does not carry over from pair to pair: a may be tied with b, b with c, and a still better than c. Then
    a and b share rank 1, and c is second.
    """
    pairs = [
        compare(one, other, ranking, interval_fraction) for i, one in enumerate(models) for other in models[i + 1 :]
    ]
    ranks: dict[str, int | None] = {}
    for one in models:
        mine = [pair for pair in pairs if one.name in (pair.first, pair.second)]
        told = [pair for pair in mine if pair.reading != "cannot tell"]
        better = sum(pair.better not in (None, one.name) for pair in told)
        ranks[one.name] = 1 + better if told or not mine else None

    def place(one: Ranked) -> tuple:
        means = [score_of(one.scores.get(by.metric, []), interval_fraction)["value"] for by in ranking]
        signs = [-1 if by.best == "highest" else 1 for by in ranking]
        worst = [math.inf if mean is None else sign * mean for mean, sign in zip(means, signs, strict=True)]
        return (ranks[one.name] or math.inf, *worst)

    return Standing([one.name for one in sorted(models, key=place)], ranks, pairs)
