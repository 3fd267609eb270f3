"""Train on validated rows, with TRL or Unsloth: a LoRA adapter, or every weight (method full).

Reads:    base (16-bit, or an NF4 copy of it made while loading), rows (train.parquet, heldout.parquet).
Writes:   lora: adapter_model.safetensors, adapter_config.json. full: a model folder, float32, with the base's tokenizer,
          template and configs. Both: lineage.json (base, rows, prompt contract), training_log.jsonl.
Verifies: it reloads; every B factor is finite and non-zero, or every layer moved and is finite; the modules are those asked
          for; the steps run are the steps asked; the labels of collated batches are exactly the answers (or whole rows, where
          the loss is asked on them) and no token was lost; rows in a pack do not see one another; held-out loss is below the
          base's; nothing was forgotten: loss on general text, and number, length, repetition and conclusion of the traces,
          stayed within bounds; a resume came from this fingerprint only.
"""

from __future__ import annotations

import json
from typing import Literal

from pydantic import Field, model_validator

from data_contracts.verdict import Check
from tasks.core.settings import ChecksOnly, Settings
from tasks.core.stage import Job, Stage, child_main
from tasks.engines import adapter_checks, lora_trainer, whole_weights
from tasks.engines.forgetting import check_forgetting
from tasks.engines.forgetting_checks import ForgettingConfig
from tasks.engines.token_rows import CONTRACT_FILE
from tasks.engines.trained import LINEAGE


class TrainConfig(Settings):
    """How the model is trained."""

    method: Literal["lora", "full"] = "lora"
    """lora: a small update of each layer. full: every weight, held in float32: 16 bytes a parameter before activations."""
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
    """Layers that get an adapter, by the end of their name; all-linear is every linear layer, the output head left out. The
    experts of a mixture of experts are parameters and not layers: all-linear leaves them frozen."""
    target_parameters: tuple[str, ...] = ()
    """Parameters that get an adapter, by the end of their name: mlp.experts.gate_up_proj and mlp.experts.down_proj are the
    experts of gpt-oss. PEFT cannot apply dropout to them."""
    completion_only_loss: bool = True
    """Learn to answer. false: learn the prompts too, as continued pre-training does."""
    packing_tokens: int | None = Field(default=None, ge=16)
    """Put several rows into one sequence of up to so many tokens, so that no batch is padded; rows do not see one another,
    which is measured before the first step. At least validate_rows.max_length_tokens: what is longer would be cut."""
    learning_rate: float = Field(default=5e-5, gt=0, lt=1)
    """Peak learning rate. The story's 1e-4 over 5 epochs made a 0.6B model forget how to think; 5e-5 did not."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls after the warm-up."""
    warmup_fraction: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps in which the learning rate rises."""
    epochs: float = Field(default=3.0, gt=0)
    """Passes over the training rows."""
    batch_rows: int = Field(default=8, ge=1)
    """Rows of one forward pass; with packing_tokens, packs."""
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    """Forward passes of one optimizer step."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third slower."""
    when_memory_is_short: ChecksOnly[Literal["refuse", "try"]] = "refuse"
    """refuse: do not start when the estimate exceeds the card's memory. try: say so, and start all the same."""
    checkpoint_every_steps: int = Field(default=50, ge=1)
    """A crash loses at most this many steps."""
    seed: int = Field(default=42, ge=0)
    """Order of rows and first values of the A factors."""
    forgetting: ChecksOnly[ForgettingConfig] = ForgettingConfig()
    """How far the run may move the base away from what it could do."""

    @model_validator(mode="after")
    def _possible_together(self) -> TrainConfig:
        problems = [sentence for holds, sentence in self._impossible() if holds]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _impossible(self) -> list[tuple[bool, str]]:
        """(is asked for, why it cannot be)"""
        unsloth, full = self.engine == "unsloth", self.method == "full"
        lora_only = ("rank", "alpha", "dropout", "target_modules", "target_parameters")
        defaults = {name: type(self).model_fields[name].default for name in lora_only}
        unread = [name for name, default in defaults.items() if getattr(self, name) != default]
        return [
            (
                unsloth and bool(self.dropout),
                "dropout must be 0 with engine unsloth, whose fused kernels do not apply it",
            ),
            (
                unsloth and self.packing_tokens is not None,
                "packing_tokens needs engine trl: Unsloth turns packing off by itself where FlashAttention is missing",
            ),
            (unsloth and full, "method full needs engine trl, which holds the weights in float32"),
            (
                unsloth and bool(self.target_parameters),
                "target_parameters needs engine trl: Unsloth writes adapters of experts in a form of its own",
            ),
            (
                bool(self.target_parameters and self.dropout),
                "dropout must be 0 with target_parameters: PEFT cannot apply it to a parameter",
            ),
            (
                full and self.base_precision == "nf4",
                "base_precision must be 16bit with method full: 4-bit weights cannot be trained",
            ),
            (full and bool(unread), f"{', '.join(unread)} must be left out with method full, which has no adapter"),
        ]


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
    (job.out / LINEAGE).write_text(json.dumps(lineage, indent=1, sort_keys=True) + "\n", "utf-8")
    (job.work / "outcome.json").write_text(json.dumps(outcome), "utf-8")
    return outcome


def verify_adapter(config: TrainConfig, job: Job) -> list[Check]:
    """Measure the written adapter; see the module's docstring."""
    outcome = json.loads((job.work / "outcome.json").read_text("utf-8"))
    lineage = json.loads((job.out / LINEAGE).read_text("utf-8"))
    return [
        *adapter_checks.check_run(outcome, lineage, job, config.completion_only_loss),
        *_check_weights(config, job),
        *adapter_checks.check_behaviour(job),
        *check_forgetting(config.forgetting, config.compute_dtype, job),
    ]


def _check_weights(config: TrainConfig, job: Job) -> list[Check]:
    base = job.inputs["base"]
    if config.method == "full":
        return whole_weights.check_whole(job.out, base, adapter_checks.expected_modules(base, "all-linear"))
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
    checks_texts=("tasks/engines/general_text.txt",),
)

if __name__ == "__main__":
    raise SystemExit(child_main(STAGE, TrainConfig))
