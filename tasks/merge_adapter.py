"""Merge what was trained into its 16-bit base, tensor by tensor, from safetensors to safetensors.

Reads:    base (safetensors, 16 or 32 bit; never quantised), adapter: a PEFT LoRA, experts included, or a whole model that
          train_lora trained with method full, of which the merge is the cast to `dtype`.
Writes:   model*.safetensors in `dtype`, and the base's tokenizer, chat template and configs.
Verifies: on the files loaded again: each module moved by scale·B·A, or to the trained tensor, rounded once; every other
          tensor bit-equal; float32 logits (batch, tokens, vocab) equal the trained model's before the cast and within what
          rounding explains after it; a full forward pass in the written dtype is finite; merged is not base. For a QLoRA
          adapter it also measures what leaving its 4-bit training base costs. With `vllm_python` vLLM loads the folder
          unchanged, and its greedy answers and their log-probabilities are those of transformers.

Why not PEFT's merge_and_unload: it holds the whole model, and it merges into whatever it was given. A 4-bit base rounds
the update away (seed story "signals"; silent-failures.md class 4).
"""

from __future__ import annotations

import json
from typing import BinaryIO, Literal

from pydantic import Field

from data_contracts.verdict import Check, check, failures
from tasks.clients.vllm_parity import not_measured, parity_checks, serving_parity
from tasks.clients.vllm_settings import VllmSettings, interpreter_problem, stack_files
from tasks.core.progress import named
from tasks.core.settings import ChecksOnly, Settings
from tasks.core.stage import Job, Stage
from tasks.core.stage_process import child_main
from tasks.formats import model_folder, safetensors_file
from tasks.formats.model_folder import DTYPES
from tasks.formats.safetensors_file import PlannedTensor, TensorEntry
from tasks.formats.token_rows import read_token_rows
from tasks.formats.trained import LINEAGE, Trained, read_mergeable
from tasks.merging import checks as merge_checks
from tasks.merging.base_choice import compare_bases
from tasks.prompts.prompt_digest import read_carried, write_carried


