"""The forgetting probe on a real adapter: both models are asked, and a recipe without traces is said to be one."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from data_contracts.verdict import Verdict, failures
from tasks.formats.token_rows import longest_completion_tokens, read_token_rows
from tasks.recipes.signals import recipe as signals
from tasks.runtimes.generation import Generation
from tasks.train_lora import verify_adapter
from tasks.training import forgetting
from tasks.training.advice import Fit
from tasks.training.config import ForgettingConfig
from tasks.training.forgetting_checks import BOARD_FILE
from tests.fixtures.tiny_chain import HELDOUT_ROWS, TRAIN_CONFIG, copy_of, edit_tensors, train_job

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
    doing = list(dict.fromkeys(numbers["doing"] for _, _, numbers in beats if numbers["unit"] != "tensors"))
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


def test_the_stage_writes_the_board_that_a_refusal_names(tiny_adapter, tmp_path):
    job = copy_of(tiny_adapter, tmp_path)
    (board := job.work / BOARD_FILE).unlink()
    checks = {one.name: one for one in verify_adapter(TRAIN_CONFIG, job)}
    text = board.read_text("utf-8")
    assert text.count('class="sample"') == len(answers(job)) == checks[PROBED].measured
    assert GENERAL in text and PROBED in text and len(checks) > 10


# How many prompts are answered: models that answer by heart, on a clock of the test's own.

LOOPS = "mean fraction of repeated 4-grams in the traces"
PROBED = "held-out prompts probed"
PROBE = ForgettingConfig(probe_rows=4, min_probe_traces=4, max_repetition_fraction=0.07, max_probe_time_fraction=0.5)


@pytest.fixture
def by_heart(monkeypatch, tiny_base, tiny_rows, tmp_path):
    """Probe a model that answers as gold but for `looping` of the first prompts; seconds that an answer of base, tuned takes."""
    heldout = [json.loads(line) for line in (tiny_rows / "heldout.jsonl").read_text().splitlines()]
    loads, now_s = [], [0.0]

    def probe(looping: int, seconds: tuple[float, float] = (1, 1), config: ForgettingConfig = PROBE, **trained):
        done = {"base": 0, "tuned": 0}

        class ByHeart:
            """In place of FolderModel."""

            def __init__(self, _folder, _dtype, adapter, beat):
                self.model = "base" if adapter is None else "tuned"

            def load(self):
                loads.append(self.model)

            def generate(self, block, *_):
                places = range(done[self.model], done[self.model] + len(block))
                done[self.model] += len(block)
                now_s[0] += seconds[self.model == "tuned"] * len(block)
                bad = [self.model == "tuned" and i < looping for i in places]
                loop = f"<think>\n{'YES or NO ' * 60}\n</think>\n\n{{}}"
                return [
                    Generation([], loop if is_bad else signals.completion(heldout[i]), "eos")
                    for i, is_bad in zip(places, bad, strict=True)
                ]

        monkeypatch.setattr(forgetting, "FolderModel", ByHeart)
        monkeypatch.setattr(forgetting, "general_losses", lambda *_: [3.0, 3.1, 3.0])
        monkeypatch.setattr(forgetting, "_clock", lambda: now_s[0])
        job = train_job(tmp_path / f"job{len(loads)}", tiny_base, tiny_rows)
        (job.out / "training_log.jsonl").write_text("")
        loads.clear()
        checks = forgetting.check_forgetting(config, "float32", job, replace(TRAINED, **trained))
        return {one.name: one for one in checks}, list(loads), job

    return probe


def test_a_doubt_doubles_the_prompts_until_it_is_decided(by_heart):
    found, loads, job = by_heart(looping=1)
    assert found[PROBED].measured == HELDOUT_ROWS == 16
    assert found[LOOPS].verdict is Verdict.PASS, "0.25 of 4, 0.06 of 16"
    assert loads == ["base", "tuned"] * 3
    assert [len(line["after_notes"]) > 0 for line in answers(job)] == [True] + [False] * 15


def test_no_doubt_no_further_prompts(by_heart):
    assert [by_heart(looping=n)[0][PROBED].measured for n in (0, 4)] == [4, 4]
    assert by_heart(looping=4)[0][LOOPS].verdict is Verdict.FAIL


def test_what_all_rows_leave_in_doubt_cannot_tell_and_says_what_would_settle_it(by_heart):
    found, _, _ = by_heart(looping=2)
    assert found[LOOPS].verdict is Verdict.CANNOT_TELL and found[PROBED].measured == 16
    assert "not beyond its own uncertainty: All 16 held-out rows were probed: raise dataset" in found[LOOPS].sentence()
    assert "aggressive" not in found[LOOPS].sentence()


@pytest.mark.parametrize(
    ("seconds", "training_s", "fraction", "probed"),
    [
        ((1, 1), 3600, 0.5, 16),
        ((15, 15), 600, 0.5, 8),  # 150 s a model: 8 answers take 120 s, 16 would take 240 s
        ((15, 15), 600, 1.0, 16),
        ((15, 1000), 600, 1.0, 4),  # the trained model rambles
        ((1000, 1000), 600, 0.5, 4),  # min_probe_traces are answered whatever it takes
        ((3, 3), 1, 0.5, 8),  # a minute is always allowed, 30 s a model
    ],
)
def test_the_time_of_the_probe_is_a_fraction_of_the_trainings(by_heart, seconds, training_s, fraction, probed):
    config = PROBE.model_copy(update={"max_probe_time_fraction": fraction})
    found, _, job = by_heart(2, seconds, config, training_s=training_s)
    assert found[PROBED].measured == len(answers(job)) == probed
    limited = "raise train.forgetting.max_probe_time_fraction" in found[LOOPS].fix
    assert limited == (probed < 16)


def test_fewer_held_out_rows_than_are_needed_cannot_tell(by_heart):
    found, _, _ = by_heart(0, config=PROBE.model_copy(update={"min_probe_traces": 17}))
    assert found[LOOPS].verdict is Verdict.CANNOT_TELL
    assert "cannot tell: 16 to judge by, at least 17 needed" in found[LOOPS].sentence()


@pytest.mark.parametrize(
    ("fits", "advice"),
    [
        ((Fit(3.9, 3.9, 0.05), Fit(4.1, 4.0, 0.1)), "too aggressive"),
        ((Fit(3.0, 3.0, 0.02), Fit(1.0, 1.2, 0.03)), "never learned to stop"),
    ],
)
def test_a_refusal_carries_the_advice_of_the_losses(by_heart, fits, advice):
    found, _, _ = by_heart(looping=4, base=fits[0], tuned=fits[1])
    assert advice in found[LOOPS].sentence() and "forgetting.html" in found[LOOPS].sentence()
