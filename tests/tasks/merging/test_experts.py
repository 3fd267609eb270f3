"""A mixture of experts: adapters of attention alone and of the experts, their merge, and what would go wrong unseen."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from data_contracts.prompting.prompt import load_prompt
from tasks.core.errors import ArtifactError, ConfigError
from tasks.formats import lora_file
from tasks.formats.lora_file import EXPERTS_OUT_IN, LoraModule
from tasks.formats.token_rows import read_token_rows
from tasks.merge_adapter import MergeConfig, merge_adapter, verify_merge
from tasks.merging import checks as merge_checks
from tasks.prompts import chat
from tasks.runtimes import hf_model
from tasks.train_lora import train_lora
from tasks.training.config import TrainConfig
from tests.fixtures.tiny_chain import (
    TRAIN_CONFIG,
    copy_of,
    edit_tensors,
    failed,
    make_adapter,
    make_merged,
    make_rows,
    merge_job,
    train_job,
)
from tests.fixtures.tiny_model import edit_json
from tests.fixtures.tiny_moe import EXPERT_PARAMETERS, EXPERTS, LAYERS, make_tiny_moe

ATTENTION = TrainConfig(**TRAIN_CONFIG.model_dump() | {"dropout": 0.0, "epochs": 1.0})
WITH_EXPERTS = TrainConfig(**ATTENTION.model_dump() | {"target_parameters": EXPERT_PARAMETERS})
BEFORE_CAST = "logit difference of 99 in 100 tokens to base+adapter before the cast, float32"
DOWN = "model.layers.0.mlp.experts.down_proj"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_tiny_moe(tmp_path_factory.mktemp("moe") / "base")


@pytest.fixture(scope="module")
def rows(tmp_path_factory, base):
    return make_rows(base, tmp_path_factory.mktemp("moe-rows") / "rows")


@pytest.fixture(scope="module")
def adapted(tmp_path_factory, base, rows):
    return make_adapter(train_job(tmp_path_factory.mktemp("experts"), base, rows), WITH_EXPERTS)


@pytest.fixture(scope="module")
def merged(tmp_path_factory, base, rows, adapted):
    return make_merged(merge_job(tmp_path_factory.mktemp("experts-merge"), base, rows, adapted.out))


def test_attention_and_experts_are_adapted_and_every_check_passes(adapted):
    found = {one["name"]: one for one in adapted.outcome["checks"]}
    asked = found["adapted modules that differ from those asked for"]
    assert asked["detail"].startswith(f"{4 * LAYERS + 2 * LAYERS} found, {4 * LAYERS + 2 * LAYERS} expected")
    assert found["experts that no training row reached"]["detail"] == f"of {2 * LAYERS * EXPERTS}"
    wrapped = json.loads((adapted.out / "lineage.json").read_text())["wrapped_parameters"]
    assert {one["name"] for one in wrapped.values()} == {
        f"model.layers.{i}.{name}" for i in range(LAYERS) for name in EXPERT_PARAMETERS
    }
    assert {(one["experts"], one["layout"]) for one in wrapped.values()} == {(EXPERTS, "experts,in,out")}


def test_attention_alone_leaves_experts_and_router_bit_equal(base, rows, tmp_path):
    made = make_adapter(train_job(tmp_path, base, rows), ATTENTION)
    in_float32 = MergeConfig(dtype="float32")  # rounding alone sends tokens of so small a model to other experts
    merged = make_merged(merge_job(tmp_path, base, rows, made.out), in_float32)
    before, after = load_file(base / "model.safetensors"), load_file(merged.out / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"model.layers.{i}.self_attn.{n}_proj.weight" for i in range(LAYERS) for n in "qkvo"}


def test_the_merge_answers_as_base_plus_adapter(merged, base, rows, adapted):
    found = {one["name"]: one["measured"] for one in merged.outcome["checks"]}
    assert found[BEFORE_CAST] <= 1e-4
    assert found["modules equal to round(W + scale·B·A)"] == found["modules that moved"] == 6 * LAYERS
    probe = read_token_rows(rows / "heldout.parquet")[0][0]
    wanted = hf_model.logits(hf_model.load_model(base, adapter=adapted.out), probe)
    assert (hf_model.logits(hf_model.load_model(base), probe) - wanted).abs().max() > 0.5


def test_peft_merges_to_the_same_weights(base, rows, adapted, tmp_path):
    job = merge_job(tmp_path, base, rows, adapted.out)
    merge_adapter(MergeConfig(dtype="float32"), job)
    theirs = hf_model.load_model(base, adapter=adapted.out).merge_and_unload().state_dict()
    ours = load_file(job.out / "model.safetensors")
    assert sum(name.endswith(EXPERT_PARAMETERS) for name in ours) == 2 * LAYERS
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=1e-6)


def relabelled(adapted, folder, change):
    """A copy of the adapter whose lineage tells other things about its keys."""
    copy = copy_of(adapted, folder).out
    edit_json(copy / "lineage.json", lambda lineage: change(lineage["wrapped_parameters"]))
    return copy


def transpose_down(wrapped: dict) -> None:
    for one in wrapped.values():
        if one["name"].endswith("down_proj"):
            one["layout"] = EXPERTS_OUT_IN


def swap_names(wrapped: dict) -> None:
    inner, outer = "model.layers.0.mlp.experts.base_layer", "model.layers.0.mlp.experts"
    wrapped[inner]["name"], wrapped[outer]["name"] = wrapped[outer]["name"], wrapped[inner]["name"]


def test_an_update_written_across_fits_every_shape_and_fails_by_its_logits(base, rows, adapted, tmp_path):
    """in = out in down_proj, as in gpt-oss: only what the model answers shows that the update lies across."""
    wrong = relabelled(adapted, tmp_path, transpose_down)
    job = merge_job(tmp_path / "merge", base, rows, wrong)
    merge_adapter(MergeConfig(), job)
    assert BEFORE_CAST in failed(verify_merge(MergeConfig(), job))


def test_factors_of_another_parameter_are_refused(base, rows, adapted, tmp_path):
    wrong = relabelled(adapted, tmp_path, swap_names)
    with pytest.raises(ArtifactError, match="2 of 12 modules do not fit"):
        merge_adapter(MergeConfig(), merge_job(tmp_path / "merge", base, rows, wrong))


def test_experts_in_another_order_fail_by_their_logits(merged, monkeypatch):
    """Sabotage of our arithmetic: in B the experts vary fastest, in A slowest."""
    right = LoraModule.delta

    def wrong(self):
        delta = right(self)
        return delta.flip(0) if delta.dim() == 3 else delta

    monkeypatch.setattr(LoraModule, "delta", wrong)
    adapter = lora_file.read_adapter(merged.job.inputs["adapter"])
    assert BEFORE_CAST in failed(merge_checks.compare_logits(MergeConfig(), merged.job, adapter))


def test_an_adapter_of_experts_that_does_not_say_which_is_refused(adapted, tmp_path):
    copy = copy_of(adapted, tmp_path).out
    edit_json(copy / "lineage.json", lambda lineage: lineage.pop("wrapped_parameters"))
    with pytest.raises(ArtifactError, match="no lineage.json says which keys belong to which"):
        lora_file.read_adapter(copy)


def test_experts_that_were_never_trained_fail(adapted, base, rows, tmp_path):
    from tasks.training import adapter_checks

    copy = copy_of(adapted, tmp_path).out
    key = "base_model.model.model.layers.0.mlp.experts.lora_B.weight"
    edit_tensors(copy / "adapter_model.safetensors", lambda tensors: tensors[key].zero_())
    expected = adapter_checks.expected_modules(base, "all-linear", EXPERT_PARAMETERS)
    bad = failed(adapter_checks.check_factors(copy, expected))
    assert DOWN in bad["modules whose B factor is all zero"]


def test_experts_that_were_asked_for_and_are_not_there_fail(base, rows, tmp_path):
    from tasks.training import adapter_checks

    made = make_adapter(train_job(tmp_path, base, rows), ATTENTION)
    expected = adapter_checks.expected_modules(base, "all-linear", EXPERT_PARAMETERS)
    bad = failed(adapter_checks.check_factors(made.out, expected))
    assert "8 found, 12 expected" in bad["adapted modules that differ from those asked for"]


def test_a_target_that_matches_nothing_is_refused_before_training(base, rows, tmp_path):
    config = WITH_EXPERTS.model_copy(
        update={"target_parameters": ("mlp.experts.up_proj",), "target_modules": ["query"]}
    )
    with pytest.raises(ConfigError, match=r"2 target\(s\) are not in the base") as error:
        train_lora(config, train_job(tmp_path, base, rows))
    assert "'mlp.experts.up_proj' matches nothing. The base has" in str(error.value)
    assert "train.target_modules: 'query'" in str(error.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dropout": 0.1}, "dropout must be 0 with target_parameters"),
        ({"engine": "unsloth"}, "target_parameters needs engine trl"),
        ({"engine": "unsloth", "dropout": 0.1}, "engine unsloth.*target_parameters needs.*PEFT cannot apply it"),
    ],
)
def test_settings_that_experts_cannot_have_are_refused_together(settings, said):
    with pytest.raises(ValueError, match=said):
        TrainConfig(target_parameters=EXPERT_PARAMETERS, **settings)


def test_rows_of_a_model_that_speaks_in_channels_open_with_their_channel(base, rows):
    """Without it the row would be `<|start|>assistant{...}<|return|>`, a form that no parser of harmony reads."""
    tokenizer = hf_model.load_tokenizer(base)
    assert chat.answer_header(tokenizer) == "<|channel|>final<|message|>"
    ids, start = read_token_rows(rows / "train.parquet")[0]
    assert tokenizer.decode(ids[:start]).endswith("<|start|>assistant")
    answer = tokenizer.decode(ids[start:])
    assert answer.startswith("<|channel|>final<|message|>{") or answer.startswith("<|channel|>final<|message|><think>")
    assert answer.endswith("<|return|>")


def test_a_template_without_channels_needs_no_header(tiny_base):
    assert chat.answer_header(hf_model.load_tokenizer(tiny_base)) == ""


def test_its_gguf_computes_it_and_renders_as_it_does(merged, base, rows, tmp_path):
    """llama.cpp's converter splits gate and up, which lie interleaved, and turns every expert around."""
    from tasks.export_gguf import ExportConfig, export_gguf, verify_export
    from tasks.prompts.prompt_digest import contract_digest

    config = ExportConfig(quantizations=["f16"], max_mean_kl_f16=1e-3, parity_context_tokens=[256])
    tokenizer = hf_model.load_tokenizer(merged.out)
    texts = [tokenizer.decode(ids) for ids, _ in read_token_rows(rows / "heldout.parquet")]
    digest = contract_digest(load_prompt(merged.job.recipe), base)
    export_gguf(config, merged.out, tmp_path, prompt_digest=digest)
    checks = verify_export(config, merged.out, tmp_path, texts=texts, prompt_digest=digest)
    assert not failed(checks)
    (kl,) = [one.measured for one in checks if "mean KL" in one.name]
    assert kl < 1e-3


def test_packs_are_refused_where_the_model_does_not_keep_them_apart(base, rows, tmp_path):
    """No sabotage: gpt-oss in transformers 5.17 does not hand position ids to its masks, so packed rows read one another."""
    config = TrainConfig(**ATTENTION.model_dump() | {"packing_tokens": 1000})
    job = train_job(tmp_path, base, rows)
    with pytest.raises(ArtifactError, match="rows must not be packed here.*Attention crosses the boundaries"):
        train_lora(config, job)
    assert not (job.work / "checkpoints").exists() or not list((job.work / "checkpoints").glob("checkpoint-*"))
