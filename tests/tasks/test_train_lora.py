"""train_lora: trains with TRL and Unsloth, resumes to the last bit, and every check of the adapter can fail."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace

import pytest

from data_contracts.verdict import Verdict
from tasks.core.errors import ArtifactError, ConfigError
from tasks.formats.token_rows import read_token_rows
from tasks.merging.base_choice import DEQUANTISED, EXACT, NEITHER, TRAINED, _better_base, compare_bases
from tasks.train_lora import train_lora, verify_adapter
from tasks.training import adapter_checks, checkpoints
from tasks.training import trainer as lora_trainer
from tasks.training.config import TrainConfig
from tests.fixtures.tiny_chain import (
    STEPS,
    TRAIN_CONFIG,
    TRAIN_ROWS,
    copy_of,
    edit_tensors,
    failed,
    make_adapter,
    make_merged,
    merge_job,
    train_job,
)
from tests.fixtures.tiny_model import edit_json

WEIGHTS = "adapter_model.safetensors"
A_LAYER = "model.layers.0.self_attn.q_proj"
FACTOR_B = f"base_model.model.{A_LAYER}.lora_B.weight"


def test_trl_trains_an_adapter_that_passes_every_check(tiny_adapter):
    facts = tiny_adapter.outcome["facts"]
    assert (facts["steps_asked"], facts["steps_run"], facts["resumed_from_step"]) == (STEPS, STEPS, 0)
    assert facts["collated_rows"] == facts["collated_rows_right"] == TRAIN_ROWS
    assert len(tiny_adapter.outcome["checks"]) >= 16  # three more where the random model begins traces
    files = {path.name for path in tiny_adapter.out.iterdir()}
    assert files == {WEIGHTS, "adapter_config.json", "lineage.json", "training_log.jsonl"}
    log = [json.loads(line) for line in (tiny_adapter.out / "training_log.jsonl").read_text().splitlines()]
    assert [point["step"] for point in log] == list(range(1, STEPS + 1))


def test_nf4_trains_on_a_4_bit_copy_and_is_judged_on_the_16_bit_base(tiny_base, tiny_rows, tmp_path):
    config = TRAIN_CONFIG.model_copy(update={"base_precision": "nf4", "epochs": 1.0})
    made = make_adapter(train_job(tmp_path, tiny_base, tiny_rows), config)
    assert made.outcome["facts"]["steps_run"] == STEPS // 2
    merged = make_merged(merge_job(tmp_path, tiny_base, tiny_rows, made.out))
    found = {one["name"]: one["measured"] for one in merged.outcome["checks"]}
    trained, exact, coarse = (found[f"held-out loss on {base}"] for base in (TRAINED, EXACT, DEQUANTISED))
    assert coarse == pytest.approx(trained, abs=2e-3), "the same weights, in another type"
    assert abs(exact - trained) > abs(coarse - trained)
    kl = {base: found[f"mean KL to the trained model on {base}"] for base in (EXACT, DEQUANTISED)}
    assert 0 <= kl[DEQUANTISED] < 1e-4 < kl[EXACT], "rounding the base to 4 bits is not nothing"
    assert found["better base to merge onto"] in (EXACT, DEQUANTISED, NEITHER)
    lost = "held-out loss lost by leaving the 4-bit training base"
    assert found[lost] == pytest.approx(exact - trained, abs=2e-6)
    rows = read_token_rows(tiny_rows / "heldout.parquet")
    limited = {one.name: one for one in compare_bases(tiny_base, made.out, rows, found[lost] - 1e-4)}
    assert limited[lost].verdict is Verdict.FAIL and "base_precision 16bit" in limited[lost].fix


@pytest.mark.parametrize(
    ("exact", "coarse", "better"),
    [
        ([1.0, 1.2, 0.9, 1.1] * 5, [1.1, 1.3, 1.0, 1.2] * 5, EXACT),
        ([1.1, 1.3, 1.0, 1.2] * 5, [1.0, 1.2, 0.9, 1.1] * 5, DEQUANTISED),
        ([1.0, 1.2, 0.9, 1.1] * 5, [1.1, 1.1, 1.0, 1.0] * 5, NEITHER),
    ],
)
def test_a_base_is_better_only_beyond_the_luck_of_the_rows(exact, coarse, better):
    losses = {EXACT: [(10 * nats, 10) for nats in exact], DEQUANTISED: [(10 * nats, 10) for nats in coarse]}
    assert _better_base(losses).measured == better


def test_an_adapter_trained_beside_16_bit_weights_is_not_measured_so(tiny_merged):
    assert not [one["name"] for one in tiny_merged.outcome["checks"] if "base to merge onto" in one["name"]]


def test_unsloth_that_cannot_be_imported_is_a_config_error(tiny_base, tiny_rows, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "unsloth", None)  # what Python itself puts there to forbid an import
    config = TRAIN_CONFIG.model_copy(update={"engine": "unsloth", "dropout": 0.0})
    with pytest.raises(
        ConfigError, match=r"train\.engine is unsloth.*stacks/unsloth\.txt, or set train\.engine to trl"
    ):
        train_lora(config, train_job(tmp_path, tiny_base, tiny_rows))


def test_unsloth_with_dropout_is_refused_before_anything_runs():
    with pytest.raises(ValueError, match="dropout must be 0 with engine unsloth"):
        TrainConfig(engine="unsloth", dropout=0.1)


class Crash(Exception):
    """Stands for the end of the process, in the middle of a step."""


def crash_at(step: int):
    def beat(done: int, total: int, numbers: dict) -> None:
        if numbers["unit"] == "steps":
            assert total == STEPS
            if done == step:
                raise Crash

    return beat


@pytest.mark.parametrize(
    ("crashes", "resumed"),
    [
        ([1], 0),  # before the first checkpoint
        ([5], 3),  # in the first epoch
        ([7], 6),  # just after the checkpoint at the end of the first epoch
        ([4, 8, 11], 9),  # again and again
    ],
)
def test_an_interrupted_run_ends_bit_equal_to_an_unbroken_one(
    tiny_adapter, tiny_base, tiny_rows, tmp_path, crashes, resumed
):
    job = train_job(tmp_path, tiny_base, tiny_rows)
    for step in crashes:
        with pytest.raises(Crash):
            train_lora(TRAIN_CONFIG, replace(job, beat=crash_at(step)))
    facts = make_adapter(job).outcome["facts"]
    assert facts["resumed_from_step"] == resumed
    assert facts["steps_run_now"] == STEPS - resumed
    assert facts["steps_run"] == STEPS
    for name in (WEIGHTS, "adapter_config.json", "lineage.json", "training_log.jsonl"):
        assert (job.out / name).read_bytes() == (tiny_adapter.out / name).read_bytes(), name


def test_an_adapter_lost_after_the_last_step_comes_back_from_the_last_checkpoint(tiny_adapter, tmp_path):
    job = copy_of(tiny_adapter, tmp_path)
    shutil.rmtree(job.out)
    job.out.mkdir()
    facts = make_adapter(job).outcome["facts"]
    assert (facts["resumed_from_step"], facts["steps_run_now"]) == (STEPS, 0)
    assert (job.out / WEIGHTS).read_bytes() == (tiny_adapter.out / WEIGHTS).read_bytes()


def test_strange_checkpoints_are_refused_by_name_and_change_nothing(tiny_adapter, tiny_base, tiny_rows, tmp_path):
    """The story's trap: an older run's checkpoint, past the new run's last step, is 'newest' and ends training at once."""
    job = train_job(tmp_path, tiny_base, tiny_rows)
    folder = job.work / "checkpoints"
    whole = tiny_adapter.job.work / "checkpoints" / f"checkpoint-{STEPS}"
    for step in (3, 9998, 9999):
        shutil.copytree(whole, folder / f"checkpoint-{step}")
        checkpoints.mark(folder / f"checkpoint-{step}", "e" * 64, step)
    shutil.copytree(whole, folder / "checkpoint-6", ignore=shutil.ignore_patterns("plumbline-checkpoint.json"))
    shutil.copytree(whole, folder / f"checkpoint-{STEPS}")
    with (folder / f"checkpoint-{STEPS}" / "optimizer.pt").open("r+b") as file:
        file.seek(-9, 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(Crash):  # strangers must not push our own checkpoints out either
        train_lora(TRAIN_CONFIG, replace(job, beat=crash_at(5)))
    facts = make_adapter(job).outcome["facts"]
    assert facts["resumed_from_step"] == 3
    refused = {line.split(":")[0]: line for line in facts["refused_checkpoints"]}
    assert set(refused) == {"checkpoint-9999", "checkpoint-9998", f"checkpoint-{STEPS}", "checkpoint-3"}
    assert "belongs to eeeeeeeeeeee (other data, config, base or code)" in refused["checkpoint-9999"]
    assert "its files changed since it was written" in refused[f"checkpoint-{STEPS}"]
    assert not (folder / "checkpoint-9999").exists()
    assert (job.out / WEIGHTS).read_bytes() == (tiny_adapter.out / WEIGHTS).read_bytes()


def test_a_resume_that_loads_nothing_is_caught(tiny_adapter, tmp_path):
    """The checkpoint is whole and ours, but no loader finds its tensors: training would start over unseen."""
    job = copy_of(tiny_adapter, tmp_path)
    folder = job.work / "checkpoints" / "checkpoint-9"
    shutil.rmtree(job.work / "checkpoints" / f"checkpoint-{STEPS}")
    edit_tensors(folder / WEIGHTS, rename_to_inner)
    checkpoints.mark(folder, job.key, 9)
    with pytest.raises(ArtifactError, match=r"resuming from checkpoint-9 did not take: 28 of 28 tensors differ"):
        train_lora(TRAIN_CONFIG, job)


def test_a_resume_that_loads_one_tensor_wrong_is_caught(tiny_adapter, tiny_base, tmp_path):
    model = with_adapter(tiny_base, tiny_adapter.out)
    lora_trainer._prove_resume(model, tiny_adapter.out)
    copy = copy_of(tiny_adapter, tmp_path).out
    edit_tensors(copy / WEIGHTS, lambda tensors: tensors[FACTOR_B].view(-1)[0].add_(1e-3))
    with pytest.raises(ArtifactError, match="1 of 28 tensors differ"):
        lora_trainer._prove_resume(model, copy)


def with_adapter(base, adapter):
    from tasks.runtimes.hf_model import load_model

    return load_model(base, adapter=adapter)


def rename_to_inner(tensors: dict) -> None:
    """Soup 0.72.0: every loader returned the base, with a warning (class 3)."""
    for name in list(tensors):
        tensors[name.replace(".layers.", ".inner.layers.")] = tensors.pop(name)


def zero_b(tensors: dict) -> None:
    tensors[FACTOR_B].zero_()


def put_nan(tensors: dict) -> None:
    tensors[FACTOR_B][0, 0] = float("nan")


def put_infinity(tensors: dict) -> None:
    tensors[FACTOR_B.replace("_B", "_A")][0, 0] = float("inf")


def scale_b(factor: float):
    def change(tensors: dict) -> None:
        for name, tensor in tensors.items():
            if "lora_B" in name:
                tensor.mul_(factor)

    return change


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        (zero_b, {"modules whose B factor is all zero": A_LAYER}),
        (put_nan, {"modules with a non-finite factor": "Lower train.learning_rate", "held-out loss": "not measured"}),
        (put_infinity, {"modules with a non-finite factor": A_LAYER}),
        (scale_b(1e-9), {"largest logit difference that the adapter makes": "match nothing"}),
        (scale_b(-3), {"held-out loss": "learned nothing"}),
    ],
)
def test_damaged_factors_fail_by_name(tiny_adapter, tmp_path, change, broken):
    job = copy_of(tiny_adapter, tmp_path)
    edit_tensors(job.out / WEIGHTS, change)
    bad = failed(verify_adapter(TRAIN_CONFIG, job))
    for name, said in broken.items():
        assert said in bad[name]


