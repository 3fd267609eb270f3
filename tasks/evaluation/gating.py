"""The gates of a recipe held to one model's answers, beside a base and, for a quantised file, the file it was made from."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence

from data_contracts.gates import Gates, Measured, check_gates
from data_contracts.prompting import markers
from data_contracts.verdict import Check, check, report
from tasks.evaluation.local_models import Answers
from tasks.evaluation.survey import Scores
from tasks.measures.bootstrap import difference_interval, score_of
from tasks.recipes.interface import Recipe


def judge(
    one: Answers,
    scores: Mapping[str, Scores],
    gates: Gates,
    floor: Mapping[str, float],
    *,
    base: str | None,
    largest: str | None,
) -> list[Check]:
    """Every gate beside its number, and the answers searched for leaked markers.

    `base` names the model that tuning started from, `largest` the one that a quantised file was made from; without one, the
    gates that speak of it are *cannot tell*. `floor`: metric -> how far this model differs from itself (Survey.noise_floor).
    """
    mine = scores[one.model]
    heldout_rows = len(next(iter(mine.values())))
    measured: dict[str, Measured] = {}
    for name, values in mine.items():
        stem, noise = name.removesuffix("_fraction"), floor.get(name, 0.0)
        found = score_of(values, gates.interval_fraction)
        measured[name] = Measured(found["value"], found["n"], noise)
        over_base, rows = _difference(values, scores[base][name] if base else None, gates)
        lower = round(over_base[1] - noise, 6) if over_base and name in floor else None
        measured[f"tuned_over_base_{stem}_lower_bound"] = Measured(lower, rows)
        drop, rows = _difference(scores[largest][name] if largest else None, values, gates)
        measured[f"quantised_{stem}_drop_fraction"] = Measured(drop and drop[0], rows, noise)
    leak = re.compile(f"{markers.RAW_MARKERS}|{markers.STRIPPED_MARKERS}")
    leaks = [text for text in one.texts[:heldout_rows] if leak.search(text)]
    return [
        *check_gates(gates, measured, heldout_rows),
        check(
            "answers with a leaked chat or channel marker",
            len(leaks),
            "==",
            0,
            detail=repr(leaks[0][:80]) if leaks else "",
        ),
    ]


def _difference(
    ours: list[float | None] | None, theirs: list[float | None] | None, gates: Gates
) -> tuple[tuple[float, float, float] | None, int]:
    """(mean, low, high) of ours - theirs and the rows that both speak of; None and 0 where one is not there."""
    if not ours or not theirs:
        return None, 0
    rows = sum(a is not None and b is not None for a, b in zip(ours, theirs, strict=True))
    return difference_interval(ours, theirs, gates.interval_fraction), rows


def unknown_metrics(gates: Gates, recipe: Recipe) -> list[str]:
    """`place: name` for every metric of gates.yaml that no evaluation of the recipe measures, with the nearest that it does.

    `judge` measures `METRICS` of the recipe and, of each, the difference from the base and from the largest file.
    """
    stems = [name.removesuffix("_fraction") for name in recipe.METRICS]
    over_base = [f"tuned_over_base_{stem}_lower_bound" for stem in stems]
    drops = [f"quantised_{stem}_drop_fraction" for stem in stems]
    named = {
        "metrics": (list(gates.metrics), [*recipe.METRICS, *over_base, *drops]),
        "ceiling_metric": ([gates.ceiling_metric], recipe.METRICS),
        "shown": (gates.shown, recipe.METRICS),
        "ranking": ([entry.metric for entry in gates.ranking], recipe.METRICS),
    }
    return [
        f"{place}: nothing measures {name}. {_nearest(name, known)}"
        for place, (names, known) in named.items()
        for name in names
        if name not in known
    ]


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean {close[0]}?" if close else f"Known: {', '.join(known)}."


def gates_that_can_tell(gates: Gates, recipe: Recipe, rows: Sequence[dict]) -> Check:
    """Told before anything is spent: how many gates have enough held-out rows that speak of their metric.

    Counted on the labels, which every metric of a row is defined on; a gate beside another model has as many rows or fewer.
    """
    answers = [recipe.score(row, recipe.parse_output(recipe.completion(row), row)) for row in rows]
    counts = {name: sum(one[name] is not None for one in answers) for name in gates.metrics if name in answers[0]}
    asked = {name: count for name, count in counts.items() if count or not gates.metrics[name].only_where_asked}
    needed = {name: gates.metrics[name].rows_needed for name in asked}
    few = [f"{name}: {count} of {needed[name]}" for name, count in asked.items() if count < needed[name]]
    able = len(asked) - len(few)
    few += unknown_metrics(gates, recipe)
    if len(rows) < gates.min_heldout_rows:
        few, able = [f"{len(rows)} held-out rows of {gates.min_heldout_rows}", *few], 0
    warning = f"the others will end in 'cannot tell', and nothing is published: {'; '.join(few)}" if few else ""
    return report("gates that the held-out rows can tell", f"{able} of {len(asked)}", detail=warning)


def beside_teacher(mine: Scores, teacher: Scores, gates: Gates, max_below_fraction: float) -> Check:
    """How far a model stays below the one that it was distilled from, in the metric that models are ranked by first.

    The mean over the rows, as for the drop of a quantised file; negative where it is above its teacher. Too few rows, and a
    recipe that ranks by nothing, cannot tell.
    """
    by = gates.ranking[0] if gates.ranking else None
    if by is None or by.metric not in mine:
        return check(
            "how far it is below its teacher", None, "<=", max_below_fraction, detail="gates.yaml ranks by nothing"
        )
    found, rows = _difference(teacher[by.metric], mine[by.metric], gates)
    if found and by.best == "lowest":
        found = (-found[0], -found[2], -found[1])
    below, low, high = found or (None, 0.0, 0.0)
    return check(
        f"{by.metric} below the teacher's",
        below,
        "<=",
        max_below_fraction,
        enough=rows >= gates.min_heldout_rows,
        detail=f"{low:+.3f} to {high:+.3f} over {rows} rows" if found else "",
        fix="Give the student more of the teacher's answers, train it longer, or take a larger one",
    )
