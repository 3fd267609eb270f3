"""Full fine-tuning: every weight is trained, written in the base's form, proven from disk, and merged by a cast."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from tasks.core.errors import ArtifactError
from tasks.formats.token_rows import read_token_rows
from tasks.merge_adapter import MergeConfig, merge_adapter, verify_merge
from tasks.runtimes import hf_model
from tasks.train_lora import train_lora, verify_adapter
from tasks.training import full_weights
from tasks.training import trainer as lora_trainer
from tasks.training.config import TrainConfig
from tests.fixtures.tiny_chain import (
    DIGESTS,
    STEPS,
    TRAIN_CONFIG,
    copy_of,
    edit_tensors,
    failed,
    make_adapter,
    make_merged,
    merge_job,
    train_job,
)
from tests.fixtures.tiny_model import edit_json, make_tiny_model

CONFIG = TrainConfig(
    method="full",
    compute_dtype="float32",
    learning_rate=2e-3,
    epochs=2,
    batch_rows=4,
    checkpoint_every_steps=3,
    forgetting=TRAIN_CONFIG.forgetting,
)
WEIGHTS = "model.safetensors"
LAYER = "model.layers.0.self_attn.q_proj.weight"
EXACT = "tensors equal to round(trained tensor)"
NOT_BASE = "merged is not base: largest logit difference to the base"


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_base, tiny_rows):
    return make_adapter(train_job(tmp_path_factory.mktemp("full"), tiny_base, tiny_rows), CONFIG)


@pytest.fixture(scope="module")
def merged(tmp_path_factory, tiny_base, tiny_rows, trained):
    return make_merged(merge_job(tmp_path_factory.mktemp("full-merge"), tiny_base, tiny_rows, trained.out))


def test_every_weight_is_trained_and_passes_every_check(trained, tiny_base):
    facts = trained.outcome["facts"]
    assert (facts["steps_asked"], facts["steps_run"], facts["resumed_from_step"]) == (STEPS, STEPS, 0)
    companions = {path.name for path in tiny_base.iterdir()}
    assert {path.name for path in trained.out.iterdir()} == companions | {"lineage.json", "training_log.jsonl"}
    before, after = load_file(tiny_base / WEIGHTS), load_file(trained.out / WEIGHTS)
    assert before.keys() == after.keys()
    assert {one.dtype for one in after.values()} == {torch.float32}
    assert all(not torch.equal(before[name].float(), after[name]) for name in before), "norms and embedding too"
    lineage = json.loads((trained.out / "lineage.json").read_text())
    assert lineage["method"] == "full"
    assert (lineage["base_digest"], lineage["rows_digest"]) == (DIGESTS["base"], DIGESTS["rows"])
    assert len(lineage["prompt_contract"]) == 64
    names = [one["name"] for one in trained.outcome["checks"]]
    assert {"held-out loss", "rise of the loss on general text", "linear layers that training did not move"} <= set(
        names
    )


def test_the_merge_is_the_cast_and_nothing_else(merged, trained):
    cast, exact = load_file(merged.out / WEIGHTS), load_file(trained.out / WEIGHTS)
    assert len(cast) == 24
    assert all(torch.equal(cast[name], exact[name].to(torch.bfloat16)) for name in exact)
    found = {one["name"]: one["measured"] for one in merged.outcome["checks"]}
    assert found[EXACT] == 24
    assert found["largest logit difference to the trained model before the cast, float32"] == 0
    assert found["share of the update that survives rounding, mean"] > 0.9
    assert json.loads((merged.out / "config.json").read_text())["dtype"] == "bfloat16"
    assert not (merged.out / "training_log.jsonl").exists()


def test_untied_weights_and_several_shards_are_written_as_they_were(tmp_path, tiny_rows, monkeypatch):
    base = make_tiny_model(tmp_path / "untied", hidden_size=64, context_tokens=2048, tie=False)
    monkeypatch.setitem(full_weights.model_folder.write_like.__kwdefaults__, "max_shard_bytes", 1 << 16)
    monkeypatch.setattr(
        "tasks.train_lora.check_forgetting", lambda *_: []
    )  # whether a random model writes traces is luck
    made = make_adapter(train_job(tmp_path, base, tiny_rows), CONFIG.model_copy(update={"epochs": 1.0}))
    assert len(list(made.out.glob("model-*.safetensors"))) > 3
    assert make_merged(merge_job(tmp_path, base, tiny_rows, made.out)).outcome["facts"]["tensors"] == 25


class Crash(Exception):
    """Stands for the end of the process, in the middle of a step."""


def test_an_interrupted_run_ends_bit_equal_to_an_unbroken_one(trained, tiny_base, tiny_rows, tmp_path):
    def beat(done: int, total: int, numbers: dict) -> None:
        if done == 8 and numbers["unit"] == "steps":
            raise Crash

    job = train_job(tmp_path, tiny_base, tiny_rows)
    with pytest.raises(Crash):
        train_lora(CONFIG, replace(job, beat=beat))
    facts = make_adapter(job, CONFIG).outcome["facts"]
    assert (facts["resumed_from_step"], facts["steps_run_now"]) == (6, STEPS - 6)
    assert (job.out / WEIGHTS).read_bytes() == (trained.out / WEIGHTS).read_bytes()


def test_a_resume_that_did_not_take_is_caught(trained, tiny_base, tmp_path):
    from transformers import AutoModelForCausalLM

    folder = shutil.copytree(trained.job.work / "checkpoints" / f"checkpoint-{STEPS}", tmp_path / f"checkpoint-{STEPS}")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    lora_trainer._prove_resume(model, folder)
    edit_tensors(folder / WEIGHTS, lambda tensors: tensors[LAYER].view(-1)[0].add_(1e-3))
    with pytest.raises(ArtifactError, match="did not take: 1 of 24 tensors differ"):
        lora_trainer._prove_resume(model, folder)


def as_the_base(name: str, base):
    def change(tensors: dict) -> None:
        tensors[name] = load_file(base / WEIGHTS)[name].float()

    return change


def put_nan(tensors: dict) -> None:
    tensors[LAYER][0, 0] = float("nan")


def drop(tensors: dict) -> None:
    del tensors["model.norm.weight"]


def round_one(tensors: dict) -> None:
    tensors[LAYER] = tensors[LAYER].to(torch.bfloat16)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ("frozen", "linear layers that training did not move"),
        (put_nan, "tensors with a non-finite value"),
        (drop, "tensor names and shapes that differ from the base"),
        (round_one, "dtype of the trained weights"),
    ],
)
def test_damaged_weights_fail_by_name(trained, tiny_base, tmp_path, change, name):
    job = copy_of(trained, tmp_path)
    edit_tensors(job.out / WEIGHTS, as_the_base(LAYER, tiny_base) if change == "frozen" else change)
    layers = hf_model.layer_shapes(tiny_base)[0]
    assert list(failed(full_weights.check_whole(job.out, tiny_base, layers))) == [name]


def test_another_tokenizer_beside_the_weights_fails(trained, tiny_base, tmp_path):
    job = copy_of(trained, tmp_path)
    edit_json(job.out / "tokenizer.json", lambda tokenizer: tokenizer["added_tokens"][0].update(lstrip=True))
    assert "tokenizer, template and generation files carried over" in failed(verify_adapter(CONFIG, job))


def test_weights_of_the_base_fail_as_a_training_that_learned_nothing(trained, tiny_base, tmp_path):
    job = copy_of(trained, tmp_path)
    base = {name: one.float() for name, one in load_file(tiny_base / WEIGHTS).items()}
    edit_tensors(job.out / WEIGHTS, lambda tensors: tensors.update(base))
    bad = failed(verify_adapter(CONFIG, job))
    assert {"held-out loss", "linear layers that training did not move"} <= set(bad)


def test_a_merge_of_whole_weights_on_another_base_is_refused(trained, tiny_base, tiny_rows, tmp_path):
    job = merge_job(tmp_path, tiny_base, tiny_rows, trained.out)
    with pytest.raises(ArtifactError, match="made for another base: it names bbbb"):
        merge_adapter(MergeConfig(), replace(job, digests=DIGESTS | {"base": "f" * 64}))
    narrow = make_tiny_model(tmp_path / "narrow", hidden_size=64, layers=1, context_tokens=2048)
    with pytest.raises(ArtifactError, match="made for another base: .* tensors do not fit"):
        merge_adapter(MergeConfig(), merge_job(tmp_path / "n", narrow, tiny_rows, trained.out))


def nudge(tensors: dict) -> None:
    tensors[LAYER].view(torch.int16)[0, 0] ^= 1


def test_one_bit_of_the_cast_fails_by_name(merged, tmp_path):
    job = copy_of(merged, tmp_path)
    edit_tensors(job.out / WEIGHTS, nudge)
    assert failed(verify_merge(MergeConfig(), job))[EXACT].startswith(f"{EXACT}: 23 (expected == 24)")


def test_a_merge_that_is_the_base_fails(merged, tiny_base, tmp_path):
    job = copy_of(merged, tmp_path)
    shutil.copyfile(tiny_base / WEIGHTS, job.out / WEIGHTS)
    assert {EXACT, NOT_BASE} <= set(failed(verify_merge(MergeConfig(), job)))


def test_the_evaluation_asks_the_trained_model_and_not_its_base(trained, tiny_base, tiny_rows):
    probe = read_token_rows(tiny_rows / "heldout.parquet")[0][0]
    asked = hf_model.logits(hf_model.load_model(tiny_base, adapter=trained.out), probe)
    assert torch.equal(asked, hf_model.logits(hf_model.load_model(trained.out), probe))
    assert not torch.allclose(asked, hf_model.logits(hf_model.load_model(tiny_base), probe), atol=0.1)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"base_precision": "nf4"}, "4-bit weights cannot be trained"),
        ({"rank": 8, "dropout": 0.1}, "rank, dropout must be left out with method full"),
        (
            {"engine": "unsloth", "base_precision": "nf4"},
            "method full needs engine trl.*4-bit weights cannot be trained",
        ),
    ],
)
def test_settings_that_full_training_cannot_use_are_refused_together(settings, said):
    with pytest.raises(ValueError, match=said):
        TrainConfig(method="full", **settings)
