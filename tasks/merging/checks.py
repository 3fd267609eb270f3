"""What a merged model must be, measured on its files: tensor by tensor, then by its logits."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data_contracts.verdict import Check, check, report
from tasks.core.artifact import sha256_file
from tasks.core.stage import Job
from tasks.formats.safetensors_file import TensorEntry, bits_equal, check_same_tensors
from tasks.formats.token_rows import read_token_rows
from tasks.formats.trained import Trained, WholeModel
from tasks.runtimes import hf_model

if TYPE_CHECKING:
    import torch

_MANTISSA_BITS = {"bfloat16": 7, "float16": 10}
_ROUNDING_DRAWS = 3
Distance = Callable[["list[torch.Tensor]", "list[torch.Tensor]"], float]
"""Of two models' logits, (tokens, vocab) for each sequence."""


@dataclass
class _Moved:
    """Sums over one moved tensor, expert by expert where it holds several, and whether every element is as it should be."""

    dot: float = 0.0
    made: float = 0.0
    wanted: float = 0.0
    survived: float = 0.0
    exact: bool = True
    changed: bool = False

    def add(self, before: torch.Tensor, exact: torch.Tensor, delta: torch.Tensor, written: torch.Tensor) -> None:
        """Compare one part of the tensor: of the base, as it should be (float32), what was added, as it was written."""
        wide, made = delta.double(), (exact - before.float()).double()
        self.dot += (made * wide).sum().item()
        self.made += (made * made).sum().item()
        self.wanted += (wide * wide).sum().item()
        self.survived += ((written.double() - before.double()) * wide).sum().item()
        self.exact &= bits_equal(exact.to(written.dtype), written)
        self.changed |= not bits_equal(before.to(written.dtype), written)

    @property
    def cosine(self) -> float:
        """Of the update that float32 arithmetic makes with the update that was asked for."""
        return self.dot / max(math.sqrt(self.made * self.wanted), 1e-300)

    @property
    def share(self) -> float:
        """Share of the update, along its direction, that is left after rounding."""
        return self.survived / max(self.wanted, 1e-300)


def compare_tensors(
    base: dict[str, TensorEntry],
    trained: Trained,
    merged: dict[str, TensorEntry],
    dtype: str,
    min_delta_cosine: float,
) -> list[Check]:
    """Every tensor of the merge against base and training, one at a time in memory. `dtype` as safetensors names it."""
    same = sorted(name for name in base.keys() & merged.keys() if base[name].shape == merged[name].shape)
    moved = {name: _compare_moved(base[name], trained, merged[name]) for name in same if name in trained.moves}
    untouched = [name for name in same if name not in moved]
    equal = sum(_unchanged(base[name], merged[name]) for name in untouched)
    floats = {entry.dtype for entry in merged.values() if entry.dtype in ("F64", "F32", "F16", "BF16")}
    fix = "Merge again from the 16-bit base that it was trained on."
    whole = isinstance(trained, WholeModel)
    rounded = "tensors equal to round(trained tensor)" if whole else "modules equal to round(W + scale·B·A)"
    exact = sum(one.exact for one in moved.values())
    least = min(moved, key=lambda name: moved[name].share, default=None)
    detail = f"least {moved[least].share:.4f} in {least}" if least else ""
    return [
        check_same_tensors(base, merged),
        check("dtype of the written weights", ",".join(sorted(floats)), "==", dtype),
        check(rounded, exact, "==", len(trained.moves), fix=fix),
        *([] if whole else _check_updates(moved, len(trained.moves), min_delta_cosine, fix)),
        report(
            "share of the update that survives rounding, mean", _mean([m.share for m in moved.values()]), detail=detail
        ),
        check("untouched tensors bit-equal to the base", equal, "==", len(untouched), fix=fix),
    ]


def _check_updates(moved: dict[str, _Moved], modules: int, min_delta_cosine: float, fix: str) -> list[Check]:
    """Of an adapter: rounding a whole small update away is a failure; in a fully trained model some norms round to themselves."""
    worst = min(moved, key=lambda name: moved[name].cosine, default=None)
    changed = sum(one.changed for one in moved.values())
    return [
        check("modules that moved", changed, "==", modules, detail=f"of {modules} in the adapter", fix=fix),
        check(
            "least cosine of a module's float32 update with scale·B·A",
            moved[worst].cosine if worst else None,
            ">=",
            min_delta_cosine,
            detail=f"{worst}",
        ),
    ]


def _compare_moved(entry: TensorEntry, trained: Trained, merged: TensorEntry) -> _Moved:
    sums = _Moved()
    before, written = entry.read(), merged.read()
    delta, exact = trained.delta(entry.name, before), trained.exact(entry.name, before)
    parts = zip(before, exact, delta, written, strict=True) if before.dim() > 2 else [(before, exact, delta, written)]
    for part in parts:  # in float64 all experts of a large model at once would need four times their memory
        sums.add(*part)
    return sums


def _unchanged(entry: TensorEntry, merged: TensorEntry) -> bool:
    written = merged.read()
    return bits_equal(entry.read().to(written.dtype), written)


def compare_companions(base_folder: Path, out: Path) -> list[Check]:
    """Tokenizer, template and generation config came along, byte for byte; nothing says "quantised"."""
    names = sorted(
        p.name
        for p in base_folder.iterdir()
        if p.name.startswith(("tokenizer", "special_tokens", "chat_template", "vocab", "merges", "generation_config"))
    )
    same = [n for n in names if (out / n).is_file() and sha256_file(out / n) == sha256_file(base_folder / n)]
    config = json.loads((out / "config.json").read_text("utf-8"))
    return [
        check(
            "tokenizer, template and generation files carried over",
            len(same),
            "==",
            len(names),
            enough=len(names) > 1,
            detail=f"missing or changed: {sorted(set(names) - set(same))}",
        ),
        check("quantization_config in config.json", "quantization_config" in config, "==", False),
    ]


