"""A panel's verdicts made into a board: points, coverage, ranks, intervals, findings. Pure numbers, no file, no network.

    final = 100 * (0.6 * judge_mean / top + 0.4 * gate_pass_rate)       seed story "proofkit"; top is 5 on a scale 1 to 5

Each judge gives one such number for a model, its column; the average is that of the columns. NaN is *unscored* and is
left out everywhere; no number stands in for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations, pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

JUDGE_SHARE, GATE_SHARE = 0.6, 0.4
"""Weights of the two layers in the final score (seed story "proofkit")."""
RESAMPLES = 2000
"""Bootstrap resamples of the prompts."""
LEAST_PROMPTS = 6
"""Fewest prompts on which a difference, or an interval, is told: six of one sign come about by chance once in thirty-two;
prompts drawn again from one give an interval of no width."""
EQUAL = 1e-9
"""Numbers closer than this are the same number, added up in another order."""
COMPETITOR, YARDSTICK, FLOOR = "competitor", "yardstick", "floor"


@dataclass(frozen=True)
class Limits:
    """What a board needs before it says anything."""

    min_coverage_fraction: float = 0.8
    """Least share of a model's scores that each judge must have given."""
    max_coverage_gap_fraction: float = 0.1
    """How far a model's coverage may lie below the best one's of the same judge: what fails is rarely a random sample."""
    tie_points: float = 1.0
    """Averages closer than this, of models that the judges do not agree on, are called all but tied. The story calls 0.1
    points a tie and 1.6 points a difference."""
    interval_fraction: float = 0.95
    """Coverage of the bootstrap intervals."""
    min_judges: int = 2
    """Fewest judges of different families that must agree: one judge is one opinion."""


