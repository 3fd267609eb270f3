"""What a merged model must be, measured on its files: tensor by tensor, then by its logits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from data_contracts.verdict import Check, check, report
from tasks.core.artifact import sha256_file
from tasks.core.stage import Job
from tasks.engines import hf_engine
from tasks.engines.adapter_file import Adapter
from tasks.engines.token_rows import read_token_rows
from tasks.engines.weights_file import TensorEntry, torch_dtype

if TYPE_CHECKING:
    import torch

_MANTISSA_BITS = {"bfloat16": 7, "float16": 10}
_ROUNDING_DRAWS = 3


def compare_tensors(
    base: dict[str, TensorEntry],
    adapter: Adapter,
    merged: dict[str, TensorEntry],
    dtype: str,
    min_delta_cosine: float,
) -> list[Check]:
    """Every tensor of the merge against base + adapter, one at a time in memory. `dtype` as safetensors names it."""
    import torch

    same = sorted(name for name in base.keys() & merged.keys() if base[name].shape == merged[name].shape)
    lost = sorted((base.keys() | merged.keys()) - set(same))
    misfit = "tensor names and shapes that differ from the base"
    checks = [check(misfit, len(lost), "==", 0, detail=", ".join(lost[:3]))]
    cosines, shares, changed, exact, equal, untouched = {}, {}, 0, 0, 0, 0
    for name in same:
        before, written = base[name].read(), merged[name].read()
        module = adapter.by_base_tensor.get(name)
        if module is None:
            untouched += 1
            equal += bits_equal(before.to(written.dtype), written)
            continue
        delta = module.delta().double()
        wanted = before.float() + delta.float()
        cosines[name] = torch.cosine_similarity(
            (wanted - before.float()).double().flatten(), delta.flatten(), dim=0
        ).item()
        shares[name] = ((written.double() - before.double()) * delta).sum().item() / max(
            (delta * delta).sum().item(), 1e-300
        )
        exact += bits_equal(wanted.to(torch_dtype(dtype)), written)
        changed += not bits_equal(before.to(written.dtype), written)
    modules = len(adapter.modules)
    floats = {entry.dtype for entry in merged.values() if entry.dtype in ("F64", "F32", "F16", "BF16")}
    worst = min(cosines, key=cosines.get, default=None)
    least = min(shares, key=shares.get, default=None)
    fix = "Merge again from the 16-bit base that the adapter was trained on."
    return [
        *checks,
        check("dtype of the written weights", ",".join(sorted(floats)), "==", dtype),
        check("modules that moved", changed, "==", modules, detail=f"of {modules} in the adapter", fix=fix),
        check("modules equal to round(W + scale·B·A)", exact, "==", modules, fix=fix),
        check(
            "least cosine of a module's float32 update with scale·B·A",
            cosines.get(worst),
            ">=",
            min_delta_cosine,
            detail=f"{worst}",
        ),
        report(
            "share of the update that survives rounding, mean",
            _mean(shares.values()),
            detail=f"least {shares.get(least, 0):.4f} in {least}",
        ),
        check("untouched tensors bit-equal to the base", equal, "==", untouched, fix=fix),
    ]


def compare_companions(base_folder: Path, out: Path) -> list[Check]:
    """Tokenizer, template and generation config came along, byte for byte; nothing says "quantised"."""
    import json

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


def compare_logits(config, job: Job, adapter: Adapter) -> list[Check]:
    """Logits of base+adapter (PEFT), of the float32 merge, of the written files, of randomly rounded weights.

    The last says what the dtype explains: rounding each merged weight up or down at random makes an error of the same
    size as rounding to nearest; a written file much further away than that is wrong in some other way.
    """
    import torch

    probes = [ids for ids, _ in read_token_rows(job.inputs["rows"] / "heldout.parquet")][: config.probe_rows]
    base_folder, dtype = job.inputs["base"], config.dtype
    with hf_engine.quiet():
        wanted = _all_logits(hf_engine.load_model(base_folder, adapter=job.inputs["adapter"]), probes)
        model = hf_engine.load_model(base_folder)
        alone = _all_logits(model, probes)
        exact_weights = _add_adapter(model, adapter)
        merged_in_float32 = _all_logits(model, probes)
        noise = []
        for draw in range(_ROUNDING_DRAWS if dtype in _MANTISSA_BITS else 0):
            _round_at_random(model, exact_weights, dtype, seed=draw)
            noise.append(_worst(_all_logits(model, probes), wanted))
        del model, exact_weights
        written = _all_logits(hf_engine.load_model(job.out), probes)
        native = hf_engine.load_model(job.out, dtype=dtype)
        bad = sum(int((~torch.isfinite(hf_engine.logits(native, ids))).sum()) for ids in probes)
    before_cast, after_cast, moved = _worst(merged_in_float32, wanted), _worst(written, wanted), _worst(written, alone)
    limit = max(config.max_logit_diff, config.max_rounding_ratio * max(noise, default=0.0))
    enough = len(probes) >= config.probe_rows
    return [
        check(
            "largest logit difference to base+adapter before the cast, float32",
            before_cast,
            "<=",
            config.max_logit_diff,
            enough=enough,
            detail=f"{len(probes)} held-out chats",
        ),
        check(
            f"largest logit difference to base+adapter after the cast to {dtype}",
            after_cast,
            "<=",
            limit,
            enough=enough,
            detail=f"limit: {config.max_rounding_ratio:g} times what random rounding of the same weights makes",
        ),
        check(
            "merged is not base: largest logit difference to the base",
            moved,
            ">",
            limit,
            enough=enough,
            fix="The written files answer as the base does: was the adapter trained, and was it merged?",
        ),
        check(
            f"non-finite logits in a forward pass in {dtype}",
            bad,
            "==",
            0,
            fix="Set merge.dtype to bfloat16: float16 overflows beyond 65,504.",
        ),
    ]


def _all_logits(model, probes: list[list[int]]) -> list[torch.Tensor]:
    return [hf_engine.logits(model, ids) for ids in probes]


def _worst(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    return max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True))


def _add_adapter(model, adapter: Adapter) -> dict[str, torch.Tensor]:
    """Merge into a float32 model in memory; returns the exact merged weights by name."""
    import torch

    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, module in adapter.by_base_tensor.items():
            parameters[name].add_(module.delta().to(parameters[name].device))
    return {name: parameters[name].detach().clone() for name in adapter.by_base_tensor}


def _round_at_random(model, exact: dict[str, torch.Tensor], dtype: str, seed: int) -> None:
    """Set each merged weight to one of its two neighbours in `dtype`, the nearer the likelier (stochastic rounding)."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, weight in exact.items():
            exponent = torch.frexp(weight)[1] - 1
            spacing = torch.ldexp(torch.ones_like(weight), exponent - _MANTISSA_BITS[dtype])
            shift = torch.rand(weight.shape, generator=generator).to(weight.device) - 0.5
            parameters[name].copy_((weight + shift * spacing).to(getattr(torch, dtype)).float())


def bits_equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Same dtype, shape and bytes: NaN equals itself, 0.0 is not -0.0."""
    import torch

    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and torch.equal(*(one.contiguous().reshape(-1).view(torch.uint8) for one in (a, b)))
    )


def _mean(values) -> float | None:
    values = list(values)
    return sum(values) / len(values) if values else None
