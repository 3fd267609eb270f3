"""Answer the held-out rows with every model of the run and let the gates decide.

Reads:    base, adapter, merged, gguf (the very files that would be published), rows (held-out); teacher, a larger model that
          they were distilled from, if there is one.
Writes:   scores.json (scores with intervals, sizes, digests), answers.jsonl (every answer and what it scores),
          probes.jsonl (the same for rows whose input was changed), verdict.json (each gate beside its number, per file).
Verifies: every model answered every row once; every scored file still has the digest it is listed under; the ceiling row
          scores 1; every score is the mean of its rows; every gate was judged. A gate that fails is a verdict, not an
          error: it is recorded, and publishing refuses.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from data_contracts.gates import Gates, load_gates
from data_contracts.prompting.prompt import load_prompt
from data_contracts.verdict import Check, check, overall, report
from tasks.core.artifact import canonical_json, sha256_file
from tasks.core.stage import Job, Stage
from tasks.core.stage_process import child_main
from tasks.evaluation.gating import beside_teacher, judge
from tasks.evaluation.local_models import Answers, AskingConfig, LocalModel, ask_all
from tasks.evaluation.survey import Scores, Survey
from tasks.formats.jsonl import read_lines, write_json
from tasks.prompts.prompt_digest import contract_digest, read_carried, refuse_another_contract
from tasks.recipes import load_recipe

CEILING, BASE, ADAPTER, MERGED, TEACHER = "ceiling", "base", "adapter", "merged", "teacher"
_YARDSTICKS = (CEILING, BASE, ADAPTER, TEACHER)
"""Models that no gate judges: nothing of them is published."""


class EvaluateConfig(AskingConfig):
    """How models are asked, and with what besides the held-out rows."""

    metamorphic_rows: int = Field(default=24, ge=0)
    """Held-out rows that are asked again with their input changed (question negated, names swapped, date moved, context
    lines reordered) where the recipe knows such a change of the row; 0 for none."""
    max_below_teacher_fraction: float = Field(default=0.05, ge=0, le=1)
    """Beside a teacher: how far a file may stay below it in the metric by which the recipe ranks models first."""


def evaluate_model(config: EvaluateConfig, job: Job) -> dict:
    """Ask, score, judge; returns the speeds, which are this machine's and so no part of the artifact.

    Raises:
        ArtifactError: the adapter, the merge, the teacher or a GGUF was made for another prompt contract.
    """
    recipe, gates = load_recipe(job.recipe), load_gates(job.recipe)
    lineage = json.loads((job.inputs[ADAPTER] / "lineage.json").read_text("utf-8"))
    digest = contract_digest(load_prompt(job.recipe), job.inputs[BASE])
    refuse_another_contract("evaluate_model: the adapter", lineage.get("prompt_contract"), digest)
    for name in (MERGED, TEACHER):
        if name in job.inputs:
            mine = contract_digest(load_prompt(job.recipe), job.inputs[name])
            refuse_another_contract(f"evaluate_model: the {name} model", read_carried(job.inputs[name]), mine)
    survey = Survey.of(recipe, _heldout(job), config.metamorphic_rows)
    everyone = list(_ask_everyone(config, job, survey, digest))
    scores = {one.model: survey.scores(one) for one in everyone}
    judged = [one for one in everyone if one.model not in _YARDSTICKS]
    verdicts = {one.model: _judge(one, scores, gates, survey.noise_floor(one)) for one in judged}
    if TEACHER in scores:
        for model, checks in verdicts.items():
            checks.append(beside_teacher(scores[model], scores[TEACHER], gates, config.max_below_teacher_fraction))
    write_json(job.out / "scores.json", [survey.board_row(one, gates.interval_fraction) for one in everyone])
    write_json(
        job.out / "verdict.json", {k: [c.model_dump(mode="json") for c in found] for k, found in verdicts.items()}
    )
    survey.write_answers(job.out, everyone)
    speeds = {one.model: round(one.generated_tokens / one.seconds, 1) for one in everyone if one.seconds}
    return {"tokens_per_s": speeds, "generated_tokens": sum(one.generated_tokens for one in everyone)}


def _heldout(job: Job) -> list[dict]:
    return read_lines(job.inputs["rows"] / "heldout.jsonl")


def _ask_everyone(config: EvaluateConfig, job: Job, survey: Survey, digest: str) -> Iterator[Answers]:
    yield survey.ceiling(CEILING)
    yield from ask_all(config, list(_models(job, digest)), survey.asked, job.beat)


def _models(job: Job, digest: str) -> Iterator[LocalModel]:
    """What is asked: the teacher if there is one, the base, the base with the adapter, the merge, and every GGUF file."""
    base = job.inputs[BASE]
    folders: list[tuple[str, Path, Path | None]]
    folders = [(name, job.inputs[name], None) for name in (TEACHER, BASE, MERGED) if name in job.inputs]
    folders.insert(-1, (ADAPTER, base, job.inputs[ADAPTER]))
    for name, folder, adapter in folders:
        size_bytes = sum(path.stat().st_size for path in job.inputs[name].glob("*.safetensors"))
        yield LocalModel(
            name, folder, load_prompt(job.recipe), adapter, file_digest=job.digests[name], size_bytes=size_bytes
        )
    for name, path in gguf_files(job.inputs["gguf"]).items():
        size_bytes = path.stat().st_size
        yield LocalModel(
            name,
            path,
            load_prompt(job.recipe),
            contract_digest=digest,
            file_digest=sha256_file(path),
            size_bytes=size_bytes,
        )


def gguf_files(folder: Path) -> dict[str, Path]:
    """Quantisation -> file, the least compressed first."""
    found = {path.stem.rpartition("-")[2]: path for path in folder.glob("model-*.gguf")}
    return dict(sorted(found.items(), key=lambda item: -item[1].stat().st_size))


def _judge(one: Answers, scores: dict[str, Scores], gates: Gates, floor: dict[str, float]) -> list[Check]:
    largest = next((name for name in ("f32", "bf16", "f16") if name in scores), MERGED)
    return judge(one, scores, gates, floor, base=BASE, largest=largest)


def verify_evaluation(config: EvaluateConfig, job: Job) -> list[Check]:
    """Measure the evaluation itself; see the module's docstring."""
    board = json.loads((job.out / "scores.json").read_text("utf-8"))
    verdicts = json.loads((job.out / "verdict.json").read_text("utf-8"))
    lines = read_lines(job.out / "answers.jsonl")
    rows, models = _heldout(job), [row["model"] for row in board]
    answered = sum(set(line["answers"]) == set(models) for line in lines)
    expected = len(rows) + len(load_recipe(job.recipe).reference_rows())
    digests = {name: job.digests[name] for name in (BASE, ADAPTER, MERGED, TEACHER) if name in job.digests}
    digests |= {name: sha256_file(path) for name, path in gguf_files(job.inputs["gguf"]).items()}
    stale = [row["model"] for row in board if row["model"] != CEILING and row["file_digest"] != digests[row["model"]]]
    metric = load_gates(job.recipe).ceiling_metric
    ceiling = next(row for row in board if row["model"] == CEILING)["scores"][metric]["value"]
    off = _off_the_rows(board, lines[: len(rows)])
    unjudged = [name for name in digests if name not in _YARDSTICKS and not verdicts.get(name)]
    checks = [Check(**one) for each in verdicts.values() for one in each]
    canonical_json(board)
    return [
        check("rows that every model answered once", answered, "==", expected, detail=f"{len(models)} models"),
        check("scored files whose digest is not the one listed", len(stale), "==", 0, detail=", ".join(stale)),
        check(
            f"{metric} of the rows' own answers (ceiling)",
            ceiling,
            "==",
            1.0,
            fix="The rows or the parser are wrong, not the models",
        ),
        check("scores that are not the mean of their rows", len(off), "==", 0, detail=", ".join(off[:5])),
        check("published files that no gate judged", len(unjudged), "==", 0, detail=", ".join(unjudged)),
        report("verdict of the gates", str(overall(checks)), detail=f"{len(checks)} gates over {len(verdicts)} files"),
    ]


def _off_the_rows(board: list[dict], lines: list[dict]) -> list[str]:
    """The scores of the board that the rows in answers.jsonl do not give."""
    off = []
    for row in board:
        model = row["model"]
        mine = [line["scores"].get(model, {}) for line in lines]
        off += [] if mine[0] else [f"{model} has none"]
        for metric in mine[0]:
            known, told = [one[metric] for one in mine if one.get(metric) is not None], row["scores"][metric]["value"]
            if (told is None) != (not known) or (known and abs(told - sum(known) / len(known)) > 1e-5):
                off.append(f"{model} {metric}")
    return off


STAGE = Stage(
    name="evaluate_model",
    kind="evaluation",
    version=1,
    work=evaluate_model,
    verify=verify_evaluation,
    stack=("torch", "transformers", "peft", "llama_cpp_python"),
    contract=("prompt.md", "output.py", "gates.yaml"),
    recipe_files=lambda recipe: load_recipe(recipe).EVALUATION_FILES,
)

if __name__ == "__main__":
    raise SystemExit(child_main(STAGE, EvaluateConfig))
