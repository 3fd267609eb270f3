"""How much memory a training run will take, from the base's config.json alone: told before a card is rented or loaded.

A sum of parts, each with its source; calibrated on miniatures on a CPU (tests/tasks/training/test_memory.py compares it with
the bytes that were alive), never on a card. Activations are per token of one forward pass; all of it is counted in GiB.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from data_contracts.errors import ConfigError
from data_contracts.verdict import Check, Verdict, check, report

if TYPE_CHECKING:
    from tasks.training.config import TrainConfig

_NF4_BYTES = 0.5 + 0.127 / 8
"""Of a weight in NF4 with double quantisation (QLoRA, arXiv 2305.14314, section 3)."""
_TRAINED_BYTES = 4 + 4 + 8
"""Of a trained parameter: float32 value, gradient, AdamW's two moments."""
_EAGER_BYTES = 8
"""Of one attention weight, (heads x tokens x tokens), that eager attention keeps: measured 6.1 forward, 8 with the backward."""
_CHUNK_TOKENS, _CHUNK_BYTES = 256, 16
"""TRL and Unsloth compute the loss on chunks of tokens: bytes of one logit in float32 with its softmax and gradients."""
_CARD_GIB = 0.7
"""What CUDA and its libraries take for themselves."""
_FRAGMENTS = 1.05
"""What the allocator cannot use between its blocks."""
_EAGER_ONLY = ("gpt_oss",)
"""Architectures whose attention (with sinks) has no other form without extra kernels."""


@dataclass(frozen=True)
class Shape:
    """What memory depends on, read from config.json."""

    layers: int
    hidden: int
    vocab: int
    heads: int
    layer_linears: Mapping[str, tuple[int, int]]
    """Linear layer of one transformer block -> (in, out)."""
    experts: Mapping[str, tuple[int, int, int]]
    """Parameter of one block that holds all experts -> (experts, in, out)."""
    used_width: int
    """Width of the MLP that one token passes: of all its experts together."""
    heads_width: int
    """Heads x their dimension, plus twice the same of the keys."""
    tied: bool
    eager: bool

    @property
    def linear_parameters(self) -> int:
        """Weights of the linear layers, the output head left out."""
        return self.layers * sum(a * b for a, b in self.layer_linears.values())

    @property
    def expert_parameters(self) -> int:
        """Weights of the experts."""
        return self.layers * sum(n * a * b for n, a, b in self.experts.values())

    @property
    def parameters(self) -> int:
        """All weights, without biases and norms, which are a thousandth."""
        embeddings = self.vocab * self.hidden * (1 if self.tied else 2)
        return self.linear_parameters + self.expert_parameters + embeddings


def read_shape(about: Mapping) -> Shape | None:
    """The shape of a decoder of the usual form; None where config.json does not say it in the usual words."""
    try:
        hidden, heads, inner = about["hidden_size"], about["num_attention_heads"], about["intermediate_size"]
        keys, head_dim = about.get("num_key_value_heads") or heads, about.get("head_dim") or hidden // heads
        experts = about.get("num_local_experts") or about.get("num_experts") or 0
        inner = about.get("moe_intermediate_size") or inner if experts else inner
        used = (about.get("num_experts_per_tok") or about["experts_per_token"]) if experts else 1
        linears = {"q_proj": (hidden, heads * head_dim), "o_proj": (heads * head_dim, hidden)}
        linears |= dict.fromkeys(("k_proj", "v_proj"), (hidden, keys * head_dim))
        dense = {"gate_proj": (hidden, inner), "up_proj": (hidden, inner), "down_proj": (inner, hidden)}
        fused = {"gate_up_proj": (experts, hidden, 2 * inner), "down_proj": (experts, inner, hidden)}
        return Shape(
            layers=about["num_hidden_layers"],
            hidden=hidden,
            vocab=about["vocab_size"],
            heads=heads,
            layer_linears=linears if experts else linears | dense,
            experts=fused if experts else {},
            used_width=inner * used,
            heads_width=head_dim * (heads + 2 * keys),
            tied=bool(about.get("tie_word_embeddings")),
            eager=about.get("model_type") in _EAGER_ONLY,
        )
    except (KeyError, TypeError):
        return None


@dataclass(frozen=True)
class Estimate:
    """Parts of the memory that training takes, in GiB."""

    parts: Mapping[str, float]

    @property
    def total_gib(self) -> float:
        """All parts, what the allocator loses, and what CUDA takes."""
        return round(sum(self.parts.values()) * _FRAGMENTS + _CARD_GIB, 2)

    def sentence(self) -> str:
        """The parts, largest first."""
        parts = sorted(self.parts.items(), key=lambda part: -part[1])
        return ", ".join(f"{name} {gib:.1f}" for name, gib in parts if gib >= 0.05) or "each part below 0.05"


def estimate(about: Mapping, train: TrainConfig, row_tokens: int) -> Estimate | None:
    """Memory of training on rows of up to `row_tokens` tokens; None for a base whose shape is not understood."""
    shape = read_shape(about)
    if shape is None:
        return None
    sequence = train.packing_tokens or row_tokens
    tokens = sequence * train.batch_rows
    attended = tokens if train.packing_tokens else sequence  # packs of one batch lie in one sequence
    compute = 4 if train.compute_dtype == "float32" else 2
    kept = 1 if train.gradient_checkpointing else shape.layers
    layer = _activation_bytes(shape, train, tokens, attended, compute)
    parts = {
        "weights": _weight_bytes(shape, train, compute),
        "trained parameters, gradients and optimizer": _trained_bytes(shape, train),
        "activations": kept * layer + shape.layers * tokens * shape.hidden * compute,
        "logits of the loss": _CHUNK_TOKENS * shape.vocab * _CHUNK_BYTES,
        "experts rebuilt with their update": _rebuilt_bytes(shape, train, compute),
    }
    return Estimate({name: size / 2**30 for name, size in parts.items()})


