"""A panel's numbers as a board: what judgement.json holds, with every None where nothing can be told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_contracts.prompting.rubric import Rubric
from data_contracts.verdict import Check, Verdict
from tasks.judging.agreement import agreement, judges_of_others, own_family
from tasks.judging.answer_table import AnswerTable
from tasks.judging.panel import EQUAL, GATE_SHARE, JUDGE_SHARE, Panel, findings, mean_of

FORMAT = 1
"""Version of judgement.json; raised when a name in it changes its meaning."""


@dataclass(frozen=True)
class JudgeRecord:
    """How asking one judge went."""

    name: str
    family: str
    served_as: str
    identity: str
    """Digest of the model behind it."""
    structured: str
    died: str
    asked: int
    unscored: Counter[str]
    """Kind of trouble -> answers without a verdict."""
    checks: tuple[Check, ...]
    """Its biases: pass, fail or cannot tell."""


def board_of(
    panel: Panel,
    table: AnswerTable,
    judges: Sequence[JudgeRecord],
    rubric: Rubric,
    gates: Mapping[str, Sequence[float | None]],
    warnings: Sequence[Mapping[str, int]],
) -> dict:
    """Everything that a board says.

    `gates`: gate -> share of answers that passed it, for each model; `warnings`: kind -> answers, for each model.
    """
    ranks = panel.ranks()
    order = [*panel.order(), *_unranked(panel)]
    rows = [_row(panel, table, model, ranks[model], rubric, gates, warnings[model]) for model in order]
    found = findings(panel)
    return {
        "schema": "judgement",
        "format": FORMAT,
        "formula": formula(rubric),
        "prompts": len(table.rows),
        "prompts_digest": table.digest,
        "rubric": {
            "digest": rubric.digest,
            "title": rubric.title,
            "scale": rubric.scale,
            "criteria": list(rubric.names),
        },
        "limits": {name: getattr(panel.limits, name) for name in panel.limits.__dataclass_fields__},
        "rows": rows,
        "judges": [_judge(panel, table, number, one) for number, one in enumerate(judges)],
        "agreement": _agreement(panel, rubric),
        "findings": [{"kind": one.kind, "sentence": one.sentence, "models": list(one.models)} for one in found],
        "notes": notes(panel, table, judges, warnings),
    }


def formula(rubric: Rubric) -> str:
    """The final score in words."""
    return f"100 * ({JUDGE_SHARE:g} * judge_mean / {rubric.top:g} + {GATE_SHARE:g} * gate_pass_rate)"


def _unranked(panel: Panel) -> list[int]:
    left = [model for model in range(len(panel.models)) if model not in panel.ranked]
    return sorted(left, key=lambda model: -(number(float(panel.gate_rates[model])) or 0.0))


def _row(panel, table, model: int, rank: int | None, rubric: Rubric, gates, warnings) -> dict:
    one = table.models[model]
    ranked = model in panel.ranked
    told = ranked and panel.gated
    shares = [panel.judge_means[judge, model] for judge in panel.counting]
    return {
        "model": one.name,
        "role": one.role,
        "family": one.family,
        "rank": rank,
        "why_no_rank": "" if ranked else _why(panel, model),
        "final": _interval(panel.averages[model], panel.interval(model)) if told else _untold(),
        "judges_alone": None if panel.gated or not ranked else number(panel.averages[model]),
        "judge_mean": number(sum(shares) / len(shares)) if ranked and shares else None,
        "gate_pass_rate": number(panel.gate_rates[model]),
        "gates": {name: found[model] for name, found in gates.items()},
        "columns": {name: _column(panel, judge, model, rubric) for judge, name in enumerate(panel.judges)},
        "warnings": dict(warnings),
        "file_digest": one.file_digest,
        "size_bytes": one.size_bytes,
    }


def _column(panel: Panel, judge: int, model: int, rubric: Rubric) -> dict:
    by_criterion = mean_of(panel.scores[judge, model], axis=0)
    return {
        **_interval(panel.columns[judge, model], panel.interval(model, judge)),
        "judge_mean": number(panel.judge_means[judge, model]),
        "criteria": {name: number(value) for name, value in zip(rubric.names, by_criterion, strict=True)},
        "coverage_fraction": number(panel.coverage[judge, model]),
        "counts": judge in panel.counting,
    }


def _why(panel: Panel, model: int) -> str:
    """Why a model has no rank, in words."""
    if not panel.judges:
        return "no judge was asked"
    if not panel.counting:
        return "no judge gave enough verdicts"
    limits, thin = panel.limits, []
    for judge in panel.counting:
        found, best = panel.coverage[judge, model], panel.coverage[judge].max()
        if found < limits.min_coverage_fraction - 1e-9:
            thin.append(
                f"{panel.judges[judge]} scored {_share(found)} of it, {limits.min_coverage_fraction:.0%} needed"
            )
        elif found < best - limits.max_coverage_gap_fraction - 1e-9:
            thin.append(
                f"{panel.judges[judge]} scored {_share(found)} of it and {_share(best)} of the best covered one"
            )
    return "; ".join(thin) or "no gate says anything about its answers"


def _does_not_count(panel: Panel, judge: int) -> str:
    """Of which models a judge gave too little to count."""
    lacking = [
        f"{_share(panel.coverage[judge, model])} of {name}"
        for model, name in enumerate(panel.models)
        if not panel.covered[judge, model]
    ]
    return (
        f"{panel.judges[judge]} scored too little of {len(lacking)} of {len(panel.models)} models: {', '.join(lacking)}; "
        f"{panel.limits.min_coverage_fraction:.0%} needed. Its column is in no average."
    )


def _share(fraction: float) -> str:
    """Rounded down: what lies below a limit must not read as the limit."""
    return f"{int(100 * fraction + EQUAL)}%"


def _judge(panel: Panel, table: AnswerTable, judge: int, one: JudgeRecord) -> dict:
    own = own_family(panel, judge, [model.family for model in table.models])
    return {
        "name": one.name,
        "family": one.family,
        "served_as": one.served_as,
        "identity": one.identity,
        "structured": one.structured,
        "died": one.died,
        "counts": judge in panel.counting,
        "asked": one.asked,
        "unscored": dict(one.unscored.most_common()),
        "coverage_fraction": number(panel.coverage[judge].mean()),
        "own_family": own,
        "checks": [check.model_dump(mode="json") for check in one.checks],
    }


def _agreement(panel: Panel, rubric: Rubric) -> dict:
    found = agreement(panel)
    by_criterion = dict(zip(rubric.names, found.pop("alpha_by_criterion"), strict=True))
    return _plain({**found, "alpha_by_criterion": by_criterion})


def notes(
    panel: Panel, table: AnswerTable, judges: Sequence[JudgeRecord], warnings: Sequence[Mapping[str, int]]
) -> list[str]:
    """Sentences that a reader of the ranks must not miss."""
    found = []
    if not judges:
        found.append("No judge was configured: what only a judge can tell is 'cannot tell'.")
    for place, one in enumerate(judges):
        if one.died:
            found.append(f"{one.name} stopped answering: {one.died}")
        if place not in panel.counting:
            found.append(_does_not_count(panel, place))
        own = own_family(panel, place, [model.family for model in table.models])
        if own["ranks_own_family_first"]:
            found.append(f"{one.name} ranks its own family ({one.family}) first: {own['first']}.{_also(panel, place)}")
        failed = [check for check in one.checks if check.verdict is Verdict.FAIL]
        found += [f"{one.name}, {check.name}: {check.detail}. {check.fix}." for check in failed]
    if judges and not panel.gated:
        found.append(
            "This recipe has no gates on single answers: the final score is 'cannot tell', ranks are the judges' alone."
        )
    for model, kinds in zip(panel.models, warnings, strict=True):
        found += [f"{model}: {count} of {len(table.rows)} answers: {kind}." for kind, count in kinds.items()]
    return found


def _also(panel: Panel, judge: int) -> str:
    """Whether judges of other families put the same model first: then its own word is not needed."""
    others = judges_of_others(panel, judge)
    agree = sum(panel.firsts(one) == panel.firsts(judge) for one in others)
    return f" {agree} of {len(others)} judge(s) of other families do too." if others else ""


def number(value: float, digits: int = 4) -> float | None:
    """A number for JSON; None for NaN: unscored is not zero."""
    return None if value is None or value != value else round(float(value), digits)


def _interval(value: float, ends: tuple[float, float] | None) -> dict:
    return {"value": number(value), "low": ends and number(ends[0]), "high": ends and number(ends[1])}


def _untold() -> dict:
    return {"value": None, "low": None, "high": None}


def _plain(value: Any) -> Any:
    """Floats rounded, NaN as None, all the way down."""
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return number(value) if isinstance(value, float) else value
