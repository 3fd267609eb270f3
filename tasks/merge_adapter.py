"""Merge a LoRA adapter into its 16-bit base, tensor by tensor, from safetensors to safetensors.

Reads:    base (safetensors, 16 or 32 bit; never quantised), adapter (PEFT LoRA).
Writes:   model*.safetensors in `dtype`, and the base's tokenizer, chat template and configs.
Verifies: on the files loaded again: each module moved by scale·B·A; every other tensor bit-equal; float32 logits
          (batch, tokens, vocab) equal base+adapter before the cast and within what rounding explains after it;
          a full forward pass in the written dtype is finite; merged is not base. For a QLoRA adapter it also measures
          what leaving its 4-bit training base costs.

Why not PEFT's merge_and_unload: it holds the whole model, and it merges into whatever it was given. A 4-bit base rounds
the update away (seed story "signals"; silent-failures.md class 4).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from data_contracts.verdict import Check, failures
from tasks.core.errors import ArtifactError
from tasks.core.stage import Job, Settings, Stage, child_main
from tasks.engines import adapter_file, merge_checks, model_folder, weights_file
from tasks.engines.qlora_bases import compare_bases
from tasks.engines.token_rows import read_token_rows
from tasks.engines.weights_file import PlannedTensor, TensorEntry

if TYPE_CHECKING:
    import torch


class MergeConfig(Settings):
    """How an adapter is merged, and how far the result may be from base + adapter."""

    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Type of the written weights. bfloat16 cannot overflow; float16 keeps more digits but can (class 22)."""
    max_shard_bytes: int = Field(default=model_folder.MAX_SHARD_BYTES, ge=1 << 20)
    """Largest safetensors file, in bytes."""
    max_logit_diff: float = Field(default=1e-4, gt=0)
    """Largest |logit difference| between base+adapter and the merge, both in float32, before the cast."""
    min_delta_cosine: float = Field(default=0.999, gt=0, le=1)
    """Least cosine between the update that float32 merging makes and scale·B·A, per module."""
    max_rounding_ratio: float = Field(default=4.0, gt=1)
    """After the cast, the largest logit difference may be this many times that of randomly rounded weights."""
    probe_rows: int = Field(default=16, ge=2)
    """Held-out chats on which logits are compared."""


def merge_adapter(config: MergeConfig, job: Job) -> dict:
    """Write base + scale·B·A to `job.out` and bring along everything else that the base has."""
    base_folder = job.inputs["base"]
    base, adapter = read_mergeable(base_folder, job.inputs["adapter"], job.digests["base"])
    planned = model_folder.planned_as(base.values(), config.dtype)
    shards = model_folder.write_like(
        base_folder,
        job.out,
        planned,
        config.dtype,
        lambda out, tensor: _write_merged(out, base[tensor.name], tensor, adapter),
        max_shard_bytes=config.max_shard_bytes,
        beat=job.beat,
    )
    return {"modules": len(adapter.modules), "tensors": len(planned), "shards": shards, "dtype": config.dtype}


def read_mergeable(
    base_folder: Path, adapter_folder: Path, base_digest: str
) -> tuple[dict[str, TensorEntry], adapter_file.Adapter]:
    """The base's tensors and the adapter, once it is sure that they belong together.

    Raises:
        ArtifactError: a quantised base; an adapter for another base, be it of other shapes or only of other weights; a
            tensor that the adapter needs and the base lacks.
    """
    config = json.loads((base_folder / "config.json").read_text("utf-8"))
    if "quantization_config" in config:
        raise ArtifactError(
            f"merge_adapter: the base is quantised ({config['quantization_config'].get('quant_method', 'unknown method')}), "
            "and merging into it would round the update away. Give the 16-bit base that it was quantised from."
        )
    base = weights_file.read_folder(base_folder)
    packed = [e.name for e in base.values() if e.dtype in ("U8", "I8") or e.name.endswith((".absmax", ".quant_map"))]
    if packed:
        raise ArtifactError(
            f"merge_adapter: {len(packed)} of {len(base)} base tensors are packed 4- or 8-bit weights, e.g. {packed[0]}. "
            "Give the 16-bit base that it was quantised from."
        )
    adapter = adapter_file.read_adapter(adapter_folder)
    wrong = []
    for module in adapter.modules.values():
        entry = base.get(module.base_tensor)
        if entry is None:
            wrong.append(f"{module.base_tensor} is not in the base")
        elif entry.shape != module.shape:
            wrong.append(f"{module.base_tensor} is {entry.shape} in the base, {module.shape} in the adapter")
    if wrong:
        raise ArtifactError(
            f"merge_adapter: the adapter was made for another base: {len(wrong)} of {len(adapter.modules)} modules do not "
            f"fit: {'; '.join(wrong[:3])}. Give the base named in adapter_config.json ({adapter.base_name})."
        )
    _refuse_another_base(adapter_folder, base_digest)
    return base, adapter


def _refuse_another_base(adapter_folder: Path, base_digest: str) -> None:
    """Same shapes prove nothing: a sister model or a later revision fits every module, and the merge would be noise."""
    path = adapter_folder / "lineage.json"
    trained_on = json.loads(path.read_text("utf-8"))["base_digest"] if path.is_file() else "no base (no lineage.json)"
    if trained_on != base_digest:
        raise ArtifactError(
            f"merge_adapter: the adapter was made for another base: it names {trained_on[:26]}, this base is "
            f"{base_digest[:26]}. Give the base it was trained on, or train it again on this one."
        )


def _write_merged(out, entry: TensorEntry, planned: PlannedTensor, adapter: adapter_file.Adapter) -> None:
    module = adapter.by_base_tensor.get(entry.name)
    if module is None and planned.dtype == entry.dtype:
        entry.copy_to(out)
        return
    tensor = entry.read()
    if module is not None:
        tensor = add_delta(tensor, module.delta())
    out.write(weights_file.tensor_bytes(tensor.to(weights_file.torch_dtype(planned.dtype))))


def add_delta(weight: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    """float32 sum of a weight (out, in) of any float dtype and a float32 update of the same shape."""
    return delta.add_(weight.float()) if weight.shape == delta.shape else weight.float() + delta


def verify_merge(config: MergeConfig, job: Job) -> list[Check]:
    """Measure the written files against base + adapter; see the module's docstring."""
    base, adapter = read_mergeable(job.inputs["base"], job.inputs["adapter"], job.digests["base"])
    checks = merge_checks.compare_tensors(
        base, adapter, weights_file.read_folder(job.out), model_folder.DTYPES[config.dtype], config.min_delta_cosine
    )
    companions = merge_checks.compare_companions(job.inputs["base"], job.out)
    if failures(companions):  # such a folder may not even load, and would hide what is wrong behind a library's error
        return [*checks, *companions]
    return [*checks, *companions, *merge_checks.compare_logits(config, job, adapter), *_qlora_checks(job)]


def _qlora_checks(job: Job) -> list[Check]:
    """Where the adapter was trained beside 4-bit weights: what the change of base costs."""
    lineage = json.loads((job.inputs["adapter"] / "lineage.json").read_text("utf-8"))
    if lineage.get("base_precision") != "nf4":
        return []
    rows = read_token_rows(job.inputs["rows"] / "heldout.parquet")
    return compare_bases(job.inputs["base"], job.inputs["adapter"], rows)


STAGE = Stage(
    name="merge_adapter",
    kind="merged-model",
    version=1,
    work=merge_adapter,
    verify=verify_merge,
    stack=("torch", "transformers", "peft", "safetensors"),
)

if __name__ == "__main__":
    raise SystemExit(child_main(STAGE, MergeConfig))