def _weight_bytes(shape: Shape, train: TrainConfig, compute: int) -> float:
    if train.method == "full":  # counted as trained; autocast keeps a copy in 16 bits
        return shape.parameters * compute if compute < 4 else 0
    if train.base_precision == "nf4":
        rest = shape.parameters - shape.linear_parameters
        wide = 4 if train.engine == "trl" else 2  # PEFT widens what bitsandbytes leaves alone
        return shape.linear_parameters * _NF4_BYTES + rest * wide
    return shape.parameters * compute


def _trained_bytes(shape: Shape, train: TrainConfig) -> float:
    if train.method == "full":
        return shape.parameters * _TRAINED_BYTES
    layers = sum(a + b for a, b in _adapted(shape, train))
    experts = sum(n * (a + b) for name, (n, a, b) in shape.experts.items() if _is_target(name, train))
    return shape.layers * train.rank * (layers + experts) * _TRAINED_BYTES


def _adapted(shape: Shape, train: TrainConfig) -> list[tuple[int, int]]:
    every = train.target_modules == "all-linear"
    return [sides for name, sides in shape.layer_linears.items() if every or name in train.target_modules]


def _is_target(name: str, train: TrainConfig) -> bool:
    return any(one.rpartition(".")[2] == name for one in train.target_parameters)


def _activation_bytes(shape: Shape, train: TrainConfig, tokens: int, attended: int, compute: int) -> float:
    """Of one block, kept for its backward pass: norms (float32), attention, the MLP's four products, an adapter's inputs."""
    norms = 2 * (8 + compute) * shape.hidden
    attention = 1.5 * compute * (shape.heads_width + shape.layer_linears["o_proj"][0])
    mlp = 4 * compute * shape.used_width
    widened = 4 * sum(a for a, _ in _adapted(shape, train)) if compute < 4 and train.method == "lora" else 0
    weights = _EAGER_BYTES * shape.heads * attended if shape.eager else 0
    return tokens * (norms + attention + mlp + widened + weights)


def _rebuilt_bytes(shape: Shape, train: TrainConfig, compute: int) -> float:
    """PEFT builds W + update for each adapted expert tensor, and the backward pass needs it again: as much as all of them.

    So it was for the story's run, which did not fit into 80 GB. On miniatures with peft 0.21.2 less was alive at once: three
    to five blocks' worth with gradient checkpointing, 1.6 times all blocks without. Nobody has measured it on a card with
    this stack; until then the larger number holds.
    """
    adapted = sum(n * a * b for name, (n, a, b) in shape.experts.items() if _is_target(name, train))
    return shape.layers * adapted * compute * (1.0 if train.gradient_checkpointing else 1.6)


def check_memory(needed: Estimate, card_gib: float, card: str) -> Check:
    """Does it fit? The check of a card by its name, or of the one that is there by what is free on it."""
    return check(
        f"memory that training takes, beside that of {card}",
        needed.total_gib,
        "<=",
        round(card_gib, 2),
        unit="GiB",
        detail=needed.sentence(),
        fix="Take a card with more memory; or lower train.batch_rows, validate_rows.max_length_tokens or train.packing_tokens, "
        "set train.gradient_checkpointing or train.base_precision nf4, leave train.target_parameters out. It is an estimate: "
        "train.when_memory_is_short: try starts all the same",
    )


def fit_on_this_machine(about: Mapping, train: TrainConfig, row_tokens: int) -> dict:
    """The estimate beside what is free on the card of this machine, as facts for the manifest.

    Raises:
        ConfigError: it does not fit, and `train.when_memory_is_short` is not "try".
    """
    import torch

    needed = estimate(about, train, row_tokens)
    if needed is None:
        return {"told": "cannot tell: config.json is of an unusual form"}
    facts = {"estimated_gib": needed.total_gib, "parts": needed.sentence()}
    if not torch.cuda.is_available():
        return {**facts, "told": "cannot tell: there is no card here"}
    found = check_memory(needed, torch.cuda.mem_get_info()[0] / 2**30, "this card")
    if found.verdict is not Verdict.PASS and train.when_memory_is_short == "refuse":
        raise ConfigError(f"train_lora: {found.sentence()}")
    return {**facts, "free_gib": found.threshold, "told": str(found.verdict)}


def peak_gib() -> float | None:
    """Most that training held on the card, in GiB, to be read beside the estimate; None without a card."""
    import torch

    return round(torch.cuda.max_memory_allocated() / 2**30, 2) if torch.cuda.is_available() else None


def report_memory(facts: Mapping) -> Check:
    """What was said before training, for whoever reads the manifest: never a number that looks compared when it was not."""
    detail = f"{facts['parts']} GiB" if "parts" in facts else ""
    peak = facts.get("peak_gib")
    if peak is not None:
        detail += f"; peak on the card {peak} GiB"
    told = facts["told"] if "estimated_gib" not in facts else f"{facts['estimated_gib']} GiB, {facts['told']}"
    return report("memory of training, estimated beforehand", told, detail=detail)
