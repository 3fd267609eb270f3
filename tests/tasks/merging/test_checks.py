"""verify_merge: each check of a merge passes on a sound one and fails, by its name, on a damaged one."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from tasks.core.errors import ArtifactError
from tasks.formats import lora_file, safetensors_file
from tasks.merge_adapter import MergeConfig, merge_adapter, read_mergeable, verify_merge
from tasks.merging import checks as merge_checks
from tasks.prompts.prompt_digest import CARRIED, write_carried
from tests.fixtures.tiny_chain import DIGESTS, copy_of, edit_tensors, failed, merge_job
from tests.fixtures.tiny_model import edit_json

WEIGHTS, ADAPTER = "model.safetensors", "adapter_model.safetensors"
CONFIG = MergeConfig()
MOVED = "model.layers.0.self_attn.q_proj.weight"
UNTOUCHED = "model.layers.1.input_layernorm.weight"
NOT_BASE = "merged is not base: largest logit difference to the base"
EXACT = "modules equal to round(W + scale·B·A)"
AFTER_CAST = "largest logit difference to base+adapter after the cast to bfloat16"


@pytest.fixture
def inputs(tiny_base, tiny_rows, tiny_adapter):
    return tiny_base, tiny_rows, tiny_adapter.out


def flip_one_bit(tensors: dict) -> None:
    tensors[UNTOUCHED].view(torch.int16)[0] ^= 1


def nudge_a_module(tensors: dict) -> None:
    tensors[MOVED].view(torch.int16)[0, 0] ^= 1


def drop_a_tensor(tensors: dict) -> None:
    del tensors[UNTOUCHED]


def reshape_a_module(tensors: dict) -> None:
    tensors[MOVED] = tensors[MOVED].T[:32].contiguous()


def widen_one(tensors: dict) -> None:
    tensors[UNTOUCHED] = tensors[UNTOUCHED].float()


@pytest.mark.parametrize("carried", ["f" * 64, None])
def test_a_merge_that_carries_another_prompt_contract_fails(tiny_merged, tmp_path, carried):
    job = copy_of(tiny_merged, tmp_path)
    path = job.out / CARRIED
    path.unlink() if carried is None else write_carried(job.out, carried)
    (job.out / "tokenizer.json").unlink()  # the companions are told before logits are computed
    assert "prompt contract that the merge carries" in failed(verify_merge(CONFIG, job))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (flip_one_bit, "untouched tensors bit-equal to the base"),
        (nudge_a_module, EXACT),
        (drop_a_tensor, "tensor names and shapes that differ from the base"),
        (reshape_a_module, "tensor names and shapes that differ from the base"),
        (widen_one, "dtype of the written weights"),
    ],
)
def test_one_wrong_tensor_fails_by_name(tiny_merged, tmp_path, change, name):
    job = copy_of(tiny_merged, tmp_path)
    edit_tensors(job.out / WEIGHTS, change)
    base, adapter = read_mergeable(job.inputs["base"], job.inputs["adapter"], DIGESTS["base"])
    merged = safetensors_file.read_folder(job.out)
    bad = failed(merge_checks.compare_tensors(base, adapter, merged, "BF16", CONFIG.min_delta_cosine))
    assert name in bad


def test_a_flipped_bit_fails_the_whole_verification(tiny_merged, tmp_path):
    job = copy_of(tiny_merged, tmp_path)
    edit_tensors(job.out / WEIGHTS, flip_one_bit)
    assert list(failed(verify_merge(CONFIG, job))) == ["untouched tensors bit-equal to the base"]


def test_a_merge_that_is_the_base_fails_four_ways(tiny_merged, tmp_path):
    """Class 1: the merged folder is byte-identical to the base, with exit code 0."""
    job = copy_of(tiny_merged, tmp_path)
    shutil.copyfile(job.inputs["base"] / WEIGHTS, job.out / WEIGHTS)
    bad = failed(verify_merge(CONFIG, job))
    assert set(bad) == {"modules that moved", EXACT, AFTER_CAST, NOT_BASE}
    assert bad["modules that moved"].startswith("modules that moved: 0 (expected == 14)")


def test_an_untrained_adapter_makes_a_merge_that_is_the_base(tiny_merged, tiny_adapter, inputs, tmp_path):
    adapter = copy_of(tiny_adapter, tmp_path).out
    edit_tensors(adapter / ADAPTER, lambda tensors: [t.zero_() for name, t in tensors.items() if "lora_B" in name])
    job = merge_job(tmp_path / "merge", inputs[0], inputs[1], adapter)
    merge_adapter(CONFIG, job)
    assert {"modules that moved", NOT_BASE} <= set(failed(verify_merge(CONFIG, job)))


def test_a_merge_onto_an_nf4_round_trip_of_the_base_fails(tiny_merged, inputs, tmp_path):
    """The story's bug, class 4: rounding the base to 4 bits moves weights more than training did."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    def round_trip(tensors: dict) -> None:
        for name, tensor in tensors.items():
            if name.endswith("_proj.weight"):
                packed, state = quantize_4bit(tensor.float(), quant_type="nf4")
                tensors[name] = dequantize_4bit(packed, state).to(tensor.dtype)

    base, rows, adapter = inputs
    rounded = shutil.copytree(base, tmp_path / "rounded")
    edit_tensors(rounded / WEIGHTS, round_trip)
    job = merge_job(tmp_path, rounded, rows, adapter)
    merge_adapter(CONFIG, job)
    bad = failed(verify_merge(CONFIG, replace(job, inputs=job.inputs | {"base": base})))
    assert {EXACT, AFTER_CAST} <= set(bad)
    assert bad[EXACT].startswith(f"{EXACT}: 0 (expected == 14)")


