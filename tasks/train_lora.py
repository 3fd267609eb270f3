"""Train on validated rows, with TRL or Unsloth: a LoRA adapter, or every weight (method full).

Reads:    base (16-bit, or an NF4 copy of it made while loading), rows (train.parquet, heldout.parquet).
Writes:   lora: adapter_model.safetensors, adapter_config.json. full: a model folder, float32, with the base's tokenizer,
          template and configs. Both: lineage.json (base, rows, prompt contract), training_log.jsonl.
Verifies: it reloads; every B factor is finite and non-zero, or every layer moved and is finite; the modules are those asked
          for; the steps run are the steps asked; the labels of collated batches are exactly the answers (or whole rows, where
          the loss is asked on them) and no token was lost; rows in a pack do not see one another; held-out loss is below the
          base's; nothing was forgotten: loss on general text, and number, length, repetition and conclusion of the traces,
          stayed within bounds (what both models answered is in forgetting.html of the work folder); a resume came from this
          fingerprint only.
"""

from __future__ import annotations

import json

from data_contracts.verdict import Check
from tasks.core.stage import Job, Stage
from tasks.core.stage_process import child_main
from tasks.formats.jsonl import write_json
from tasks.formats.token_rows import CONTRACT_FILE
from tasks.formats.trained import LINEAGE
from tasks.reports.forgetting_board import render_forgetting
from tasks.training import adapter_checks, full_weights
from tasks.training import trainer as lora_trainer
from tasks.training.config import TrainConfig
from tasks.training.forgetting import ANSWERS_FILE, Trained, check_forgetting
from tasks.training.forgetting_checks import BOARD_FILE


def train_lora(config: TrainConfig, job: Job) -> dict:
    """Train, resuming from this fingerprint's own checkpoint if there is one; write the adapter to `job.out`."""
    outcome = lora_trainer.train(config, job)
    lineage = {
        "base_digest": job.digests["base"],
        "base_precision": config.base_precision,
        "rows_digest": job.digests["rows"],
        "prompt_contract": json.loads((job.inputs["rows"] / CONTRACT_FILE).read_text("utf-8"))["digest"],
        "method": config.method,
        "wrapped_parameters": outcome.pop("wrapped_parameters"),
    }
    write_json(job.out / LINEAGE, lineage, sort_keys=True)
    write_json(job.work / "outcome.json", outcome)
    return outcome


def verify_adapter(config: TrainConfig, job: Job) -> list[Check]:
    """Measure the written adapter; see the module's docstring."""
    outcome = json.loads((job.work / "outcome.json").read_text("utf-8"))
    lineage = json.loads((job.out / LINEAGE).read_text("utf-8"))
    checks = [
        *adapter_checks.check_run(outcome, lineage, job, config.completion_only_loss),
        *_check_weights(config, job),
        *adapter_checks.check_behaviour(found := adapter_checks.measure_behaviour(job)),
    ]
    trained = Trained(found.base, found.tuned, outcome["training_s"])
    forgetting = check_forgetting(config.forgetting, config.compute_dtype, job, trained)
    if (answers := job.work / ANSWERS_FILE).is_file():
        (job.work / BOARD_FILE).write_text(render_forgetting(job.recipe, answers, forgetting), "utf-8")
    return [*checks, *forgetting]


def _check_weights(config: TrainConfig, job: Job) -> list[Check]:
    base = job.inputs["base"]
    if config.method == "full":
        return full_weights.check_whole(job.out, base, adapter_checks.expected_modules(base, "all-linear"))
    expected = adapter_checks.expected_modules(base, config.target_modules, config.target_parameters)
    return adapter_checks.check_factors(job.out, expected)


def _engine_stack(config: TrainConfig) -> tuple[str, ...]:
    used = {"unsloth": config.engine == "unsloth", "bitsandbytes": config.base_precision == "nf4"}
    return tuple(name for name, wanted in used.items() if wanted)


STAGE = Stage(
    name="train_lora",
    kind="lora-adapter",
    other_kind=lambda config: "trained-model" if config.method == "full" else None,
    version=1,
    work=train_lora,
    verify=verify_adapter,
    stack=("torch", "transformers", "trl", "peft", "accelerate"),
    optional_stack=_engine_stack,
    checks_contract=("prompt.md", "output.py"),
    checks_texts=(
        "tasks/training/general_text.txt",
        *(f"tasks/reports/{name}" for name in ("forgetting.html.j2", "report.css", "answers.css")),
    ),
)

if __name__ == "__main__":
    raise SystemExit(child_main(STAGE, TrainConfig))
