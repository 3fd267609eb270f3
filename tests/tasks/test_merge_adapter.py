"""merge_adapter: the merge answers as base + adapter, streams, and refuses what must not be merged."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flows.config import load_config, profile_path
from tasks.clients.vllm_parity import TOP1, ServingParity
from tasks.core.errors import ArtifactError, ConfigError
from tasks.formats import safetensors_file
from tasks.formats.token_rows import read_token_rows
from tasks.merge_adapter import MergeConfig, merge_adapter, verify_merge
from tasks.runtimes import hf_model
from tests.fixtures.tiny_chain import DIGESTS, copy_of, edit_tensors, failed, make_merged, merge_job
from tests.fixtures.tiny_model import edit_json

WEIGHTS, ADAPTER = "model.safetensors", "adapter_model.safetensors"
CONFIG = MergeConfig()
MOVED = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def inputs(tiny_base, tiny_rows, tiny_adapter):
    return tiny_base, tiny_rows, tiny_adapter.out


def test_a_merge_passes_every_check_and_answers_as_base_plus_adapter(tiny_merged, inputs):
    assert len(tiny_merged.outcome["checks"]) == 15
    base, rows, adapter = inputs
    probe = read_token_rows(rows / "heldout.parquet")[0][0]
    wanted = hf_model.logits(hf_model.load_model(base, adapter=adapter), probe)
    found = hf_model.logits(hf_model.load_model(tiny_merged.out), probe)
    alone = hf_model.logits(hf_model.load_model(base), probe)
    assert (found - wanted).abs().max() < 0.1 < 1 < (alone - wanted).abs().max()
    assert json.loads((tiny_merged.out / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_other_dtypes_pass_too(inputs, tmp_path, dtype):
    made = make_merged(merge_job(tmp_path, *inputs), MergeConfig(dtype=dtype))
    assert made.outcome["facts"]["dtype"] == dtype
    assert {str(one.dtype) for one in load_file(made.out / WEIGHTS).values()} == {f"torch.{dtype}"}


def test_peft_merges_to_the_same_weights(inputs, tmp_path):
    """Our arithmetic against the library's, in float32."""
    base, rows, adapter = inputs
    job = merge_job(tmp_path, base, rows, adapter)
    merge_adapter(MergeConfig(dtype="float32"), job)
    theirs = hf_model.load_model(base, adapter=adapter).merge_and_unload().state_dict()
    ours = load_file(job.out / WEIGHTS)
    assert len(ours) >= 20
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=1e-6)


def quantised_in_name(base: Path) -> None:
    edit_json(base / "config.json", lambda config: config.update(quantization_config={"quant_method": "bitsandbytes"}))


def packed(base: Path) -> None:
    edit_tensors(base / WEIGHTS, lambda t: t.update({MOVED: torch.zeros(2048, 1, dtype=torch.uint8)}))


def with_absmax(base: Path) -> None:
    edit_tensors(base / WEIGHTS, lambda t: t.update({f"{MOVED}.absmax": torch.ones(8)}))


def narrower(base: Path) -> None:
    edit_tensors(base / WEIGHTS, lambda t: t.update({MOVED: t[MOVED][:, :32].contiguous()}))


def truncated(base: Path) -> None:
    (base / WEIGHTS).write_bytes((base / WEIGHTS).read_bytes()[:-2])


def with_pickle(base: Path) -> None:
    (base / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def without(base: Path) -> None:
    edit_tensors(base / WEIGHTS, lambda t: t.pop(MOVED))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (quantised_in_name, r"the base is quantised \(bitsandbytes\).*Give the 16-bit base"),
        (packed, "1 of 24 base tensors are packed 4- or 8-bit weights"),
        (with_absmax, "1 of 25 base tensors are packed 4- or 8-bit weights"),
        (narrower, r"made for another base: 1 of 14 modules.*q_proj.weight is \(64, 32\) in the base, \(64, 64\)"),
        (without, "made for another base: 1 of 14 modules.*is not in the base"),
        (truncated, "truncated or padded"),
        (with_pickle, "1 pickle file"),
    ],
)
def test_a_base_that_must_not_be_merged_into_is_refused_and_nothing_is_written(inputs, tmp_path, change, said):
    base, rows, adapter = inputs
    copy = shutil.copytree(base, tmp_path / "base")
    change(copy)
    job = merge_job(tmp_path, copy, rows, adapter)
    with pytest.raises(ArtifactError, match=said):
        merge_adapter(CONFIG, job)
    assert list(job.out.iterdir()) == []


def test_an_adapter_for_another_base_of_the_same_shape_is_refused(inputs, tmp_path):
    """A sister model or a later revision fits every module: only its digest tells it apart."""
    job = merge_job(tmp_path, *inputs)
    other = replace(job, digests=DIGESTS | {"base": "f" * 64})
    for step in (merge_adapter, verify_merge):
        with pytest.raises(ArtifactError, match="made for another base: it names bbbb.*, this base is ffff"):
            step(CONFIG, other)
    assert list(job.out.iterdir()) == []


def test_an_adapter_that_names_no_base_is_refused(inputs, tiny_adapter, tmp_path):
    adapter = copy_of(tiny_adapter, tmp_path).out
    (adapter / "lineage.json").unlink()
    with pytest.raises(ArtifactError, match="it names no base"):
        merge_adapter(CONFIG, merge_job(tmp_path / "merge", inputs[0], inputs[1], adapter))


