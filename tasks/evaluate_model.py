"""Answer the held-out rows with every model of the run and let the gates decide.

Reads:    base, adapter, merged, gguf (the very files that would be published), rows (held-out).
Writes:   leaderboard.json (scores with intervals, sizes, digests), answers.jsonl (every answer of every model),
          probes.jsonl (the same for rows whose input was changed), verdict.json (each gate beside its number, per file).
Verifies: every model answered every row once; every scored file still has the digest it is listed under; the ceiling row
          scores 1; every gate was judged. A gate that fails is a verdict, not an error: it is recorded, and publishing refuses.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pydantic import Field

from data_contracts import markers
from data_contracts.gates import Gates, check_gates, load_gates
from data_contracts.verdict import Check, check, overall, report
from tasks.core.artifact import canonical_json, sha256_file
from tasks.core.stage import Job, Stage, child_main
from tasks.engines.asking import Answers, AskingConfig, ask_gguf, ask_transformers
from tasks.engines.llama_engine import is_small
from tasks.engines.prompt_digest import contract_digest, refuse_another_contract
from tasks.engines.scoring import difference_interval, score_of
from tasks.engines.survey import Scores, Survey
from tasks.recipes import load_recipe

_OTHER_SLOTS = 11
"""Sequences decoded together when rows are answered again; a number that divides neither 32 nor the rows asked."""
CEILING, BASE, ADAPTER, MERGED = "ceiling", "base", "adapter", "merged"


class EvaluateConfig(AskingConfig):
    """How models are asked, and with what besides the held-out rows."""

    metamorphic_rows: int = Field(default=24, ge=0)
    """Held-out rows that are asked again with the question negated, the subject swapped, the date moved; 0 for none."""


def evaluate_model(config: EvaluateConfig, job: Job) -> dict:
    """Ask, score, judge; returns the speeds, which are this machine's and so no part of the artifact.

    Raises:
        ArtifactError: the adapter or a GGUF was made for another prompt contract.
    """
    recipe, gates = load_recipe(job.recipe), load_gates(job.recipe)
    lineage = json.loads((job.inputs[ADAPTER] / "lineage.json").read_text("utf-8"))
    digest = contract_digest(job.prompt, job.inputs[BASE])
    refuse_another_contract("evaluate_model: the adapter", lineage.get("prompt_contract"), digest)
    survey = Survey.of(recipe, _heldout(job), config.metamorphic_rows)
    everyone = list(_ask_everyone(config, job, survey, digest))
    scores = {one.model: survey.scores(one) for one in everyone}
    judged = [one for one in everyone if one.model not in (CEILING, BASE, ADAPTER)]
    verdicts = {one.model: _judge(one, scores, gates, survey.noise_floor(one)) for one in judged}
    _write(job.out / "leaderboard.json", [survey.board_row(one, gates.interval_fraction) for one in everyone])
    _write(job.out / "verdict.json", {k: [c.model_dump(mode="json") for c in found] for k, found in verdicts.items()})
    survey.write_answers(job.out, everyone)
    speeds = {one.model: round(one.generated_tokens / one.seconds, 1) for one in everyone if one.seconds}
    return {"tokens_per_s": speeds, "generated_tokens": sum(one.generated_tokens for one in everyone)}


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", "utf-8")


def _heldout(job: Job) -> list[dict]:
    return [json.loads(line) for line in (job.inputs["rows"] / "heldout.jsonl").read_text("utf-8").splitlines()]


def _ask_everyone(config: EvaluateConfig, job: Job, survey: Survey, digest: str) -> Iterator[Answers]:
    files = gguf_files(job.inputs["gguf"])
    rows = survey.asked
    total, done = len(rows) * (3 + len(files)), 0
    yield survey.ceiling(CEILING)
    base, adapter, merged = (job.inputs[name] for name in (BASE, ADAPTER, MERGED))
    for model, folder, factors in ((BASE, base, None), (ADAPTER, base, adapter), (MERGED, merged, None)):

        def beat(answered: int, _total: int, _numbers: dict, before: int = done, model: str = model) -> None:
            job.beat(before + answered, total, {"model": model})

        answers = ask_transformers(config, job.prompt, rows, folder, factors, beat)
        owner = ADAPTER if factors else model
        size_bytes = sum(p.stat().st_size for p in job.inputs[owner].glob("*.safetensors"))
        answers.model, answers.file_digest, answers.size_bytes = model, job.digests[owner], size_bytes
        done += len(rows)
        yield answers
    done_by_file = dict.fromkeys(files, 0)

    def ask(quantisation: str) -> Answers:
        def beat(answered: int, _total: int, _numbers: dict) -> None:
            done_by_file[quantisation] = answered
            job.beat(done + sum(done_by_file.values()), total, {"model": quantisation})

        path = files[quantisation]
        answers = ask_gguf(config, job.prompt, rows, path, digest, beat)
        answers.model, answers.file_digest, answers.size_bytes = quantisation, sha256_file(path), path.stat().st_size
        return answers

    # Small files run on one thread each (LlamaEngine), so that several are asked at once; large ones take every core.
    at_once = min(len(files), os.cpu_count() or 1) if all(map(is_small, files.values())) else 1
    with ThreadPoolExecutor(at_once) as pool:
        yield from pool.map(ask, files)


def gguf_files(folder: Path) -> dict[str, Path]:
    """Quantisation -> file, the least compressed first."""
    found = {path.stem.rpartition("-")[2]: path for path in folder.glob("model-*.gguf")}
    return dict(sorted(found.items(), key=lambda item: -item[1].stat().st_size))


def _judge(one: Answers, scores: dict[str, Scores], gates: Gates, floor: dict[str, float]) -> list[Check]:
    heldout_rows = len(next(iter(scores[one.model].values())))
    measured = {name: score_of(values, gates.interval_fraction)["value"] for name, values in scores[one.model].items()}
    largest = next((name for name in ("f32", "bf16", "f16") if name in scores), MERGED)
    for name, values in scores[one.model].items():
        stem = name.removesuffix("_fraction")
        over_base = difference_interval(values, scores[BASE][name], gates.interval_fraction)
        drop = difference_interval(scores[largest][name], values, gates.interval_fraction)
        told = over_base is not None and name in floor
        measured[f"tuned_over_base_{stem}_lower_bound"] = round(over_base[1] - floor[name], 6) if told else None
        measured[f"quantised_{stem}_drop_fraction"] = drop and drop[0]
    leaks = [
        text
        for text in one.texts[:heldout_rows]
        if re.search(f"{markers.RAW_MARKERS}|{markers.STRIPPED_MARKERS}", text)
    ]
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


def verify_evaluation(config: EvaluateConfig, job: Job) -> list[Check]:
    """Measure the evaluation itself; see the module's docstring."""
    board = json.loads((job.out / "leaderboard.json").read_text("utf-8"))
    verdicts = json.loads((job.out / "verdict.json").read_text("utf-8"))
    lines = [json.loads(line) for line in (job.out / "answers.jsonl").read_text("utf-8").splitlines()]
    rows, models = _heldout(job), [row["model"] for row in board]
    answered = sum(set(line["answers"]) == set(models) for line in lines)
    expected = len(rows) + len(load_recipe(job.recipe).reference_rows())
    digests = {BASE: job.digests[BASE], ADAPTER: job.digests[ADAPTER], MERGED: job.digests[MERGED]}
    digests |= {name: sha256_file(path) for name, path in gguf_files(job.inputs["gguf"]).items()}
    stale = [row["model"] for row in board if row["model"] != CEILING and row["file_digest"] != digests[row["model"]]]
    metric = load_gates(job.recipe).ceiling_metric
    ceiling = next(row for row in board if row["model"] == CEILING)["scores"][metric]["value"]
    unjudged = [name for name in digests if name not in (BASE, ADAPTER) and not verdicts.get(name)]
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
        check("published files that no gate judged", len(unjudged), "==", 0, detail=", ".join(unjudged)),
        report("verdict of the gates", str(overall(checks)), detail=f"{len(checks)} gates over {len(verdicts)} files"),
    ]


STAGE = Stage(
    name="evaluate_model",
    kind="evaluation",
    version=1,
    work=evaluate_model,
    verify=verify_evaluation,
    stack=("torch", "transformers", "peft", "llama_cpp_python"),
    contract=("prompt.md", "output.py", "gates.yaml", "examples/reference.jsonl"),
    uses_recipe=True,
)

if __name__ == "__main__":
    raise SystemExit(child_main(STAGE, EvaluateConfig))
