"""Which of two students is released: the gates speak first, then the panel, and where no panel can tell the gates again."""

from __future__ import annotations

import json
from collections.abc import Mapping

from data_contracts.gates import load_gates
from data_contracts.verdict import Verdict
from flows.boards import read_board
from flows.distill_config import DistillConfig
from flows.pipeline import tell
from tasks.core.artifact import Artifact, Store
from tasks.release.assemble import verdict_check

STUDENTS = ("direct", "distilled")
"""The simpler one first: it wins where nothing tells the two apart."""


def choose(config: DistillConfig, evaluations: Mapping[str, Artifact], judgement: Artifact) -> str:
    """The student to release, told with its reason; of each, the file that is served is looked at."""
    if config.released != "best":
        tell(f"released: {config.released}, as the settings say")
        return config.released
    store, served = Store(config.store), config.publish.serve_quantization
    passed = {name: verdict_check(store.folder(evaluations[name])).verdict is Verdict.PASS for name in STUDENTS}
    what, scores = _final_scores(read_board(store.folder(judgement)), served)
    if scores is None:
        what, scores = _gate_scores(
            config.recipe, {name: store.folder(one) for name, one in evaluations.items()}, served
        )
    best = max(STUDENTS, key=lambda name: (passed[name], scores[name]))
    told = ", ".join(f"{name} {scores[name]:.4g}{'' if passed[name] else ' (gates not passed)'}" for name in STUDENTS)
    tell(f"released: {best}, by {what} of {served}: {told}")
    return best


def _final_scores(board: dict, served: str) -> tuple[str, dict[str, float] | None]:
    """The panel's; None where it cannot tell about one of them."""
    final = {row["model"]: row["final"]["value"] for row in board["rows"]}
    scores = {name: final.get(f"{name}/{served}") for name in STUDENTS}
    return "the panel's final score", None if None in scores.values() else scores


def _gate_scores(recipe: str, folders: Mapping, served: str) -> tuple[str, dict[str, float]]:
    """What the recipe ranks by first, over all held-out rows."""
    metric = load_gates(recipe).ranking[0].metric
    rows = {name: json.loads((folders[name] / "leaderboard.json").read_text("utf-8")) for name in STUDENTS}
    found = {name: next(row for row in some if row["model"] == served) for name, some in rows.items()}
    sign = -1 if load_gates(recipe).ranking[0].best == "lowest" else 1
    return metric, {name: sign * row["scores"][metric]["value"] for name, row in found.items()}