def compare_logits(config, job: Job, trained: Trained) -> list[Check]:
    """Logits of the trained model (PEFT's base+adapter), of the float32 merge, of the written files, of randomly rounded weights.

    The last says what the dtype explains: rounding each merged weight up or down at random makes an error of the same
    size as rounding to nearest; a written file much further away than that is wrong in some other way.

    With a mixture of experts the hundredth of the tokens that differ most is left out: a hair's breadth can send a token to
    another expert, and the largest difference then says how far apart two experts are (measured on a miniature: 1.8 by
    rounding alone, while 99 of 100 tokens differ by less than 0.007, and base and merge by 1.0).
    """
    probes = [ids for ids, _ in read_token_rows(job.inputs["rows"] / "heldout.parquet")][: config.probe_rows]
    dtype = config.dtype
    if _has_experts(job.inputs["base"]):
        apart, name = _typical, "logit difference of 99 in 100 tokens"
    else:
        apart, name = _worst, "largest logit difference"
    found = _measure(job, trained, probes, dtype, apart)
    limit = max(config.max_logit_diff, config.max_rounding_ratio * found.by_rounding)
    enough = len(probes) >= config.probe_rows
    what = "the trained model" if isinstance(trained, WholeModel) else "base+adapter"
    return [
        check(
            f"{name} to {what} before the cast, float32",
            found.before_cast,
            "<=",
            config.max_logit_diff,
            enough=enough,
            detail=f"{len(probes)} held-out chats",
        ),
        check(
            f"{name} to {what} after the cast to {dtype}",
            found.after_cast,
            "<=",
            limit,
            enough=enough,
            detail=f"limit: {config.max_rounding_ratio:g} times what random rounding of the same weights makes",
        ),
        check(
            f"merged is not base: {name} to the base",
            found.from_base,
            ">",
            limit,
            enough=enough,
            fix="The written files answer as the base does: was anything trained, and was it merged?",
        ),
        check(
            f"non-finite logits in a forward pass in {dtype}",
            found.not_finite,
            "==",
            0,
            fix="Set merge.dtype to bfloat16: float16 overflows beyond 65,504.",
        ),
    ]


@dataclass
class _Distances:
    """How far apart the logits of two models are, by one measure; and how many are not finite in the written dtype."""

    before_cast: float
    after_cast: float
    from_base: float
    by_rounding: float
    not_finite: int


def _measure(job: Job, trained: Trained, probes: list[list[int]], dtype: str, apart: Distance) -> _Distances:
    """One model is in memory at a time."""
    import torch

    base_folder, noise = job.inputs["base"], []
    with hf_model.quiet():
        wanted = _all_logits(hf_model.load_model(base_folder, adapter=job.inputs["adapter"], beat=job.beat), probes)
        model = hf_model.load_model(base_folder, beat=job.beat)
        alone = _all_logits(model, probes)
        exact_weights = _move_weights(model, trained)
        merged_in_float32 = _all_logits(model, probes)
        for draw in range(_ROUNDING_DRAWS if dtype in _MANTISSA_BITS else 0):
            _round_at_random(model, exact_weights, dtype, seed=draw)
            noise.append(apart(_all_logits(model, probes), wanted))
        del model, exact_weights
        written = _all_logits(hf_model.load_model(job.out, beat=job.beat), probes)
        native = hf_model.load_model(job.out, dtype=dtype, beat=job.beat)
        bad = sum(int((~torch.isfinite(hf_model.logits(native, ids))).sum()) for ids in probes)
    return _Distances(
        before_cast=apart(merged_in_float32, wanted),
        after_cast=apart(written, wanted),
        from_base=apart(written, alone),
        by_rounding=max(noise, default=0.0),
        not_finite=bad,
    )


def _all_logits(model, probes: list[list[int]]) -> list[torch.Tensor]:
    return [hf_model.logits(model, ids) for ids in probes]


def _worst(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    return max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True))


def _typical(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    """The root mean square over the vocabulary that 99 of 100 tokens do not exceed."""
    import torch

    tokens = torch.cat([(a - b).square().mean(-1).sqrt() for a, b in zip(ours, theirs, strict=True)])
    return tokens.quantile(0.99).item()


def _has_experts(folder: Path) -> bool:
    about = json.loads((folder / "config.json").read_text("utf-8"))
    return any((about.get(name) or 0) > 1 for name in ("num_local_experts", "num_experts", "n_routed_experts"))


def _move_weights(model, trained: Trained) -> dict[str, torch.Tensor]:
    """Merge into a float32 model in memory; returns the exact merged weights by name."""
    import torch

    parameters = dict(model.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name in sorted(trained.moves):
            parameters[name].copy_(trained.exact(name, parameters[name].cpu()))
    return {name: parameters[name].detach().clone() for name in trained.moves}


def _round_at_random(model, exact: dict[str, torch.Tensor], dtype: str, seed: int) -> None:
    """Set each merged weight to one of its two neighbours in `dtype`, the nearer the likelier (stochastic rounding)."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, weight in exact.items():
            exponent = torch.frexp(weight)[1] - 1
            spacing = torch.ldexp(torch.ones_like(weight), exponent - _MANTISSA_BITS[dtype]) * (weight != 0)
            shift = torch.rand(weight.shape, generator=generator).to(weight.device) - 0.5
            parameters[name].copy_((weight + shift * spacing).to(getattr(torch, dtype)).float())


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