class MergeConfig(Settings):
    """How an adapter is merged, and how far the result may be from base + adapter."""

    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Type of the written weights. bfloat16 cannot overflow; float16 keeps more digits but can (class 22)."""
    max_shard_bytes: int = Field(default=model_folder.MAX_SHARD_BYTES, ge=1 << 20)
    """Largest safetensors file, in bytes."""
    max_logit_diff: ChecksOnly[float] = Field(default=1e-4, gt=0)
    """Largest |logit difference| between base+adapter and the merge, both in float32, before the cast."""
    min_delta_cosine: ChecksOnly[float] = Field(default=0.999, gt=0, le=1)
    """Least cosine between the update that float32 merging makes and scale·B·A, per module."""
    max_rounding_ratio: ChecksOnly[float] = Field(default=4.0, gt=1)
    """After the cast, the largest logit difference may be this many times that of randomly rounded weights."""
    max_base_change_loss_nats: ChecksOnly[float] = Field(default=0.05, ge=0)
    """How much the held-out loss of a QLoRA adapter may rise when it leaves its 4-bit training base for the 16-bit one, in nats
    a token: 0.05 multiplies the perplexity by 1.05. Measured on nano: +0.0008 and -0.00003 (DECISIONS.md)."""
    probe_rows: ChecksOnly[int] = Field(default=16, ge=2)
    """Held-out chats on which logits are compared, and that vLLM answers."""
    vllm_python: ChecksOnly[str | None] = None
    """Interpreter that holds vLLM, e.g. .venv-vllm/bin/python (`python deployments/setup.py --with vllm` makes it): the merge
    is loaded there too, and must answer as in transformers. Left out: not measured."""
    vllm: ChecksOnly[VllmSettings] = Field(default=VllmSettings(), title="vLLM")
    """How vLLM runs for that."""

    def problems(self) -> list[str]:
        """What keeps the merge from being measured, found before anything runs."""
        problem = interpreter_problem(self.vllm_python) if self.vllm_python else ""
        return [problem] if problem else []


def merge_adapter(config: MergeConfig, job: Job) -> dict:
    """Write the trained weights, rounded once, to `job.out` and bring along everything else that the base has."""
    base, trained = read_mergeable(job.inputs["base"], job.inputs["adapter"], job.digests["base"])
    planned = model_folder.planned_as(base.values(), config.dtype)
    shards = model_folder.write_like(
        job.inputs["base"],
        job.out,
        planned,
        config.dtype,
        lambda out, tensor: _write_merged(out, base[tensor.name], tensor, trained),
        max_shard_bytes=config.max_shard_bytes,
        beat=job.beat,
    )
    write_carried(job.out, _lineage(job)["prompt_contract"])
    return {"modules": len(trained.moves), "tensors": len(planned), "shards": shards, "dtype": config.dtype}


def _lineage(job: Job) -> dict:
    return json.loads((job.inputs["adapter"] / LINEAGE).read_text("utf-8"))


def _write_merged(out: BinaryIO, entry: TensorEntry, planned: PlannedTensor, trained: Trained) -> None:
    moved = entry.name in trained.moves
    if not moved and planned.dtype == entry.dtype:
        entry.copy_to(out)
        return
    tensor = entry.read()
    if moved:
        tensor = trained.exact(entry.name, tensor)
    out.write(safetensors_file.tensor_bytes(tensor.to(safetensors_file.torch_dtype(planned.dtype))))


def verify_merge(config: MergeConfig, job: Job) -> list[Check]:
    """Measure the written files against base + adapter; see the module's docstring."""
    base, trained = read_mergeable(job.inputs["base"], job.inputs["adapter"], job.digests["base"])
    merged = safetensors_file.read_folder(job.out)
    checks = merge_checks.compare_tensors(base, trained, merged, DTYPES[config.dtype], config.min_delta_cosine)
    companions = merge_checks.compare_companions(job.inputs["base"], job.out)
    carried, expected = read_carried(job.out), _lineage(job)["prompt_contract"]
    companions.append(check("prompt contract that the merge carries", str(carried)[:16], "==", expected[:16]))
    if failures(companions):  # such a folder may not even load, and would hide what is wrong behind a library's error
        return [*checks, *companions]
    logits = merge_checks.compare_logits(config, job, trained)
    return [*checks, *companions, *logits, *_qlora_checks(config, job), *_serving_checks(config, job)]


def _qlora_checks(config: MergeConfig, job: Job) -> list[Check]:
    """Where the adapter was trained beside 4-bit weights: what the change of base costs."""
    if _lineage(job).get("base_precision") != "nf4":
        return []
    rows = read_token_rows(job.inputs["rows"] / "heldout.parquet")
    return compare_bases(job.inputs["base"], job.inputs["adapter"], rows, config.max_base_change_loss_nats)


def _serving_checks(config: MergeConfig, job: Job) -> list[Check]:
    """Whether vLLM loads the written folder unchanged; without its interpreter the manifest says that it was not measured."""
    if config.vllm_python is None:
        return [not_measured("no vLLM interpreter; merge.vllm_python names one")]
    rows = read_token_rows(job.inputs["rows"] / "heldout.parquet")[: config.probe_rows]
    prompts = [ids[:start] for ids, start in rows]
    beat = named(job.beat, "vLLM answers held-out prompts")
    measured = serving_parity(
        job.out,
        prompts,
        job.work,
        settings=config.vllm,
        python=config.vllm_python,
        alive=lambda numbers: beat(0, 0, numbers),
    )
    return parity_checks(measured)


STAGE = Stage(
    name="merge_adapter",
    kind="merged-model",
    version=1,
    work=merge_adapter,
    verify=verify_merge,
    checks_inputs=("rows",),
    stack=("torch", "safetensors"),
    checks_stack=("transformers", "peft"),
    checks_texts=("tasks/clients/vllm_worker.py",),  # run by path, imported by nothing
    checks_outside=lambda config: stack_files(config.vllm_python) if config.vllm_python else [],
)

if __name__ == "__main__":
    raise SystemExit(child_main(STAGE, MergeConfig))