def drop_a_module(tensors: dict) -> None:
    for name in [name for name in tensors if A_LAYER in name]:
        del tensors[name]


def drop_a_factor(tensors: dict) -> None:
    del tensors[FACTOR_B]


def drop_everything(tensors: dict) -> None:
    tensors.clear()


@pytest.mark.parametrize(
    ("change", "odd"),
    [(drop_a_module, "1 (expected == 0). 13 found, 14 expected"), (rename_to_inner, "28 (expected == 0)")],
)
def test_modules_that_are_not_those_asked_for_fail(tiny_adapter, tmp_path, change, odd):
    job = copy_of(tiny_adapter, tmp_path)
    edit_tensors(job.out / WEIGHTS, change)
    bad = failed(
        adapter_checks.check_factors(job.out, adapter_checks.expected_modules(job.inputs["base"], "all-linear"))
    )
    assert odd in bad["adapted modules that differ from those asked for"]
    with pytest.raises(ArtifactError, match="layers were not found"):
        verify_adapter(TRAIN_CONFIG, job)


@pytest.mark.parametrize(
    ("change", "said"),
    [(drop_a_factor, "1 factors lack their partner"), (drop_everything, "0 pairs found")],
)
def test_an_adapter_of_halves_or_of_nothing_cannot_be_read(tiny_adapter, tmp_path, change, said):
    job = copy_of(tiny_adapter, tmp_path)
    edit_tensors(job.out / WEIGHTS, change)
    with pytest.raises(ArtifactError, match=said):
        verify_adapter(TRAIN_CONFIG, job)


