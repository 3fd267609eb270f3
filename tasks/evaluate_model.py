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
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from data_contracts import markers
from data_contracts.gates import Gates, check_gates, load_gates
from data_contracts.verdict import Check, check, overall, report
from tasks.core.artifact import canonical_json, sha256_file
from tasks.core.stage import Job, Settings, Stage, child_main
from tasks.engines import chat, hf_engine
from tasks.engines.gguf_convert import PROMPT_CONTRACT_KEY
from tasks.engines.llama_engine import Generation, LlamaEngine, is_small
from tasks.engines.prompt_digest import contract_digest, refuse_another_contract
from tasks.engines.scoring import difference_interval, measure_of, score_of
from tasks.recipes import load_recipe

CEILING, BASE, ADAPTER, MERGED = "ceiling", "base", "adapter", "merged"


class EvaluateConfig(Settings):
    """How models are asked."""

    max_new_tokens: int = Field(default=512, ge=8)
    """Longest answer, in tokens; one that is cut off counts as unreadable."""
    metamorphic_rows: int = Field(default=24, ge=0)
    """Held-out rows that are asked again with the question negated, the subject swapped, the date moved; 0 for none."""
    batch_rows: int = Field(default=64, ge=1)
    """Rows that transformers answers at once."""
    compute_dtype: str = Field(default="float32", pattern="^(float32|bfloat16|float16)$")
    """Type in which transformers computes."""


@dataclass
class Answers:
    """What one model said to every row, and what it is."""

    model: str
    texts: list[str]
    cut_off: int = 0
    generated_tokens: int = 0
    seconds: float = 0.0
    file_digest: str | None = None
    size_bytes: int | None = None
    bits_per_weight: float | None = None


def evaluate_model(config: EvaluateConfig, job: Job) -> dict:
    """Ask, score, judge; returns the speeds, which are this machine's and so no part of the artifact."""
    recipe, gates = load_recipe(job.recipe), load_gates(job.recipe)
    lineage = json.loads((job.inputs[ADAPTER] / "lineage.json").read_text("utf-8"))
    expected = contract_digest(job.prompt, job.inputs[BASE])
    refuse_another_contract("evaluate_model: the adapter", lineage.get("prompt_contract"), expected)
    rows = _heldout(job)
    reference = recipe.reference_rows()
    probes = _probes(recipe, rows[: config.metamorphic_rows])
    asked = [*rows, *reference, *(changed for _, _, changed in probes)]
    everyone = list(_ask_everyone(config, job, recipe, asked))
    board, verdicts, scores = [], {}, {}
    for one in everyone:
        parsed = [recipe.parse_output(text) for text in one.texts]
        per_row = [recipe.score(row, answer) for row, answer in zip(rows, parsed, strict=False)]
        scores[one.model] = {name: [r[name] for r in per_row] for name in per_row[0]}
        shown = scores[one.model] | _metamorphic(recipe, probes, parsed, len(rows) + len(reference))
        board.append(_board_row(one, shown, gates))
        board[-1]["measures"] = _measures(recipe, rows, parsed[: len(rows)], gates)
        board[-1]["reference_right"] = _reference(recipe, reference, parsed[len(rows) :])
    published = [one for one in everyone if one.model not in (CEILING, BASE, ADAPTER)]
    for one in published:
        verdicts[one.model] = [c.model_dump(mode="json") for c in _judge(one, scores, gates, len(rows))]
    _write(job.out / "leaderboard.json", board)
    _write(job.out / "verdict.json", verdicts)
    with (job.out / "answers.jsonl").open("w", encoding="utf-8") as file:
        for i, row in enumerate(rows + reference):
            answers = {one.model: one.texts[i] for one in everyone}
            right = {one.model: recipe.all_right(row, recipe.parse_output(one.texts[i])) for one in everyone}
            file.write(json.dumps({"row": row, "answers": answers, "right": right}, ensure_ascii=False) + "\n")
    _write_probes(job.out / "probes.jsonl", probes, everyone, len(rows) + len(reference))
    speeds = {one.model: round(one.generated_tokens / one.seconds, 1) for one in everyone if one.seconds}
    return {"tokens_per_s": speeds, "generated_tokens": sum(one.generated_tokens for one in everyone)}


