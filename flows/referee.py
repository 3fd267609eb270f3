"""Which of two students is released: gates first, then what the panel agrees on, then the gates row by row beyond the noise."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from data_contracts.gates import load_gates
from data_contracts.verdict import Verdict
from flows.boards import read_board
from flows.distill_config import DistillConfig
from flows.pipeline import tell
from tasks.core.artifact import Artifact, Store
from tasks.formats.jsonl import read_lines
from tasks.measures.bootstrap import difference_interval
from tasks.recipes import load_recipe
from tasks.release.assemble import verdict_check

STUDENTS = ("direct", "distilled")
"""The simpler one first: it is released where nothing tells the two apart."""


def choose(config: DistillConfig, evaluations: Mapping[str, Artifact], judgement: Artifact) -> str:
    """The student to release, told with the reason. Of each, the file that is served is looked at."""
    if config.released != "best":
        return _told(config.released, "as the settings say")
    store = Store(config.store)
    folders = {name: store.folder(evaluations[name]) for name in STUDENTS}
    served = config.publish.serve_quantization
    passed = [name for name in STUDENTS if verdict_check(folders[name]).verdict is Verdict.PASS]
    if len(passed) == 1:
        return _told(passed[0], "the only one that passes its gates")
    if found := agreed(read_board(store.folder(judgement)), served):
        return _told(found, "every judge puts it above the other")
    better, why = by_rows(config.recipe, folders, served)
    return _told(better, why)


def agreed(board: dict, served: str) -> str | None:
    """The student that a finding of the board puts above the other; None where the panel agrees on nothing."""
    names = {f"{name}/{served}": name for name in STUDENTS}
    for one in board["findings"]:
        first, *below = one["models"] or [""]
        if one["kind"] in ("above", "ceiling") and first in names and set(below) & names.keys():
            return names[first]
    return None


def by_rows(recipe: str, folders: Mapping[str, Path], served: str) -> tuple[str, str]:
    """(student, why): the metric that models are ranked by first, paired by row, beyond its interval and the noise floor."""
    gates, simple = load_gates(recipe), STUDENTS[0]
    if not gates.ranking:
        return simple, "gates.yaml ranks by nothing, and the simpler one needs no teacher"
    by, metric = gates.ranking[0], gates.ranking[0].metric
    scores = {name: _scores(recipe, folders[name], served, metric) for name in STUDENTS}
    found = difference_interval(scores[STUDENTS[1]], scores[simple], gates.interval_fraction)
    if found is None:
        return simple, f"no row says anything about {metric}"
    floor = max(_noise_floor(folders[name], served, metric) for name in STUDENTS)
    mean, low, high = found
    gains, losses = (low, -high) if by.best == "highest" else (-high, low)
    told = f"{metric} of {served}, distilled minus direct, is {mean:+.4f} ({low:+.4f} to {high:+.4f})"
    if gains > floor:
        return STUDENTS[1], told
    return (
        simple,
        told if losses > floor else f"{told}: no difference beyond the noise, and the simpler one needs no teacher",
    )


def _scores(recipe: str, folder: Path, served: str, metric: str) -> list[float | None]:
    lines = read_lines(folder / "answers.jsonl")
    heldout = lines[: len(lines) - len(load_recipe(recipe).reference_rows())]
    return [one["scores"][served].get(metric) for one in heldout]


def _noise_floor(folder: Path, served: str, metric: str) -> float:
    board = json.loads((folder / "scores.json").read_text("utf-8"))
    return next(row for row in board if row["model"] == served)["noise_floor"].get(metric, float("inf"))


def _told(student: str, why: str) -> str:
    tell(f"released: {student}, {why}")
    return student