def test_a_merge_with_a_wrong_scale_fails(tiny_merged, tiny_adapter, inputs, tmp_path):
    adapter = copy_of(tiny_adapter, tmp_path).out
    edit_json(adapter / "adapter_config.json", lambda config: config.update(lora_alpha=4))
    job = merge_job(tmp_path / "merge", inputs[0], inputs[1], adapter)
    merge_adapter(CONFIG, job)
    bad = failed(verify_merge(CONFIG, replace(job, inputs=tiny_merged.job.inputs)))
    assert {EXACT, AFTER_CAST} <= set(bad)


def test_an_update_that_float32_cannot_hold_fails_its_cosine(inputs, tiny_adapter, tmp_path):
    adapter = copy_of(tiny_adapter, tmp_path).out
    edit_tensors(adapter / ADAPTER, lambda tensors: [t.mul_(1e-8) for name, t in tensors.items() if "lora_B" in name])
    job = merge_job(tmp_path / "merge", inputs[0], inputs[1], adapter)
    merge_adapter(CONFIG, job)
    bad = failed(verify_merge(CONFIG, job))
    assert "least cosine of a module's float32 update with scale·B·A" in bad


def test_an_update_that_arithmetic_in_16_bit_made_fails_before_the_cast(inputs, tmp_path):
    """Sabotage of the in-memory merge that the check measures: factors rounded to 16 bit on their way."""
    base, rows, adapter_folder = inputs
    adapter = lora_file.read_adapter(adapter_folder)

    class Rounded(lora_file.LoraModule):
        def delta(self):
            return super().delta().to(torch.bfloat16).float()

    modules = {name: Rounded(**vars(module)) for name, module in adapter.modules.items()}
    job = merge_job(tmp_path, base, rows, adapter_folder)
    merge_adapter(CONFIG, job)
    bad = failed(merge_checks.compare_logits(CONFIG, job, lora_file.Adapter(modules, adapter.config)))
    assert "largest logit difference to base+adapter before the cast, float32" in bad


def test_too_few_probes_cannot_tell(tiny_merged, inputs):
    config = MergeConfig(probe_rows=64)
    adapter = lora_file.read_adapter(inputs[2])
    checks = merge_checks.compare_logits(config, tiny_merged.job, adapter)
    assert [str(one.verdict) for one in checks[:3]] == ["cannot tell"] * 3


def change_tokenizer(job) -> None:
    edit_json(job.out / "tokenizer.json", lambda tokenizer: tokenizer["added_tokens"][0].update(lstrip=True))


def lose_template(job) -> None:
    (job.out / "chat_template.jinja").unlink()


def change_generation_config(job) -> None:
    edit_json(job.out / "generation_config.json", lambda config: config.pop("eos_token_id"))


def claim_quantised(job) -> None:
    edit_json(job.out / "config.json", lambda config: config.update(quantization_config={"quant_method": "gptq"}))


@pytest.mark.parametrize(
    ("damage", "name", "said"),
    [
        (change_tokenizer, "tokenizer, template and generation files carried over", "tokenizer.json"),
        (lose_template, "tokenizer, template and generation files carried over", "chat_template.jinja"),
        (change_generation_config, "tokenizer, template and generation files carried over", "generation_config.json"),
        (claim_quantised, "quantization_config in config.json", "True (expected == False)"),
    ],
)
def test_changed_companions_fail_by_name(tiny_merged, tmp_path, damage, name, said):
    job = copy_of(tiny_merged, tmp_path)
    damage(job)
    bad = failed(verify_merge(CONFIG, job))
    assert list(bad) == [name]
    assert said in bad[name]


def truncate(job) -> None:
    path = job.out / WEIGHTS
    path.write_bytes(path.read_bytes()[:-2])


def add_pickle(job) -> None:
    (job.out / "pytorch_model.bin").write_bytes(b"\x80\x04.")


@pytest.mark.parametrize(("damage", "said"), [(truncate, "truncated or padded"), (add_pickle, "1 pickle file")])
def test_files_that_cannot_be_trusted_are_refused(tiny_merged, tmp_path, damage, said):
    job = copy_of(tiny_merged, tmp_path)
    damage(job)
    with pytest.raises(ArtifactError, match=said):
        verify_merge(CONFIG, job)


def test_float16_that_overflows_in_the_forward_pass_fails(inputs, tmp_path):
    """Class 22: every weight fits float16, and a product of two activations does not."""

    def make_large(tensors: dict) -> None:
        for name, tensor in tensors.items():
            if "gate_proj" in name or "up_proj" in name:
                tensor.mul_(3000)

    base, rows, adapter = inputs
    large = shutil.copytree(base, tmp_path / "large")
    edit_tensors(large / WEIGHTS, make_large)
    job = merge_job(tmp_path, large, rows, adapter)
    config = MergeConfig(dtype="float16")
    merge_adapter(config, job)
    assert all(torch.isfinite(one).all() for one in load_file(job.out / WEIGHTS).values())
    bad = failed(verify_merge(config, job))
    assert "Set merge.dtype to bfloat16" in bad["non-finite logits in a forward pass in float16"]


def test_a_weight_beyond_float16_fails(inputs, tmp_path):
    base, rows, adapter = inputs
    large = shutil.copytree(base, tmp_path / "large")
    edit_tensors(large / WEIGHTS, lambda tensors: tensors["model.norm.weight"][:1].fill_(1e6))
    job = merge_job(tmp_path, large, rows, adapter)
    merge_adapter(MergeConfig(dtype="float16"), job)
    assert "non-finite logits in a forward pass in float16" in failed(verify_merge(MergeConfig(dtype="float16"), job))
