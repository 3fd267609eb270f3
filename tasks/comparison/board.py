"""A comparison as a board: every model's numbers, the ranks, which models can be told apart, and what that means in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from data_contracts.gates import Gates
from data_contracts.verdict import Check, overall
from tasks.comparison.distances import Distances
from tasks.comparison.model_entry import CEILING, MERGED, ModelEntry
from tasks.comparison.ranking import Pair, Ranked, Standing, fewest_rows_apart, rank
from tasks.evaluation.gating import judge
from tasks.evaluation.local_models import Answers
from tasks.evaluation.survey import Scores, Survey

FORMAT = 1
"""Version of comparison.json; raised when a name in it changes its meaning."""


@dataclass(frozen=True)
class Asked:
    """One model and what it said."""

    entry: ModelEntry
    answers: Answers
    facts: dict = field(default_factory=dict)
    """What is known of it besides its answers: commit, prompt contract, lost update."""


def board_of(
    survey: Survey, gates: Gates, everyone: Sequence[Asked], distances: Distances | None, about_rows: Mapping
) -> dict:
    """What comparison.json holds; the ceilings first, then the ranked models, the best first."""
    scores = {one.entry.name: survey.scores(one.answers) for one in everyone}
    floors = {one.entry.name: survey.noise_floor(one.answers) for one in everyone}
    standing = stand(gates, {one.entry.name: one.entry.role for one in everyone}, scores, floors)
    by_name = {one.entry.name: one for one in everyone}
    names = [*(by_name.keys() - standing.ranks.keys()), *standing.order]
    labels = survey.board_row(survey.ceiling(CEILING), gates.interval_fraction)
    rows = [{**labels, "role": "ceiling", "rank": None, "source": "the labels"}]
    for one in map(by_name.__getitem__, names):
        row = survey.board_row(one.answers, gates.interval_fraction)
        checks = _gates(one, everyone, scores, gates, floors[one.entry.name])
        rows.append({**row, **_about(one, standing), **_beside_reference(one, by_name, distances), **_verdict(checks)})
    board = {
        "schema": "comparison",
        "format": FORMAT,
        "rows": dict(about_rows),
        "min_heldout_rows": gates.min_heldout_rows,
        "interval_fraction": gates.interval_fraction,
        "ranking": [one.model_dump() for one in gates.ranking],
        "fewest_rows_apart": fewest_rows_apart(gates.interval_fraction),
        "distance_to": distances.reference if distances else None,
        "models": rows,
        "neighbours": [asdict(pair) for pair in standing.neighbours],
        "pairs": [asdict(pair) for pair in standing.pairs],
    }
    return {**board, "notes": notes(board)}


def stand(
    gates: Gates,
    roles: Mapping[str, str | None],
    scores: Mapping[str, Scores],
    floors: Mapping[str, Mapping[str, float]],
) -> Standing:
    """The ranking of every model but the ceilings."""
    models = [Ranked(name, scores[name], floors[name]) for name, role in roles.items() if role != "ceiling"]
    return rank(models, gates.ranking, gates.interval_fraction)


def _about(one: Asked, standing: Standing) -> dict:
    entry, again = one.entry, one.answers.again
    same = sum(a == b for a, b in zip(one.answers.texts, again, strict=False))
    return {
        "role": entry.role,
        "rank": standing.ranks.get(entry.name),
        "source": entry.told,
        "thinking": entry.thinking,
        "without_trace": entry.trace_is_optional,
        "prompt_set": entry.prompt_set,
        "same_when_asked_again_fraction": round(same / len(again), 6) if again else None,
        "facts": one.facts,
    }


def _beside_reference(one: Asked, by_name: Mapping[str, Asked], distances: Distances | None) -> dict:
    """How far it is from the reference: by its next-token distributions, and by the answers that are the same word for word."""
    if distances is None:
        return {"distance": None, "same_answers_fraction": None}
    texts = by_name[distances.reference].answers.texts
    same = sum(a == b for a, b in zip(one.answers.texts, texts, strict=True))
    return {"distance": distances.as_dict(one.entry.name), "same_answers_fraction": round(same / len(texts), 6)}


def _gates(
    one: Asked, everyone: Sequence[Asked], scores: Mapping[str, Scores], gates: Gates, floor: Mapping[str, float]
) -> list[Check]:
    base = next((other.entry.name for other in everyone if other.entry.role == "base"), None)
    siblings = {
        o.entry.part: o.entry.name for o in everyone if o.entry.run is not None and o.entry.run == one.entry.run
    }
    largest = next((siblings[part] for part in ("f16", MERGED) if part in siblings), None)
    return judge(one.answers, scores, gates, floor, base=base, largest=largest)


def _verdict(checks: list[Check]) -> dict:
    """What its gates say, as information: a comparison releases nothing."""
    return {"verdict": overall(checks).value, "gates": [one.model_dump(mode="json") for one in checks]}


def notes(board: Mapping) -> list[str]:
    """What the numbers mean, in sentences."""
    pairs = [Pair(**one) for one in board["pairs"]]
    rows = {row["model"]: row for row in board["models"]}
    found = [*_few_rows(board), *_shared_ranks(rows), *_untold(pairs)]
    found += [_by_base(rows, pairs, name) for name, row in rows.items() if row["role"] == "base"]
    for name, row in rows.items():
        if row["role"] == "control":
            found += _control(board, rows, name)
        if known_by := row.get("facts", {}).get("known_by"):
            found.append(
                f"{name} is an address without a digest; its answer to one question stands for it, {known_by[:12]}."
            )
        if row.get("without_trace"):
            found.append(f"{name} is asked without a thinking trace; its answers are read as if theirs were empty.")
    return [one for one in found if one]


def _few_rows(board: Mapping) -> list[str]:
    count, wanted = board["rows"]["count"], board["min_heldout_rows"]
    if count >= wanted:
        return []
    return [f"{count:,} rows are fewer than the {wanted:,} that the gates ask for: only large differences can be seen."]


def _shared_ranks(rows: Mapping[str, Mapping]) -> list[str]:
    ranks: dict[int, list[str]] = {}
    for name, row in rows.items():
        if row["rank"] is not None:
            ranks.setdefault(row["rank"], []).append(name)
    return [
        f"{', '.join(some[:-1])} and {some[-1]} share rank {number}: none of them is better than another beyond doubt."
        for number, some in sorted(ranks.items())
        if len(some) > 1
    ]


def _untold(pairs: Sequence[Pair]) -> list[str]:
    unknown = [pair for pair in pairs if pair.reading == "cannot tell"]
    if not unknown:
        return []
    return [
        f"{len(unknown)} of {len(pairs)} pairs cannot be told: too few rows that both were scored on, or no row was asked twice "
        f"(e.g. {unknown[0].first} and {unknown[0].second})."
    ]


def _by_base(rows: Mapping[str, Mapping], pairs: Sequence[Pair], base: str) -> str:
    """Which models are better than the base, which are not."""
    against = {
        pair.second if pair.first == base else pair.first: pair for pair in pairs if base in (pair.first, pair.second)
    }
    better = [name for name in rows if name in against and against[name].better == name]
    worse = [name for name in rows if name in against and against[name].better == base]
    same = [name for name in rows if name in against and name not in better + worse]
    parts = [
        f"{', '.join(some)} {'is' if len(some) == 1 else 'are'} {what}"
        for some, what in ((better, "better"), (worse, "worse"), (same, "not proven to be either"))
        if some
    ]
    return f"Beside {base}: {'; '.join(parts)}." if parts else ""


def _control(board: Mapping, rows: Mapping[str, Mapping], name: str) -> list[str]:
    """What a control lost, and how far that sets it apart from the sound models on this disk."""
    row, lost = rows[name], rows[name]["facts"].get("update")
    told = [f"{name} is broken on purpose and never published."]
    if lost:
        told.append(
            f"Its merge kept {lost['kept_fraction']:.1%} of the update along the update's direction, with an error of "
            f"{lost['error_ratio']:.2f} times the update's size."
        )
    reference, mine = board["distance_to"], row["distance"] and row["distance"]["mean_kl_nats"]
    sound = [
        (other["distance"]["mean_kl_nats"], one)
        for one, other in rows.items()
        if one not in (name, reference)
        and other["role"] is None
        and other.get("distance")
        and other["distance"]["mean_kl_nats"]
    ]
    if mine and sound:
        kl, nearest = min(sound)
        told.append(
            f"Its mean KL to {reference} is {mine:.3g} nats a token, {mine / kl:,.0f} times that of {nearest} ({kl:.3g}); "
            f"{row['same_answers_fraction']:.1%} of its answers are {reference}'s word for word, "
            f"{rows[nearest]['same_answers_fraction']:.1%} of {nearest}'s{_own(row)}."
        )
    return [" ".join(told)]


def _own(row: Mapping) -> str:
    """What part of a difference between answers is the model's own noise."""
    same = row["same_when_asked_again_fraction"]
    return "" if same is None else f"; asked again, it repeats {same:.1%} of its own"
