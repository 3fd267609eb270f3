"""How a model is trained, and how far that may move it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tasks.core.settings import ChecksOnly, Settings


class ForgettingConfig(Settings):
    """How far a fine-tune may move the base away from what it could do.

    Measured for the defaults: on nano, three seeds each, the profile's run and one at 20 times its learning rate, which the
    held-out loss lets pass; and 150 hand-written traces. DECISIONS.md has what was recorded of it (bounds of forgetting).
    """

    probe_rows: int = Field(default=24, ge=1)
    """Held-out prompts that base and base+adapter answer, greedily; twice as many, up to all, while a number beyond its limit
    could still lie there by chance, and max_probe_time_fraction allows it."""
    max_probe_time_fraction: float = Field(default=0.5, gt=0)
    """Most time that the answers of both models may take, as a fraction of the training's; a minute is always allowed, and
    min_probe_traces prompts are always answered. Measured without it on SmolLM2-135M: 26 minutes after 17 of training."""
    probe_answer_ratio: float = Field(default=2.0, gt=1)
    """Longest answer to a probed prompt, as a multiple of the longest answer of the training rows in tokens; at least 32
    tokens, at most what the context leaves. A healthy model stays near what it was taught (max_trace_length_ratio), and more
    only lets a loop run on: measured by a constant of 1,024 tokens, the probe outlasted the training that it judged."""
    min_probe_traces: int = Field(default=8, ge=1)
    """Fewest answers, or concluding traces, from which a share or a median is judged; from fewer it cannot be told."""
    max_trace_loss_fraction: float = Field(default=0.1, ge=0, lt=1)
    """How far the share of answers with exactly one well-formed trace may fall below the base's: two of 24. Measured: the
    right run loses none, a collapsed one all."""
    max_cut_off_fraction: float = Field(default=0.1, ge=0, le=1)
    """Largest share of answers that reach that length, or the base's own share when that is larger; 1 refuses none. Measured
    as above: none, all."""
    max_trace_length_ratio: float = Field(default=1.5, gt=1)
    """How many times longer, or shorter, the median trace may be than the training rows', in characters; a base that lies
    further off widens that side, for the run moves its traces from there. Measured: 1.31 for the right run, whose greedy
    traces are the grammar's longest; hand-written traces lie between 0.8 and 1.2 of their median."""
    max_repetition_fraction: float = Field(default=0.05, ge=0, lt=1)
    """Largest mean share of repeated 4-grams in a trace, or the base's own when that is larger. Measured: at most 0.01 in a
    hand-written trace, at least 0.2 when half of it is a loop, 0.99 in a collapsed model's answers."""
    min_agreement_fraction: float = Field(default=0.8, gt=0, le=1)
    """Smallest share of traces whose conclusion is what the answer says, among those whose words conclude; or the base's
    own share when that is smaller. Measured: 1.0 for the right run, at most 0.21 for the aggressive one."""
    max_general_loss_increase_nats: float = Field(default=0.5, ge=0)
    """How much the loss on general text may rise, in nats a token: 0.5 multiplies the perplexity by 1.65. Not measured on a
    base that knows general text."""


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
