"""Merge an adapter into its base's 4-bit weights, on purpose: the seed story's bug, made to be compared with, never published.

Reads:    base (safetensors, 16 or 32 bit), adapter (PEFT LoRA).
Writes:   model*.safetensors in `dtype`: each linear layer as its NF4 form holds it after PEFT merged into it and rounded the
          sum to 16 values a block again; every other tensor, and the tokenizer and configs, as the base has them.
Verifies: on the files loaded again: the bug is in (no block of a rounded layer holds more than 16 values); every other tensor
          is bit-equal; a forward pass (tokens, vocab) is finite; the update's error is larger than rounding to `dtype` makes,
          so that there is something to see. How much of the update is left is reported.

publish_model takes the artifact of merge_adapter; this one is of another kind, and no flow but `compare` makes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, Literal

from data_contracts.verdict import Check, check, failures, report
from tasks.core.errors import ArtifactError
from tasks.core.settings import Settings
from tasks.core.stage import Job, Stage
from tasks.core.stage_process import child_main
from tasks.formats import lora_file, model_folder, safetensors_file
from tasks.formats.safetensors_file import PlannedTensor, TensorEntry
from tasks.merging import checks as merge_checks
from tasks.runtimes import hf_model, nf4

if TYPE_CHECKING:
    import torch

_NF4_VALUES, _NF4_BLOCK = 16, 64
"""A 4-bit number has 16 values; bitsandbytes scales them by the block of 64 weights (QLoRA, arXiv 2305.14314, section 3)."""
_PROBE = "A plumb line shows what is true, whatever the wall looks like."


class MergeIntoNf4Config(Settings):
    """How the control is written."""

    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Type of the written weights, as that of the merge it is compared with."""


def merge_into_nf4(config: MergeIntoNf4Config, job: Job) -> dict:
    """Write the control to `job.out`.

    Raises:
        ArtifactError: the adapter does not fit the base, or the base is quantised.
    """
    base = safetensors_file.read_folder(job.inputs["base"])
    rounded = nf4.merged_into_nf4(job.inputs["base"], job.inputs["adapter"])
    if strange := sorted(rounded.keys() - base.keys()):
        raise ArtifactError(
            f"merge_into_nf4: {len(strange)} of {len(rounded)} layers held in 4 bits are not tensors of the base, e.g. "
            f"{strange[0]}. This architecture names its layers otherwise when loaded; it cannot be compared this way."
        )

    def write(out: BinaryIO, planned: PlannedTensor) -> None:
        entry = base[planned.name]
        if planned.name not in rounded and planned.dtype == entry.dtype:
            entry.copy_to(out)
            return
        weight = rounded[planned.name]() if planned.name in rounded else entry.read()
        out.write(safetensors_file.tensor_bytes(weight.to(safetensors_file.torch_dtype(planned.dtype))))

    planned = model_folder.planned_as(base.values(), config.dtype)
    model_folder.write_like(job.inputs["base"], job.out, planned, config.dtype, write, beat=job.beat)
    return {"layers_in_4_bits": len(rounded), "tensors": len(planned), "dtype": config.dtype}


def verify_control(config: MergeIntoNf4Config, job: Job) -> list[Check]:
    """Measure the written files; see the module's docstring."""
    base, written = (safetensors_file.read_folder(folder) for folder in (job.inputs["base"], job.out))
    adapter = lora_file.read_adapter(job.inputs["adapter"])
    with hf_model.quiet():
        started = nf4.dequantised(nf4.load_nf4(job.inputs["base"]))
    same = [name for name in base if name in written and written[name].shape == base[name].shape]
    misfits = (base.keys() | written.keys()) - set(same)
    rest = [name for name in same if name not in started]
    coarse = [name for name in same if name in started and _is_coarse(written[name].read())]
    equal = [
        name for name in rest if safetensors_file.bits_equal(_cast(base[name], written[name]), written[name].read())
    ]
    fix = "Build it again; a file was changed after it was written."
    checks = [
        check(
            "tensor names and shapes that differ from the base",
            len(misfits),
            "==",
            0,
            detail=", ".join(sorted(misfits)[:3]),
        ),
        check("layers rounded to 16 values a block", len(coarse), "==", len(started), enough=bool(started), fix=fix),
        check("other tensors bit-equal to the base", len(equal), "==", len(rest), fix=fix),
        *merge_checks.compare_companions(job.inputs["base"], job.out),
    ]
    if failures(checks):
        return checks
    return [*checks, *_update_checks(config, adapter, base, started, written), _finite(job)]


def _update_checks(config: MergeIntoNf4Config, adapter, base: dict[str, TensorEntry], started, written) -> list[Check]:
    import torch

    dtype = getattr(torch, config.dtype)
    read = {name: entry.read for name, entry in base.items()}
    merged = {
        name: lambda n=name, m=module: (read[n]().float() + m.delta()).to(dtype)
        for name, module in adapter.by_base_tensor.items()
    }
    rounding = nf4.survival(adapter, read, merged)
    found = nf4.survival(adapter, started, {name: entry.read for name, entry in written.items()})
    return [
        report("share of the update kept along its direction", found.kept_fraction),
        check(
            "error of the update, relative to its size",
            found.error_ratio,
            ">",
            rounding.error_ratio,
            detail=f"limit: what rounding the 16-bit merge to {config.dtype} makes",
            fix="The update is so large that 4 bits hold it: this control shows nothing, compare without it",
        ),
    ]


def _is_coarse(weight: torch.Tensor) -> bool:
    """No block holds more than 16 different values; what is left over at the end of a tensor is not looked at."""
    whole = weight.flatten()[: weight.numel() // _NF4_BLOCK * _NF4_BLOCK].reshape(-1, _NF4_BLOCK)
    ordered = whole.float().sort(dim=1).values
    return bool(((ordered[:, 1:] != ordered[:, :-1]).sum(dim=1) < _NF4_VALUES).all())


def _cast(entry: TensorEntry, like: TensorEntry) -> torch.Tensor:
    return entry.read().to(safetensors_file.torch_dtype(like.dtype))


def _finite(job: Job) -> Check:
    import torch

    with hf_model.quiet():
        tokenizer, model = hf_model.load_tokenizer(job.out), hf_model.load_model(job.out)
    out = hf_model.logits(model, tokenizer(_PROBE)["input_ids"])
    bad = int((~torch.isfinite(out)).sum())
    return check("non-finite logits on a plain sentence", bad, "==", 0, detail=f"{out.shape[0]} tokens")


STAGE = Stage(
    name="merge_into_nf4",
    kind="nf4-control",
    version=1,
    work=merge_into_nf4,
    verify=verify_control,
    stack=("torch", "transformers", "peft", "bitsandbytes"),
)

if __name__ == "__main__":
    raise SystemExit(child_main(STAGE, MergeIntoNf4Config))
