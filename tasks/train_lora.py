"""Train a LoRA adapter on the completions of validated rows, with TRL or Unsloth.

Reads:    base (16-bit, or an NF4 copy of it made while loading), rows (train.parquet, heldout.parquet).
Writes:   adapter_model.safetensors, adapter_config.json, lineage.json (base, rows, prompt contract), training_log.jsonl.
Verifies: the adapter reloads; every B factor is finite and non-zero; the modules are those asked for; the steps run are
          the steps asked; the labels of a collated batch are exactly the answers; held-out loss is below the base's;
          nothing was forgotten: loss on general text, and number, length, repetition and conclusion of the traces, stayed
          within bounds; a resume came from this fingerprint only.
"""

from __future__ import annotations

import json
from typing import Literal

from pydantic import Field, model_validator

from data_contracts.verdict import Check
from tasks.core.stage import Job, Settings, Stage, child_main
from tasks.engines import adapter_checks, lora_trainer
from tasks.engines.forgetting import check_forgetting
from tasks.engines.forgetting_checks import ForgettingConfig
from tasks.engines.token_rows import CONTRACT_FILE


class TrainConfig(Settings):
    """How the adapter is trained."""

    engine: Literal["trl", "unsloth"] = "trl"
    """trl: Hugging Face TRL and PEFT. unsloth: the same trainer with Unsloth's kernels."""
    base_precision: Literal["16bit", "nf4"] = "16bit"
    """nf4: QLoRA, the base is held in 4 bits while training. The merge uses the 16-bit base either way."""
    compute_dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Type of activations and of the frozen base; float32 on a CPU."""
    rank: int = Field(default=16, ge=1, le=512)
    """Rank of the update of each layer."""
    alpha: int = Field(default=32, ge=1)
    """The update is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the adapter's input, as a fraction."""
    target_modules: list[str] | Literal["all-linear"] = "all-linear"
    """Layers that get an adapter, by the end of their name; all-linear is every projection, the output head left out."""
    learning_rate: float = Field(default=5e-5, gt=0, lt=1)
    """Peak learning rate. The story's 1e-4 over 5 epochs made a 0.6B model forget how to think; 5e-5 did not."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls after the warm-up."""
    warmup_fraction: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps in which the learning rate rises."""
    epochs: float = Field(default=3.0, gt=0)
    """Passes over the training rows."""
    batch_rows: int = Field(default=8, ge=1)
    """Rows of one forward pass."""
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    """Forward passes of one optimizer step."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third slower."""
    checkpoint_every_steps: int = Field(default=50, ge=1)
    """A crash loses at most this many steps."""
    seed: int = Field(default=42, ge=0)
    """Order of rows and first values of the A factors."""
    forgetting: ForgettingConfig = ForgettingConfig()
    """How far the run may move the base away from what it could do."""

    @model_validator(mode="after")
    def _unsloth_limits(self) -> TrainConfig:
        if self.engine == "unsloth" and self.dropout:
            raise ValueError("dropout must be 0 with engine unsloth, whose fused kernels do not apply it")
        return self


def train_lora(config: TrainConfig, job: Job) -> dict:
    """Train, resuming from this fingerprint's own checkpoint if there is one; write the adapter to `job.out`."""
    outcome = lora_trainer.train(config, job)
    lineage = {
        "base_digest": job.digests["base"],
        "base_precision": config.base_precision,
        "rows_digest": job.digests["rows"],
        "prompt_contract": json.loads((job.inputs["rows"] / CONTRACT_FILE).read_text("utf-8"))["digest"],
    }
    (job.out / "lineage.json").write_text(json.dumps(lineage, indent=1, sort_keys=True) + "\n", "utf-8")
    (job.work / "outcome.json").write_text(json.dumps(outcome), "utf-8")
    return outcome


def verify_adapter(config: TrainConfig, job: Job) -> list[Check]:
    """Measure the written adapter; see the module's docstring."""
    outcome = json.loads((job.work / "outcome.json").read_text("utf-8"))
    return [
        *adapter_checks.check_run(outcome, json.loads((job.out / "lineage.json").read_text("utf-8")), job),
        *adapter_checks.check_factors(job.out, job.inputs["base"], config.target_modules),
        *adapter_checks.check_behaviour(job),
        *check_forgetting(config.forgetting, config.compute_dtype, job),
    ]


def _engine_stack(config: TrainConfig) -> tuple[str, ...]:
    used = {"unsloth": config.engine == "unsloth", "bitsandbytes": config.base_precision == "nf4"}
    return tuple(name for name, wanted in used.items() if wanted)


STAGE = Stage(
    name="train_lora",
    kind="lora-adapter",
    version=1,
    work=train_lora,
    verify=verify_adapter,
    stack=("torch", "transformers", "trl", "peft", "accelerate"),
    optional_stack=_engine_stack,
    texts=("tasks/engines/general_text.txt",),
    uses_recipe=True,
)

if __name__ == "__main__":
    raise SystemExit(child_main(STAGE, TrainConfig))
