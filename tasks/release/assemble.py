"""A release as data, from the manifests and files of the artifacts behind it; nothing is measured here."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from data_contracts.gates import load_gates
from data_contracts.prompting.prompt import load_prompt
from data_contracts.verdict import Check, Verdict, check, overall
from tasks.core.errors import ArtifactError
from tasks.formats.jsonl import read_lines
from tasks.recipes import load_recipe
from tasks.release.shareable import read_manifest
from tasks.reports.data import Costs, LeaderboardRow, LossPoint, Measure, ReleaseData, Sample, Score, StageRecord

_SAMPLES = 10
_MOST_GATED = 6
"""With more gates than fit a terminal, its table shows what models are ranked by; the report has them all."""
_TEACHER = "generate_teacher"
"""The stage whose answers are counted as `completion_tokens`, as its servers do."""
_REFERENCE = "reference_examples_right_fraction"
_NOT_PROVEN = (
    "That it answers well outside its recipe: only held-out rows of the same kind were asked.",
    "That it is better than other fine-tunes: it is compared with its own base and with the ceiling of its labels.",
    "Sampling: every answer here is greedy.",
)


def assemble(
    name: str, recipe: str, manifests: Mapping[str, Path], inputs: Mapping[str, Path], card: dict
) -> ReleaseData:
    """The release of one run. `manifests` and `inputs` map input names (base, rows, ...) to files and folders;
    `card` is what only the publisher knows (CardConfig).

    Raises:
        ArtifactError: a manifest is missing, so the lineage would have a hole.
    """
    if lost := sorted(set(inputs) - set(manifests)):
        raise ArtifactError(
            f"release: no manifest for {', '.join(lost)}; the lineage would have a hole. Build them again."
        )
    read = {role: read_manifest(path) for role, path in manifests.items()}
    verdicts = json.loads((inputs["evaluation"] / "verdict.json").read_text("utf-8"))
    gates = {model: [Check(**one) for one in checks] for model, checks in verdicts.items()}
    named = _named(read)
    stages = [_record(stage, manifest) for stage, manifest in named.items()]
    verdict = overall([*(c for checks in gates.values() for c in checks), *(c for s in stages for c in s.checks)])
    facts = read["evaluation"]["facts"]
    return ReleaseData(
        name=name,
        recipe=recipe,
        verdict=verdict,
        stages=stages,
        leaderboard=_board(name, inputs, gates, facts, read["gguf"]),
        headline=_headline(recipe),
        loss_curve=_losses(inputs["adapter"], read["adapter"]),
        samples=_samples(recipe, inputs["evaluation"]),
        not_proven=list(_NOT_PROVEN),
        prompt=load_prompt(recipe),
        config={**{stage: m["config"] for stage, m in named.items()}, "card": card},
        costs=_costs(named.values(), read["adapter"]["facts"].get("train_tokens")),
    )


def _named(read: Mapping[str, dict]) -> dict[str, dict]:
    """Name of a stage -> its manifest: each artifact once, whatever roles it has, and each name once.

    A stage is named after the part of the run that built it first. Artifacts of other runs may so be named alike; then
    all of that stage take the role that they have here.
    """
    once: dict[tuple[str, str], tuple[str, dict]] = {}
    for role, manifest in read.items():
        name = f"{manifest['part']} {manifest['stage']}".strip()
        once.setdefault((name, manifest["digest"]), (role, manifest))
    times = Counter(name for name, _ in once)
    alike = {manifest["stage"] for (name, _), (_, manifest) in once.items() if times[name] > 1}
    return {
        f"{role} {manifest['stage']}" if manifest["stage"] in alike else name: manifest
        for (name, _), (role, manifest) in once.items()
    }


def _costs(manifests: Collection[dict], train_tokens: int | None) -> Costs:
    """What all stages cost together. A number that no stage tells stays unknown: it is not 0."""
    facts = [manifest["facts"] for manifest in manifests]
    answered = [m["facts"].get("completion_tokens") for m in manifests if m["stage"] == _TEACHER]
    return Costs(
        seconds=sum(manifest["cost"]["seconds"] for manifest in manifests),
        train_tokens=train_tokens,
        generated_tokens=_sum([*(one.get("generated_tokens") for one in facts), *answered]),
        peak_memory_bytes=max(manifest["cost"].get("peak_memory_bytes", 0) for manifest in manifests),
        price=_sum([one.get("price_usd") for one in facts]),
    )


def _sum(numbers: list[Any]) -> Any:
    known = [one for one in numbers if one is not None]
    return sum(known) if known else None


def _headline(recipe: str) -> list[str]:
    """What a gate looks at, and the fixed benchmark: few enough for one table."""
    gates = load_gates(recipe)
    gated = [name for name in gates.metrics if not name.startswith(("tuned_over_base", "quantised_"))]
    if len(gated) > _MOST_GATED and gates.ranking:
        gated = [one.metric for one in gates.ranking]
    return [*gated, *gates.shown, _REFERENCE]


def gate_checks(evaluation: Path) -> list[tuple[str, Check]]:
    """Every gate of every published file, with the model it judges."""
    verdicts = json.loads((evaluation / "verdict.json").read_text("utf-8"))
    return [(model, Check(**one)) for model, checks in verdicts.items() for one in checks]


def _record(stage: str, manifest: dict) -> StageRecord:
    return StageRecord(
        stage=stage,
        artifact_digest=manifest["digest"],
        key=manifest["key"],
        inputs={role: one["digest"] for role, one in manifest["inputs"].items()},
        seconds=manifest["cost"]["seconds"],
        rebuilt_because=manifest["rebuilt_because"],
        checks=[Check(**one) for one in manifest["verified"]],
        facts=manifest["facts"],
    )


def _board(
    name: str, inputs: Mapping[str, Path], gates: dict[str, list[Check]], facts: dict, gguf: dict
) -> list[LeaderboardRow]:
    rows = []
    for row in json.loads((inputs["evaluation"] / "scores.json").read_text("utf-8")):
        model = row["model"]
        is_gguf = (inputs["gguf"] / f"model-{model}.gguf").is_file()
        scores = {metric: Score(**score) for metric, score in row["scores"].items()}
        reference = list(row["reference_right"].values())
        scores[_REFERENCE] = Score(value=sum(reference) / max(len(reference), 1), n=len(reference))
        rows.append(
            LeaderboardRow(
                model=model,
                file_digest=row["file_digest"],
                path=f"gguf/{name}-{model}.gguf" if is_gguf else ("model" if model == "merged" else None),
                size_bytes=row["size_bytes"],
                bits_per_weight=gguf["facts"].get("bits_per_weight", {}).get(model),
                tokens_per_s=facts["tokens_per_s"].get(model),
                scores=scores,
                measures={metric: Measure(**one) for metric, one in row["measures"].items()},
                verdict=overall(gates[model]) if model in gates else None,
            )
        )
    return rows


def _losses(adapter: Path, manifest: dict) -> list[LossPoint]:
    points = [LossPoint(**line) for line in read_lines(adapter / "training_log.jsonl")]
    heldout = next((one for one in manifest["verified"] if one["name"] == "held-out loss"), None)
    if heldout and points:
        points.append(LossPoint(step=0, heldout_loss=heldout["threshold"]))
        points.append(LossPoint(step=points[-2].step, heldout_loss=heldout["measured"]))
    return points


def _samples(recipe: str, evaluation: Path) -> list[Sample]:
    """Rows worth reading: those on which the models differ first, then the others, in the file's order."""
    prompt, module = load_prompt(recipe), load_recipe(recipe)
    lines = read_lines(evaluation / "answers.jsonl")
    mixed = [line for line in lines if len(set(line["right"].values())) > 1]
    rest = [line for line in lines if len(set(line["right"].values())) == 1]
    chosen = (mixed[: _SAMPLES - 2] + rest)[:_SAMPLES]
    return [
        Sample(
            row=line["row"],
            prompt=prompt.messages(line["row"])[-1]["content"],
            expected=module.completion(line["row"]),
            answers=line["answers"],
            correct=line["right"],
        )
        for line in chosen
    ]


def verdict_check(evaluation: Path) -> Check:
    """The verdict of all gates as one check, with the gates that did not pass named."""
    gates = gate_checks(evaluation)
    bad = [f"{model}: {one.sentence()}" for model, one in gates if one.verdict is not Verdict.PASS]
    return check("gates that did not pass", len(bad), "==", 0, enough=bool(gates), detail="; ".join(bad[:6]))
