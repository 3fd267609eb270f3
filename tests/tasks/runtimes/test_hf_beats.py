"""Generation by transformers says its tokens after each step, and asking for beats changes no answer."""

from __future__ import annotations

import pytest

from tasks.runtimes import hf_model
from tests.fixtures.tiny_model import make_tiny_model

MOST_TOKENS = 12


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = make_tiny_model(tmp_path_factory.mktemp("beats") / "model")
    return hf_model.load_model(folder), hf_model.load_tokenizer(folder)


def prompts() -> list[list[int]]:
    return [[5 + i, 40, 7 * i + 3, 90, 11] for i in range(5)]


def test_each_step_beats_with_tokens_that_move(model):
    beats = []
    made = hf_model.generate(*model, prompts(), MOST_TOKENS, [0], 3, lambda *beat: beats.append(beat))
    counts = [tokens for tokens, *_ in beats]
    assert counts[-1] == sum(len(one.ids) + (one.stopped == "eos") for one in made)
    assert counts == sorted(set(counts)) and max(b - a for a, b in zip([0, *counts], counts, strict=False)) <= 3
    assert {beat[1] for beat in beats} == {5 * MOST_TOKENS}
    assert beats[0][2] == {"unit": "tokens", "at_most": True}


def test_padding_behind_the_end_of_an_answer_is_no_token(model):
    free = hf_model.generate(*model, prompts(), MOST_TOKENS, [0])
    stop, beats = free[0].ids[2], []
    made = hf_model.generate(*model, prompts(), MOST_TOKENS, [0, stop], 5, lambda *beat: beats.append(beat))
    assert made[0].ids == free[0].ids[: free[0].ids.index(stop)]
    assert beats[-1][0] == sum(len(one.ids) + (one.stopped == "eos") for one in made) < 5 * MOST_TOKENS
