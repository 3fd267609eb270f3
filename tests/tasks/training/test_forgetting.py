"""The forgetting probe on a real adapter: both models are asked, and a recipe without traces is said to be one."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from data_contracts.verdict import failures
from tasks.formats.token_rows import longest_completion_tokens, read_token_rows
from tasks.recipes.signals import recipe as signals
from tasks.training import forgetting
from tasks.training.advice import Fit
from tasks.training.config import ForgettingConfig
from tests.fixtures.tiny_chain import HELDOUT_ROWS, TRAIN_CONFIG, copy_of, edit_tensors

WEIGHTS = "adapter_model.safetensors"
TRAINED = forgetting.Trained(Fit(6.0, 6.0, 0.001), Fit(3.0, 3.1, 0.9), training_s=3600.0)
GENERAL = "rise of the loss on general text"


def probed(job, config: ForgettingConfig = TRAIN_CONFIG.forgetting):
    found = forgetting.check_forgetting(config, "float32", job, TRAINED)
    return {one.name: one for one in found}


def answers(job) -> list[dict]:
    return [json.loads(line) for line in (job.work / forgetting.ANSWERS_FILE).read_text().splitlines()]


def test_base_and_adapter_are_both_asked_the_first_held_out_rows(tiny_adapter, tiny_rows, tmp_path):
    job = copy_of(tiny_adapter, tmp_path)
    found = probed(job)
    assert not failures(found.values())
    lines = answers(job)
    heldout = [json.loads(line) for line in (tiny_rows / "heldout.jsonl").read_text().splitlines()]
    assert [line["row"] for line in lines] == heldout[: TRAIN_CONFIG.forgetting.probe_rows]
    assert any(line["before"] != line["after"] for line in lines)
    assert "over 6 passages" in found[GENERAL].detail


def test_an_adapter_without_effect_answers_as_its_base(tiny_adapter, tmp_path):
    """What is loaded is the file: with B at zero, base+adapter is the base."""
    job = copy_of(tiny_adapter, tmp_path)
    edit_tensors(job.out / WEIGHTS, lambda tensors: [one.zero_() for name, one in tensors.items() if "lora_B" in name])
    found = probed(job)
    assert found[GENERAL].measured == pytest.approx(0, abs=1e-6)
    assert all(line["before"] == line["after"] for line in answers(job))


def test_the_room_of_an_answer_follows_the_longest_training_answer_and_the_context():
    assert forgetting.answer_limit_tokens(2.0, 112, None) == 224
    assert forgetting.answer_limit_tokens(1.5, 101, 4096) == 152
    assert forgetting.answer_limit_tokens(2.0, 3, 4096) == 32, "an answer of a word still has room to ramble"
    assert forgetting.answer_limit_tokens(2.0, 112, 100) == 100
    assert forgetting.answer_limit_tokens(2.0, 112, -5) == 1


def test_the_probe_beats_by_name_and_cuts_where_the_training_answers_say(tiny_adapter, tiny_rows, tmp_path):
    job, beats = copy_of(tiny_adapter, tmp_path), []
    found = probed(replace(job, beat=lambda *beat: beats.append(beat)))
    rows = read_token_rows(tiny_rows / "train.parquet")
    longest_tokens = max(len(ids) - start for ids, start in rows)
    assert longest_completion_tokens(tiny_rows / "train.parquet") == longest_tokens
    limit_tokens = math.ceil(TRAIN_CONFIG.forgetting.probe_answer_ratio * longest_tokens)
    assert f"at {limit_tokens} tokens" in found["fraction of probed answers that are cut off"].detail
    doing = list(dict.fromkeys(numbers["doing"] for _, _, numbers in beats))
    assert doing == [
        f"{what}, {which} model" for which in ("base", "tuned") for what in ("forgetting probe", "general text")
    ]
    probe = [beat for beat in beats if beat[2]["doing"] == "forgetting probe, base model"]
    assert len(probe) >= limit_tokens / 2 and {total for _, total, _ in probe} == {4 * limit_tokens}


def test_as_many_rows_as_there_are_is_enough(tiny_adapter, tmp_path):
    job = copy_of(tiny_adapter, tmp_path)
    probed(job, TRAIN_CONFIG.forgetting.model_copy(update={"probe_rows": 1000, "probe_answer_ratio": 1.01}))
    assert len(answers(job)) == HELDOUT_ROWS


def test_a_recipe_whose_answers_carry_no_trace_is_not_asked_and_the_report_says_so(tiny_adapter, tmp_path, monkeypatch):
    monkeypatch.setattr(signals, "KEEPS_TRACE", False)
    job = copy_of(tiny_adapter, tmp_path)
    (job.work / forgetting.ANSWERS_FILE).unlink()
    found = probed(job)
    assert list(found) == [GENERAL, "answers probed for their traces"]
    said = found["answers probed for their traces"]
    assert (said.measured, said.comparison) == (0, "report")
    assert said.detail == "not made: answers of the recipe signals carry no trace"
    assert not (job.work / forgetting.ANSWERS_FILE).exists()