def test_a_truncated_adapter_cannot_be_read(tiny_adapter, tmp_path):
    job = copy_of(tiny_adapter, tmp_path)
    whole = (job.out / WEIGHTS).read_bytes()
    (job.out / WEIGHTS).write_bytes(whole[:-100])
    with pytest.raises(ArtifactError, match="truncated or padded"):
        verify_adapter(TRAIN_CONFIG, job)


def test_target_modules_that_match_nothing_cannot_tell(tiny_adapter):
    job = tiny_adapter.job
    bad = failed(adapter_checks.check_factors(job.out, adapter_checks.expected_modules(job.inputs["base"], ["query"])))
    assert "14 found, 0 expected" in bad["adapted modules that differ from those asked for"]


def test_steps_short_and_another_base_fail(tiny_adapter, tmp_path):
    job = copy_of(tiny_adapter, tmp_path)
    edit_json(job.work / "outcome.json", lambda outcome: outcome.update(steps_run=STEPS - 1))
    edit_json(job.out / "lineage.json", lambda lineage: lineage.update(base_digest="f" * 64))
    bad = failed(verify_adapter(TRAIN_CONFIG, job))
    assert set(bad) == {"optimizer steps run", "base that the adapter names"}
    assert "11 (expected == 12)" in bad["optimizer steps run"]
