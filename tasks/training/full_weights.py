"""Full fine-tuning: every weight is trained, held in float32, and written under the base's own names.

Not in 16 bits: at a learning rate of 1e-5 most updates are smaller than the distance between two neighbours of a bfloat16
weight, and AdamW would add nothing to it, step after step, without a word.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from data_contracts.verdict import Check, check, report
from tasks.core.errors import ArtifactError
from tasks.formats import model_folder, safetensors_file
from tasks.formats.safetensors_file import PlannedTensor, read_folder, tensor_bytes
from tasks.merging import checks as merge_checks

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def save_whole(model: PreTrainedModel, base: Path, out: Path) -> None:
    """Write the model's weights, float32, under the names of the base's tensors, beside the base's tokenizer and configs.

    Raises:
        ArtifactError: the base holds a tensor that the loaded model does not have under that name.
    """
    live, entries = model.state_dict(), read_folder(base)
    if lost := sorted(set(entries) - set(live)):
        raise ArtifactError(
            f"train_lora: {len(lost)} of {len(entries)} tensors of the base have another name in the loaded model, e.g. "
            f"{lost[0]}, so the trained weights cannot be written in its form. Set train.method to lora for this architecture."
        )
    planned = model_folder.planned_as(entries.values(), "float32")

    def write(file: BinaryIO, tensor: PlannedTensor) -> None:
        file.write(tensor_bytes(live[tensor.name].detach().float().cpu()))

    model_folder.write_like(base, out, planned, "float32", write)


def check_whole(out: Path, base: Path, layers: set[str]) -> list[Check]:
    """The base's tensors and no others, all finite, and each of `layers` (names without ".weight") moved by training."""
    import torch

    before, after = read_folder(base), read_folder(out)
    bad, still, ratios = [], [], []
    for name in sorted(before.keys() & after.keys()):
        old, new = before[name].read().float(), after[name].read()
        if not torch.isfinite(new).all():
            bad.append(name)
        elif old.shape == new.shape and name.removesuffix(".weight") in layers:
            ratios.append(((new - old).norm() / old.norm().clamp(min=1e-30)).item())
            still += [name] if torch.equal(old, new.float()) else []
    dtypes = ",".join(sorted({entry.dtype for entry in after.values()}))
    return [
        safetensors_file.check_same_tensors(before, after),
        check("dtype of the trained weights", dtypes, "==", "F32"),
        check(
            "tensors with a non-finite value",
            len(bad),
            "==",
            0,
            detail=f"of {len(after)}; e.g. {bad[:2]}",
            fix="Lower train.learning_rate",
        ),
        check(
            "linear layers that training did not move",
            len(still),
            "==",
            0,
            enough=bool(ratios) or bool(bad),
            detail=f"of {len(ratios)}; e.g. {still[:2]}",
            fix="They were never trained: check the labels and the learning rate",
        ),
        report(
            "change of a linear layer by training, mean",
            _mean(ratios),
            detail="norm of the change / norm of the weight",
        ),
        *merge_checks.compare_companions(base, out),
    ]


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
