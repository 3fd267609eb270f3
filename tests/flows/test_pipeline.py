"""How a stage is shown while it runs: a warning is told at once and once, not when its turn for a line comes."""

from __future__ import annotations

from flows.pipeline import _Shown
from tasks.core.child import WILL_NOT_FINISH


def test_a_run_that_will_not_finish_is_told_at_once_and_once(capsys):
    shown = _Shown("train_lora")
    shown.beat(100, 875, {"loss": 1.5})
    assert capsys.readouterr().err == ""
    for step in (101, 102):
        shown.beat(step, 875, {"loss": 1.5, WILL_NOT_FINISH: "at this pace it needs 3.85 h"})
    assert capsys.readouterr().err == "train_lora: will not finish: at this pace it needs 3.85 h\n"
