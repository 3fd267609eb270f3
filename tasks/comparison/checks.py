"""What a written comparison must be, measured on its files."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from data_contracts.gates import load_gates
from data_contracts.verdict import Check, check, report
from tasks.comparison.answers import digest_of
from tasks.comparison.board import stand
from tasks.comparison.model_entry import CEILING, ModelEntry
from tasks.core.artifact import canonical_json
from tasks.core.stage import Job
from tasks.evaluation.local_models import Answers
from tasks.evaluation.survey import Survey
from tasks.formats.jsonl import read_lines
from tasks.measures.bootstrap import score_of
from tasks.recipes import load_recipe

BOARD, TABLE, CHART, ANSWERS = "comparison.json", "comparison.md", "comparison.png", "answers.jsonl"
_COMMIT = re.compile(r"^[0-9a-f]{40}$")
_FEWEST_COLOURS = 8
"""Paper, ink, greys, a dot, an interval, a line, and their edges: a picture with fewer shows no chart."""


def comparison_checks(entries: Sequence[ModelEntry], job: Job, rows: list[dict]) -> list[Check]:
    """Answers whole, digests right, labels at the ceiling, ranks reproducible, table and picture there."""
    board = json.loads((job.out / BOARD).read_text("utf-8"))
    canonical_json(board)
    models = {row["model"]: row for row in board["models"]}
    ceiling = load_gates(job.recipe).ceiling_metric
    lines = read_lines(job.out / ANSWERS)
    expected = {CEILING, *(one.name for one in entries)}
    answered = sum(line["answers"].keys() == expected for line in lines)
    stale = [one.name for one in entries if models.get(one.name, {}).get("file_digest") != digest_of(one, job)]
    unpinned = [one.name for one in entries if one.hub and not _COMMIT.match(str(_commit(models, one.name)))]
    table = (job.out / TABLE).read_text("utf-8")
    told = [name for name in expected if f"| {name} |" in table]
    return [
        check(
            "rows that every model answered once",
            answered,
            "==",
            len(rows) + len(load_recipe(job.recipe).reference_rows()),
            detail=f"{len(expected)} models, the labels included",
        ),
        check("scored files whose digest is not the one listed", len(stale), "==", 0, detail=", ".join(stale)),
        check(
            f"{ceiling} of the rows' own answers (ceiling)",
            models[CEILING]["scores"][ceiling]["value"],
            "==",
            1.0,
            fix="The rows or the parser are wrong, not the models",
        ),
        _again(entries, job, models, rows, lines),
        check("models that the table names", len(told), "==", len(expected)),
        check("models of the Hub without a commit", len(unpinned), "==", 0, detail=", ".join(unpinned)),
        _chart_check(job.out / CHART),
        report("order", ", ".join(name for name in models if name != CEILING)),
    ]


def _commit(models: dict[str, dict], name: str) -> str | None:
    return models.get(name, {}).get("facts", {}).get("commit")


def _again(
    entries: Sequence[ModelEntry], job: Job, models: dict[str, dict], rows: list[dict], lines: list[dict]
) -> Check:
    """Scores and ranks, from the answers as they were written; the noise floors are the board's."""
    gates, survey = load_gates(job.recipe), Survey.of(load_recipe(job.recipe), rows, 0)
    roles = {one.name: one.role for one in entries if one.name in models}
    texts = {name: [line["answers"].get(name, "") for line in lines] for name in roles}
    scores = {name: survey.scores(Answers(name, some)) for name, some in texts.items()}
    found = stand(gates, roles, scores, {name: models[name]["noise_floor"] for name in roles})
    wrong = [f"{name}: rank" for name in roles if models[name]["rank"] != found.ranks.get(name)]
    wrong += [
        f"{name}: {metric}"
        for name, metrics in scores.items()
        for metric, values in metrics.items()
        if score_of(values, gates.interval_fraction) != models[name]["scores"][metric]
    ]
    return check(
        "scores and ranks that the written answers do not give again",
        len(wrong),
        "==",
        0,
        enough=bool(scores),
        detail="; ".join(wrong[:3]),
        fix="The board belongs to other answers; compare again",
    )


def _chart_check(path: Path) -> Check:
    """The picture opens, and has more colours than paper and ink."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            colours = len(picture.convert("RGB").getcolors(maxcolors=1 << 24) or [])
            detail = f"{picture.width} x {picture.height} pixels"
    except (OSError, SyntaxError, UnidentifiedImageError) as error:  # PIL calls a broken PNG a syntax error
        colours, detail = 0, f"cannot be opened: {type(error).__name__}"
    return check("colours in the chart", colours, ">=", _FEWEST_COLOURS, detail=detail)