@pytest.mark.parametrize("key", ["use_dora", "modules_to_save"])
def test_adapters_of_another_form_are_refused(inputs, tiny_adapter, tmp_path, key):
    adapter = copy_of(tiny_adapter, tmp_path).out
    edit_json(adapter / "adapter_config.json", lambda config: config.update({key: ["lm_head"]}))
    with pytest.raises(ArtifactError, match=f"cannot merge a LORA adapter with {key}"):
        merge_adapter(CONFIG, merge_job(tmp_path / "merge", inputs[0], inputs[1], adapter))


def test_nothing_executable_comes_along(inputs, tmp_path):
    base, rows, adapter = inputs
    copy = shutil.copytree(base, tmp_path / "base")
    (copy / "modeling_tiny.py").write_text("print('hello')")
    (copy / "original").mkdir()
    (copy / "original" / "consolidated.pth").write_bytes(b"\x80\x04.")
    (copy / "LICENSE").write_text("free")
    job = merge_job(tmp_path, copy, rows, adapter)
    merge_adapter(CONFIG, job)
    names = {path.name for path in job.out.rglob("*") if path.is_file()}
    assert {"LICENSE", WEIGHTS, "tokenizer.json"} <= names
    assert not {"modeling_tiny.py", "consolidated.pth"} & names


MEASURE = """
import sys
from pathlib import Path
import torch
from tasks.core.child import peak_memory_bytes
from tasks.core.stage import Job
from tasks.merge_adapter import MergeConfig, merge_adapter
(torch.ones(256, 256) @ torch.ones(256, 256)).to(torch.bfloat16)
before = peak_memory_bytes()
folder = Path(sys.argv[1])
inputs = {"base": folder / "base", "adapter": folder / "adapter"}
(folder / "out").mkdir()
merge_adapter(MergeConfig(), Job("signals", folder / "out", inputs=inputs, digests={"base": "b" * 64}))
print("bytes", before, peak_memory_bytes())
"""


def test_merging_needs_memory_for_some_tensors_not_for_the_model(tmp_path):
    layers, width, mib = 100, 1024, 1 << 20
    make_large_pair(tmp_path, layers, width)
    model_bytes = (tmp_path / "base" / WEIGHTS).stat().st_size
    assert model_bytes > 195 * mib
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)], cwd=root, capture_output=True, text=True, check=True
    )
    before, peak = map(int, re.search(r"bytes (\d+) (\d+)", done.stdout).groups())
    assert before > 0
    assert peak - before < 40 * mib, f"{(peak - before) / mib:.0f} MiB over the interpreter for a model of 200 MiB"
    merged = safetensors_file.read_folder(tmp_path / "out")
    assert len(merged) == layers


def make_large_pair(folder: Path, layers: int, width: int) -> None:
    """Random weights written as they are made, and an adapter of rank 1 for every layer."""
    names = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(layers)]
    for place in ("base", "adapter"):
        (folder / place).mkdir()
    (folder / "base" / "config.json").write_text("{}")
    with (folder / "base" / WEIGHTS).open("wb") as out:
        safetensors_file.write_header(
            out, [safetensors_file.PlannedTensor(name, "BF16", (width, width)) for name in names]
        )
        for _ in names:
            out.write(safetensors_file.tensor_bytes(torch.rand(width, width).to(torch.bfloat16)))
    factors = [(f"base_model.model.{n.removesuffix('.weight')}.lora_{f}.weight", s) for n in names for f, s in
               (("A", (1, width)), ("B", (width, 1)))]  # fmt: skip
    with (folder / "adapter" / ADAPTER).open("wb") as out:
        safetensors_file.write_header(
            out, [safetensors_file.PlannedTensor(name, "F32", shape) for name, shape in factors]
        )
        for _, shape in factors:
            out.write(safetensors_file.tensor_bytes(torch.rand(shape)))
    config = {"peft_type": "LORA", "lora_alpha": 1, "r": 1}
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter" / "lineage.json").write_text(json.dumps({"base_digest": "b" * 64, "prompt_contract": "p" * 64}))


# --- loads unchanged in the engine that serves it


def test_a_merge_that_vllm_never_loaded_says_so(tiny_merged):
    (line,) = [one for one in tiny_merged.outcome["checks"] if one["name"] == TOP1]
    assert line["measured"] == "not measured" and "merge.vllm_python" in line["detail"]


def test_a_merge_that_vllm_reads_otherwise_is_refused(tiny_merged, monkeypatch):
    """vLLM is stood in for by its numbers; tests/tasks/clients/test_vllm_client.py has them from vLLM itself."""
    sent = {}

    def reads_otherwise(folder, prompts, logs, **how):
        sent.update(folder=folder, prompts=prompts, **how)
        return ServingParity(16, 400, 0.5, 0.9, 3.0, "float32")

    monkeypatch.setattr("tasks.merge_adapter.serving_parity", reads_otherwise)
    bad = failed(verify_merge(MergeConfig(vllm_python="v/python"), tiny_merged.job))
    assert bad.keys() == {TOP1, "mean difference between vLLM's and transformers' log-probability"}
    rows = read_token_rows(tiny_merged.job.inputs["rows"] / "heldout.parquet")
    assert sent["folder"] == tiny_merged.out and sent["python"] == "v/python"
    assert sent["prompts"] == [ids[:start] for ids, start in rows[: CONFIG.probe_rows]], "prompts without their answers"


def test_a_missing_interpreter_is_named_before_anything_runs():
    assert MergeConfig().problems() == []
    (problem,) = MergeConfig(vllm_python="no/such/python").problems()
    assert problem.endswith("is not there. Run: python deployments/setup.py --with vllm")
    with pytest.raises(ConfigError, match=r"merge: vllm_python 'no/such/python' is not there"):
        load_config(profile_path("signals/nano"), {"merge.vllm_python": "no/such/python"})
