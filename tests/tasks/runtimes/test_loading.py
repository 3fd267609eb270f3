"""A model that is loaded beats by its tensors, and the bar of transformers is left as it was."""

from __future__ import annotations

import pytest
from transformers.utils import logging as hf_logging

from tasks.core.child import Moves
from tasks.runtimes import hf_model
from tasks.runtimes.loading import loading_beats


def test_each_tensor_of_a_model_is_a_beat_that_moved(tiny_base):
    beats, moves = [], Moves()
    with hf_model.quiet():
        model = hf_model.load_model(tiny_base, beat=lambda *beat: beats.append(beat))
    assert len(beats) >= 10 and beats[-1][0] == beats[-1][1] == len(beats)
    assert beats[0][2] == {"doing": "loading the model", "unit": "tensors"}
    assert len(beats) <= len(list(model.parameters()))
    assert all(moves.moved({"done": done, "total": total, "numbers": numbers}) for done, total, numbers in beats)


def test_the_hook_is_taken_back_even_after_an_error():
    def mine(make, args, kwargs):
        return make(*args, **kwargs)

    before = hf_logging.set_tqdm_hook(mine)
    try:
        with pytest.raises(ValueError), loading_beats(lambda *_: None, "x"):
            raise ValueError
        assert hf_logging.set_tqdm_hook(None) is mine
    finally:
        hf_logging.set_tqdm_hook(before)