@dataclass(frozen=True)
class Panel:
    """Everything that a board is computed from."""

    judges: tuple[str, ...]
    families: tuple[str, ...]
    """Family of each judge."""
    models: tuple[str, ...]
    roles: tuple[str, ...]
    """competitor, yardstick or floor, for each model."""
    scores: np.ndarray
    """(judges, models, prompts, criteria), float64, on the rubric's scale; NaN where unscored."""
    gates: np.ndarray
    """(models, prompts), float64: share of its gates that an answer passes; NaN where no gate says anything."""
    top: float
    """Highest level of the rubric."""
    limits: Limits = field(default_factory=Limits)
    seed: int = 0

    @cached_property
    def answers(self) -> np.ndarray:
        """(judges, models, prompts): mean over the criteria that were scored."""
        return mean_of(self.scores, axis=3)

    @cached_property
    def coverage(self) -> np.ndarray:
        """(judges, models): share of the scores that were given."""
        import numpy as np

        return np.isfinite(self.scores).mean(axis=(2, 3))

    @cached_property
    def covered(self) -> np.ndarray:
        """(judges, models), bool: the judge scored enough of the model."""
        return self.coverage >= self.limits.min_coverage_fraction - EQUAL

    @cached_property
    def judge_means(self) -> np.ndarray:
        """(judges, models), on the rubric's scale."""
        return mean_of(self.answers, axis=2)

    @cached_property
    def gate_rates(self) -> np.ndarray:
        """(models,): mean share of gates passed, 0..1."""
        return mean_of(self.gates, axis=1)

    @cached_property
    def counting(self) -> tuple[int, ...]:
        """Judges that cover at least half of the models well enough; the others' columns are shown, and not averaged."""
        enough = self.covered.mean(axis=1)
        return tuple(int(one) for one in range(len(self.judges)) if enough[one] >= 0.5)

    @cached_property
    def ranked(self) -> tuple[int, ...]:
        """Models that every counting judge covers well enough, and nearly as well as its best-covered one."""
        import numpy as np

        if not self.counting:
            return ()
        some = self.coverage[list(self.counting)]
        gap = self.limits.max_coverage_gap_fraction
        least = np.maximum(self.limits.min_coverage_fraction, some.max(axis=1, keepdims=True) - gap)
        known = (some >= least - EQUAL).all(axis=0)
        if self.gated:
            known &= np.isfinite(self.gate_rates)
        return tuple(int(one) for one in np.flatnonzero(known))

    @cached_property
    def gated(self) -> bool:
        """Whether the gates say anything about any model; when not, only the judges' half is known, and no final score."""
        import numpy as np

        return bool(np.isfinite(self.gates).any())

    @cached_property
    def columns(self) -> np.ndarray:
        """(judges, models): points 0..100 of each model under each judge alone."""
        return points(self.judge_means / self.top, self.gate_rates if self.gated else None)

    @cached_property
    def averages(self) -> np.ndarray:
        """(models,): mean of the counting judges' columns; NaN for a model without a rank."""
        import numpy as np

        found = np.full(len(self.models), np.nan)
        for model in self.ranked:
            found[model] = self.columns[list(self.counting), model].mean()
        return found

    @cached_property
    def picks(self) -> np.ndarray:
        """(resamples, prompts): how often each prompt is drawn."""
        import numpy as np

        prompts = self.gates.shape[1]
        rng = np.random.default_rng(self.seed)
        return rng.multinomial(prompts, np.full(prompts, 1 / prompts), size=RESAMPLES).astype(float)

    @cached_property
    def resampled(self) -> np.ndarray:
        """(resamples, judges, models): the columns over prompts drawn again, the same draw for all."""
        judged = resampled_means(self.answers, self.picks) / self.top
        return points(judged, resampled_means(self.gates, self.picks)[:, None] if self.gated else None)

    def order(self) -> list[int]:
        """Models with a number, the best first; equal ones in the order of the table."""
        places = places_of(self.averages, self.ranked)
        return sorted(self.ranked, key=places.__getitem__)

    def ranks(self) -> list[int | None]:
        """Place of each model; None without enough coverage, and for a yardstick, which does not compete."""
        places = places_of(self.averages, [model for model in self.ranked if self.roles[model] != YARDSTICK])
        return [places.get(model) for model in range(len(self.models))]

    def firsts(self, judge: int) -> list[int]:
        """What a judge puts first, of the models that it covers: several models when their points are equal."""
        import numpy as np

        known = np.flatnonzero(self.covered[judge] & np.isfinite(self.columns[judge])).tolist()
        return [model for model, place in places_of(self.columns[judge], known).items() if place == 1]

    def interval(self, model: int, judge: int | None = None) -> tuple[float, float] | None:
        """Bootstrap interval over the prompts, of one judge's column or of the average; None when it cannot be told."""
        import numpy as np

        judges = list(self.counting) if judge is None else [judge]
        if not judges or (judge is None and model not in self.ranked):
            return None
        if np.isfinite(self.answers[judges, model]).sum(axis=1).min() < LEAST_PROMPTS:
            return None
        return ends_of(self.resampled[:, judges, model].mean(axis=1), self.limits.interval_fraction)

    def leads(self, judge: int) -> dict[tuple[int, int], float | None]:
        """Pair of ranked models -> points by which the first is ahead under one judge, 0.0 within the noise of the prompts;
        None when too few prompts tell.

        The noise is that of all pairs together: with eight models and the usual interval for each pair, one board in four
        of equal models had a finding. So a difference, in standard errors, must exceed the quantile of the largest such
        difference of any pair over prompts drawn again (the max statistic: Romano and Wolf 2005, step one), made as wide as
        Student's t is for so few prompts.
        """
        import numpy as np
        from scipy.stats import norm, t

        pairs = list(combinations(self.ranked, 2))
        apart = np.array([self._apart(judge, a, b) for a, b in pairs]).reshape(len(pairs), self.gates.shape[1])
        counts = np.isfinite(apart).sum(axis=1)
        mean = mean_of(apart, axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            error = np.sqrt(np.maximum(mean_of(apart**2, axis=1) - mean**2, 0.0) / counts)
            moved = np.abs(resampled_means(apart, self.picks) - mean) / np.where(error > 1e-9, error, np.inf)
            largest = np.quantile(np.nanmax(moved, axis=1, initial=0.0), self.limits.interval_fraction)
            errors = t.ppf(norm.cdf(largest), np.maximum(counts - 1, 1))  # as unlikely under Student's t
            reach = errors * error * np.sqrt(counts / (counts - 1))
            ahead = np.where(np.abs(mean) > np.maximum(np.nan_to_num(reach), 1e-9), mean, 0.0)
        return {
            pair: None if n < LEAST_PROMPTS else float(one) for pair, n, one in zip(pairs, counts, ahead, strict=True)
        }

    def _apart(self, judge: int, ours: int, theirs: int) -> np.ndarray:
        """(prompts,): points by which one model is ahead of another; NaN where either is unscored."""
        import numpy as np

        judged = 100 * (self.answers[judge, ours] - self.answers[judge, theirs]) / self.top
        if not self.gated:
            return judged
        gates = self.gates[ours] - self.gates[theirs]
        neither = np.isnan(self.gates[ours]) & np.isnan(self.gates[theirs])  # no gate looks at this prompt
        return JUDGE_SHARE * judged + GATE_SHARE * 100 * np.where(neither, 0.0, gates)

    def signs(self) -> dict[tuple[int, int], list[int | None]]:
        """Pair of ranked models -> what each counting judge says: 1 and -1 beyond the noise, 0 within it, None when it
        cannot tell."""
        import numpy as np

        leads = [self.leads(judge) for judge in self.counting]
        return {
            pair: [None if (one := found[pair]) is None else int(np.sign(one)) for found in leads]
            for pair in combinations(self.ranked, 2)
        }


def places_of(numbers: np.ndarray, models: Sequence[int]) -> dict[int, int]:
    """Model -> its place among these, the highest number first; equal numbers share a place."""
    return {one: 1 + sum(bool(numbers[other] > numbers[one] + EQUAL) for other in models) for one in models}


def points(judge_fraction: np.ndarray, gate_rates: np.ndarray | None) -> np.ndarray:
    """Points 0..100; of the judges alone where no gate is known. NaN wherever a part is."""
    if gate_rates is None:
        return 100 * judge_fraction
    return 100 * (JUDGE_SHARE * judge_fraction + GATE_SHARE * gate_rates)


@dataclass(frozen=True)
class Finding:
    """One thing that the panel says together, or says that it cannot."""

    kind: str
    """ceiling, above, tied, split or nothing."""
    sentence: str
    models: tuple[str, ...] = ()


def findings(panel: Panel) -> list[Finding]:
    """What all counting judges agree on beyond the noise of the prompts; then what is all but tied, and what splits them."""
    return findings_of(
        [panel.models[one] for one in panel.ranked],
        [float(panel.averages[one]) for one in panel.ranked],
        {(panel.ranked.index(a), panel.ranked.index(b)): said for (a, b), said in panel.signs().items()},
        [panel.families[one] for one in panel.counting],
        panel.limits,
        unranked=len(panel.models) - len(panel.ranked),
    )


def findings_of(
    models: Sequence[str],
    averages: Sequence[float],
    signs: dict[tuple[int, int], list[int | None]],
    families: Sequence[str],
    limits: Limits,
    *,
    unranked: int = 0,
) -> list[Finding]:
    """Findings from what each judge says of each pair of models (first index below the second).

    `unranked`: further models of the board of which too little is known; nothing is said to be above them.

    Judges that contradict each other beyond the noise are reported, however near the averages lie: m 100 and n 76 for one
    judge, 76 and 100 for the other, is a disagreement.
    """
    if len(set(families)) < limits.min_judges:
        told = (
            f"{len(families)} judge(s) of {len(set(families))} famil{'y' if len(set(families)) == 1 else 'ies'} counted"
        )
        return [Finding("nothing", f"No finding: {told}, and it takes {limits.min_judges}. One judge is one opinion.")]
    order = sorted(range(len(models)), key=lambda one: -averages[one])
    said = {**signs, **{(b, a): [None if s is None else -s for s in found] for (a, b), found in signs.items()}}
    above = {a: [b for b in order if b != a and all(s == 1 for s in said[a, b])] for a in order}
    found = _above_sentences(models, order, above, unranked)
    for a, b in pairwise(order):
        if b in above[a]:
            continue
        gap, pair = averages[a] - averages[b], (models[a], models[b])
        shown = f"{models[a]} ({averages[a]:.1f}) and {models[b]} ({averages[b]:.1f})"
        no_tie = _opposed(said[a, b]) or set(said[a, b]) == {None}
        if gap < limits.tie_points and not no_tie:
            found.append(Finding("tied", f"{shown} are all but tied.", pair))
        else:
            found.append(Finding("split", f"{shown}: no finding, {_split(said[a, b])}.", pair))
    return found


def _above_sentences(
    models: Sequence[str], order: Sequence[int], above: dict[int, list[int]], unranked: int
) -> list[Finding]:
    found = []
    for a in order:
        names = tuple(models[b] for b in above[a])
        if len(order) > 2 and len(names) == len(order) + unranked - 1:
            found.append(
                Finding("ceiling", f"{models[a]} is above every other model for every judge.", (models[a], *names))
            )
        elif names:
            listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
            found.append(Finding("above", f"{models[a]} is above {listed} for every judge.", (models[a], *names)))
    return found


def _opposed(signs: Sequence[int | None]) -> bool:
    return 1 in signs and -1 in signs


def _split(signs: Sequence[int | None]) -> str:
    """How the judges stand on a pair."""
    if set(signs) == {None}:
        return "too few prompts to tell"
    for_first, for_second = signs.count(1), signs.count(-1)
    if _opposed(signs):
        return f"the judges disagree ({for_first} to {for_second} of {len(signs)})"
    known = max(for_first, for_second)
    return f"{known} of {len(signs)} judges tell them apart"


def resampled_means(values: np.ndarray, picks: np.ndarray) -> np.ndarray:
    """(resamples, ...): mean over the last axis of `values`, prompts counted as often as they were drawn."""
    import numpy as np

    known = np.isfinite(values)
    flat = np.where(known, values, 0.0).reshape(-1, values.shape[-1])
    counts = picks @ known.reshape(-1, values.shape[-1]).T.astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = picks @ flat.T / counts
    return means.reshape(len(picks), *values.shape[:-1])


def ends_of(drawn: np.ndarray, fraction: float) -> tuple[float, float] | None:
    import numpy as np

    known = drawn[np.isfinite(drawn)]
    if not len(known):
        return None
    low, high = np.quantile(known, [(1 - fraction) / 2, (1 + fraction) / 2])
    return float(low), float(high)


def mean_of(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean of what is known; NaN, without a warning, where nothing is."""
    import numpy as np

    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0.0).sum(axis=axis) / known.sum(axis=axis)