def _write_probes(path: Path, probes: list[tuple[str, int, dict]], everyone: list[Answers], start: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        for place, (kind, i, row) in enumerate(probes, start):
            line = {
                "kind": kind,
                "row": i,
                "changed": row,
                "answers": {one.model: one.texts[place] for one in everyone},
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", "utf-8")


def _heldout(job: Job) -> list[dict]:
    return [json.loads(line) for line in (job.inputs["rows"] / "heldout.jsonl").read_text("utf-8").splitlines()]


def _ask_everyone(config: EvaluateConfig, job: Job, recipe, rows: list[dict]) -> Iterator[Answers]:
    files = gguf_files(job.inputs["gguf"])
    total, done = len(rows) * (3 + len(files)), 0
    yield Answers(CEILING, [recipe.completion(row) for row in rows])
    base, adapter, merged = (job.inputs[name] for name in (BASE, ADAPTER, MERGED))
    for model, folder, factors in ((BASE, base, None), (ADAPTER, base, adapter), (MERGED, merged, None)):
        answers = _ask_transformers(
            config, job, rows, folder, factors, lambda n, _t, _x, d=done, m=model: job.beat(d + n, total, {"model": m})
        )
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
        answers = _ask_llama(config, job, rows, path, beat)
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


def _ask_transformers(config: EvaluateConfig, job: Job, rows, folder: Path, adapter: Path | None, beat) -> Answers:
    with hf_engine.quiet():
        tokenizer = hf_engine.load_tokenizer(folder)
        model = hf_engine.load_model(folder, config.compute_dtype, adapter)
    stops = chat.stop_ids(tokenizer, model.generation_config.to_dict())
    prompts = [chat.text_ids(tokenizer, chat.prompt_text(tokenizer, job.prompt, row)) for row in rows]
    started = time.monotonic()
    answers = hf_engine.generate(model, tokenizer, prompts, config.max_new_tokens, stops, config.batch_rows, beat)
    return _answers(answers, time.monotonic() - started)


def _ask_llama(config: EvaluateConfig, job: Job, rows, path: Path, beat) -> Answers:
    """Asked as a user's program would: the file's own chat template, tokenizer and end token."""
    with LlamaEngine(path) as engine:
        carried = engine.metadata.get(PROMPT_CONTRACT_KEY)
        refuse_another_contract(
            f"evaluate_model: {path.name}", carried, contract_digest(job.prompt, job.inputs[MERGED])
        )
        prompts = [engine.tokenize(engine.render_chat(job.prompt.messages(row))) for row in rows]
        started = time.monotonic()
        answers = engine.generate(prompts, config.max_new_tokens, progress=beat)
        return _answers(answers, time.monotonic() - started)


def _answers(answers: list[Generation], seconds: float) -> Answers:
    tokens = sum(len(one.ids) for one in answers)
    return Answers("", [one.text for one in answers], sum(one.stopped == "length" for one in answers), tokens, seconds)


def _board_row(one: Answers, scores: dict[str, list[float | None]], gates: Gates) -> dict:
    return {
        "model": one.model,
        "file_digest": one.file_digest,
        "size_bytes": one.size_bytes,
        "cut_off_answers": one.cut_off,
        "scores": {name: score_of(values, gates.interval_fraction) for name, values in scores.items()},
    }


def _reference(recipe, reference: list[dict], parsed: list) -> dict[str, bool]:
    """Whether each of the fixed reference examples was answered rightly."""
    pairs = zip(reference, parsed, strict=False)
    return {row.get("reference", str(i)): recipe.all_right(row, one) for i, (row, one) in enumerate(pairs)}


def _probes(recipe, rows: list[dict]) -> list[tuple[str, int, dict]]:
    """(kind of change, number of the row that was changed, the changed row)"""
    return [(kind, i, changed) for i, row in enumerate(rows) for kind, changed in recipe.probe().variants(row).items()]


def _metamorphic(recipe, probes: list[tuple[str, int, dict]], parsed: list, start: int) -> dict[str, list[float]]:
    """Kind of change -> for each changed row, did the answer change as it must. `start`: where their answers begin."""
    found: dict[str, list[float]] = {}
    for (kind, i, _), after in zip(probes, parsed[start:], strict=True):
        found.setdefault(f"metamorphic_{kind}_fraction", []).append(float(recipe.probe().holds(kind, parsed[i], after)))
    return found


def _measures(recipe, rows: list[dict], parsed: list, gates: Gates) -> dict[str, dict]:
    paired = recipe.probe().paired_measures(rows, parsed)
    return {name: measure_of(pairs, statistic, gates.interval_fraction) for name, (statistic, pairs) in paired.items()}


def _judge(one: Answers, scores: dict, gates: Gates, heldout_rows: int) -> list[Check]:
    measured = {name: score_of(values, gates.interval_fraction)["value"] for name, values in scores[one.model].items()}
    largest = next((name for name in ("f32", "bf16", "f16") if name in scores), MERGED)
    for name, values in scores[one.model].items():
        stem = name.removesuffix("_fraction")
        over_base = difference_interval(values, scores[BASE][name], gates.interval_fraction)
        drop = difference_interval(scores[largest][name], values, gates.interval_fraction)
        measured[f"tuned_over_base_{stem}_lower_bound"] = over_base and over_base[1]
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
    ceiling = next(row for row in board if row["model"] == CEILING)["scores"]["valid_json_fraction"]["value"]
    unjudged = [name for name in digests if name not in (BASE, ADAPTER) and not verdicts.get(name)]
    checks = [Check(**one) for each in verdicts.values() for one in each]
    canonical_json(board)
    return [
        check("rows that every model answered once", answered, "==", expected, detail=f"{len(models)} models"),
        check("scored files whose digest is not the one listed", len(stale), "==", 0, detail=", ".join(stale)),
        check(
            "share of expected answers that the parser reads (ceiling)",
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
