"""How far judges agree, and what sways them: alpha, tau, one judge left out, position, length, their own family.

Each number is None where too little is known: no agreement can be told from one judge, no bias from three answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from data_contracts.verdict import Check, check
from tasks.judging.panel import LEAST_PROMPTS, YARDSTICK, Panel, ends_of, places_of

if TYPE_CHECKING:
    import numpy as np

_LEAST_ANSWERS = 20
"""Fewest scored answers from which a bias is told; below, a rank correlation of 0.4 is nothing unusual."""
_LEAST_PAIRS = 8
"""Fewest comparisons of an answer with itself: with 8, four "first" in a row happen by chance once in sixteen."""
_FIRST_SHARE_OFF = 0.15
"""How far the share of "first" may lie from one half when an answer is compared with itself."""


def _level_counts(ratings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The levels in use, lowest first, and (units, levels): how many judges gave each."""
    import numpy as np

    levels = np.unique(ratings[np.isfinite(ratings)])
    return levels, (ratings[:, :, None] == levels).sum(axis=0).astype(float)


def _coincidences(counts: np.ndarray) -> np.ndarray:
    """(units, levels, levels): each unit's pairs of ratings, weighted so that a unit counts with its number of ratings."""
    import numpy as np

    per_unit = counts.sum(axis=1)
    pairs = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(counts.shape[1])
    return pairs / np.maximum(per_unit - 1, 1)[:, None, None] * (per_unit > 1)[:, None, None]


def _alpha(observed: np.ndarray) -> float | None:
    """Krippendorff's alpha for ordered levels, from one coincidence matrix (levels, levels).

    1 is perfect agreement, 0 what chance gives, below 0 systematic disagreement. None when no unit has two ratings, or when
    all ratings are equal: there is then nothing to disagree on.
    Source: K. Krippendorff, Computing Krippendorff's Alpha-Reliability (2011); the tests hold its example (0.815).
    """
    import numpy as np

    totals = observed.sum(axis=1)
    below = np.cumsum(totals) - totals / 2  # distance of two levels: how many ratings lie between their middles
    distance = (below[:, None] - below[None, :]) ** 2
    expected = (totals[:, None] * totals[None, :] * distance).sum()
    if totals.sum() < 2 or expected <= 0:
        return None
    return float(1 - (totals.sum() - 1) * (observed * distance).sum() / expected)


def agreement(panel: Panel) -> dict:
    """Alpha over all criteria and for each, with intervals over the prompts; Kendall's tau of each two judges' orders of
    models; what leaving one judge out changes."""
    import numpy as np

    counting = list(panel.counting)
    scores = panel.scores[counting] if counting else panel.scores[:0]
    return {
        "alpha": _alpha_with_interval(scores, panel),
        "alpha_by_criterion": [_alpha_with_interval(scores[..., c : c + 1], panel) for c in range(scores.shape[3])],
        "kendall_tau": [
            {
                "judges": [panel.judges[a], panel.judges[b]],
                "tau": _tau(panel.columns[a], panel.columns[b], panel.ranked),
            }
            for a, b in combinations(counting, 2)
        ],
        "without": [_without(panel, judge) for judge in counting if len(counting) > 1],
        "judges": len(counting),
        "levels_used": len(np.unique(scores[np.isfinite(scores)])),
    }


def _alpha_with_interval(scores: np.ndarray, panel: Panel) -> dict:
    """Alpha of (judges, models, prompts, criteria), and its interval over prompts drawn again."""
    import numpy as np

    judges, models, prompts, criteria = scores.shape
    unscored = {"value": None, "low": None, "high": None}
    if judges < 2:
        return unscored
    levels, counts = _level_counts(scores.transpose(0, 2, 1, 3).reshape(judges, -1))
    if len(levels) < 2:
        return unscored
    pairs = _coincidences(counts).reshape(prompts, models * criteria, len(levels), len(levels)).sum(axis=1)
    value = _alpha(pairs.sum(axis=0))
    drawn = np.einsum("rp,pab->rab", panel.picks, pairs)
    known = [one for one in map(_alpha, drawn) if one is not None]
    enough = np.count_nonzero(pairs.any(axis=(1, 2))) >= LEAST_PROMPTS
    ends = ends_of(np.array(known), panel.limits.interval_fraction) if enough else None
    return unscored if value is None else {"value": value, "low": ends and ends[0], "high": ends and ends[1]}


def _tau(ours: np.ndarray, theirs: np.ndarray, models: Sequence[int]) -> float | None:
    """Kendall's tau-b of two judges' points over the ranked models; None below three models or without any order."""
    import numpy as np
    from scipy.stats import kendalltau

    if len(models) < 3:
        return None
    found = float(kendalltau(*(np.round(some[list(models)], 9) for some in (ours, theirs))).statistic)  # ties are ties
    return found if np.isfinite(found) else None


def _without(panel: Panel, judge: int) -> dict:
    """The order of the models when one judge had not been asked."""
    left = [one for one in panel.counting if one != judge]
    averages = panel.columns[left].mean(axis=0)
    full, now = places_of(panel.averages, panel.ranked), places_of(averages, panel.ranked)
    moved = {panel.models[one]: [full[one], now[one]] for one in panel.order() if full[one] != now[one]}
    tau = _tau(panel.averages, averages, panel.ranked)
    first = " and ".join(panel.models[one] for one, place in now.items() if place == 1)
    return {"judge": panel.judges[judge], "tau": tau, "moved": moved, "first": first or None}


def rank_correlation_within(values: np.ndarray, against: np.ndarray, groups: np.ndarray) -> dict:
    """Rank correlation of two numbers of the same answers, with each group's own level taken out: {value, low, high, n}.

    Both are ranked inside each group and centred, then pooled: a model that is both better and longer shows nothing.
    The interval is Fisher's, with the standard error of Spearman's rho (Fieller, Hartley and Pearson 1957: 1.03).
    """
    import numpy as np
    from scipy.stats import rankdata

    known = np.isfinite(values) & np.isfinite(against)
    x, y = list[np.ndarray](), list[np.ndarray]()
    for group in np.unique(groups[known]):
        here = known & (groups == group)
        if here.sum() < 3:
            continue
        for side, some in ((x, values[here]), (y, against[here])):
            ranks = rankdata(some)
            side.append((ranks - ranks.mean()) / len(ranks))
    count = sum(map(len, x))
    unscored = {"value": None, "low": None, "high": None, "n": count}
    if count < _LEAST_ANSWERS:
        return unscored
    ours, theirs = np.concatenate(x), np.concatenate(y)
    size = np.sqrt((ours**2).sum() * (theirs**2).sum())
    if size == 0:
        return unscored
    value = float((ours * theirs).sum() / size)
    error = 1.96 * np.sqrt(1.06 / max(count - len(x) - 2, 1))
    middle = np.arctanh(np.clip(value, -0.999999, 0.999999))
    return {**unscored, "value": value, "low": float(np.tanh(middle - error)), "high": float(np.tanh(middle + error))}


def bias_check(name: str, found: dict, fix: str) -> Check:
    """Pass when the correlation's interval holds 0, fail when it does not, cannot tell when there is none."""
    if found["value"] is None:
        return check(name, None, "==", 0.0, detail=f"{found['n']} scored answers, or scores that never vary")
    away = max(found["low"], -found["high"], 0.0)
    detail = (
        f"rank correlation {found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f}) over {found['n']} answers"
    )
    return check(name, round(float(away), 4), "==", 0.0, detail=detail, fix=fix)


def first_share_check(shares: Sequence[float]) -> Check:
    """An answer compared with itself: how often the judge takes the first, "equal" counting half, must lie near 0.5."""
    name = "an answer against itself, distance from one half"
    if len(shares) < _LEAST_PAIRS:
        return check(name, None, "<=", _FIRST_SHARE_OFF, detail=f"{len(shares)} comparisons, {_LEAST_PAIRS} needed")
    share = sum(shares) / len(shares)
    detail = f"took the first {share:.2f} of the time in {len(shares)} comparisons"
    fix = "It prefers a place, not an answer: do not use it for comparisons"
    return check(name, round(abs(share - 0.5), 4), "<=", _FIRST_SHARE_OFF, detail=detail, fix=fix)


def swap_check(pairs: Sequence[tuple[float, float]]) -> Check:
    """Two answers in both orders: (share of the first answer, shown first; the same, shown second) must agree."""
    name = "comparisons that turn with the order of the answers"
    if len(pairs) < _LEAST_PAIRS:
        return check(name, None, "<=", 0.25, detail=f"{len(pairs)} pairs in both orders, {_LEAST_PAIRS} needed")
    turned = sum(one != other for one, other in pairs) / len(pairs)
    first = sum(one + (1 - other) for one, other in pairs) / (2 * len(pairs))
    detail = f"{len(pairs)} pairs; took the first {first:.2f} of the time"
    return check(
        name, round(turned, 4), "<=", 0.25, detail=detail, fix="Its word on close answers is a matter of place"
    )


def own_family(panel: Panel, judge: int, families: Sequence[str | None]) -> dict:
    """Whether a judge puts a model of its own family first, and how many points more than the others it gives the family.

    `families` of the models; None where it was not said. Of models that it puts first with equal points all must be of its
    family: the order of a table is no preference. The excess compares with the models, and the judges, of other families.
    """
    own, first = panel.families[judge], panel.firsts(judge)
    known = [m for m in range(len(panel.models)) if families[m] is not None and panel.covered[judge, m]]
    return {
        "family": own,
        "first": " and ".join(panel.models[m] for m in first) or None,
        "ranks_own_family_first": _all_own([families[m] for m in first], own),
        "first_is_yardstick": all(panel.roles[m] == YARDSTICK for m in first) if first else None,
        "own_family_models": [panel.models[m] for m in known if families[m] == own],
        "excess_points": _excess(panel, judge, {m: families[m] == own for m in known}),
    }


def judges_of_others(panel: Panel, judge: int) -> list[int]:
    """The counting judges of other families: one of the same family has the same reasons to prefer it."""
    return [one for one in panel.counting if panel.families[one] != panel.families[judge]]


def _all_own(families: Sequence[str | None], own: str) -> bool | None:
    """Whether all are of one's own family; None when nothing says so and nothing speaks against it."""
    if any(family not in (None, own) for family in families):
        return False
    return None if not families or None in families else True


def _excess(panel: Panel, judge: int, is_own: dict[int, bool]) -> float | None:
    """Points above the other judges that models of the own family get, over what the rest gets; only where all scored enough."""
    import numpy as np

    others = judges_of_others(panel, judge)
    gap = panel.columns[judge] - panel.columns[others].mean(axis=0) if others else np.full(len(panel.models), np.nan)
    ours, theirs = (
        [gap[m] for m, own in is_own.items() if own is side and panel.covered[others, m].all() and np.isfinite(gap[m])]
        for side in (True, False)
    )
    return float(np.mean(ours) - np.mean(theirs)) if ours and theirs else None
