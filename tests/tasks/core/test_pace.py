"""A run that its wall clock will cut off is told so while there is time to act, not at the end."""

from __future__ import annotations

import pytest

from tasks.core.child import WILL_NOT_FINISH, Pace, Watch, run_child
from tasks.core.errors import ChildError
from tests.tasks.core.test_child import BEATS, script

STORY_S, STORY_STEPS, STORY_DIED_AT = 10_800, 875, 684
"""The story's limit of three hours, its 875 steps, and step 684, at which it was killed after 2 h 59 min."""
STEP_S = STORY_S / STORY_DIED_AT
LOADING_S = 60


def told(pace: Pace, steps: int, seconds_a_step: float = STEP_S) -> str:
    """What the pace says after so many steps, each told of as it ends; the first beat comes after loading."""
    said = ""
    for done in range(1, steps + 1):
        said = pace.late(LOADING_S + done * seconds_a_step, done, STORY_STEPS)
    return said


def test_the_storys_run_is_told_within_its_first_minutes():
    said = told(Pace(STORY_S), 10)
    assert said.startswith("at this pace it needs 3.85 h, and is killed after 3.00 h. Stop it, raise wall_clock_s")


def test_a_limit_with_margin_says_nothing():
    assert told(Pace(8 * 3600), STORY_STEPS) == ""


def test_the_first_steps_are_too_little_to_tell():
    assert told(Pace(STORY_S), 3) == ""
    assert told(Pace(STORY_S), 5) == "", "four steps, and less than a hundredth of the wall clock"


def test_a_resumed_run_is_judged_by_the_steps_of_this_start():
    """Step 684 in the first minute is a checkpoint, not a pace."""
    pace = Pace(STORY_S)
    for i in range(20):
        assert pace.late(LOADING_S + i * STEP_S, STORY_DIED_AT + i, STORY_STEPS) == ""
    slow = Pace(STORY_S)
    assert [slow.late(LOADING_S + i * 60, STORY_DIED_AT + i, STORY_STEPS) != "" for i in (0, 1, 2, 3, 4)][-1]


def test_a_stage_that_counts_anew_starts_a_new_pace():
    pace = Pace(1000)
    assert all(pace.late(float(i), i, 100) == "" for i in range(1, 101))
    assert pace.late(101.0, 1, 100) == ""
    assert pace.rate.first == (101.0, 1)


def test_a_bound_is_no_end_and_another_label_is_another_pace():
    pace, slow = Pace(1000), {"doing": "probe", "unit": "tokens"}
    assert not any(pace.late(10.0 * i, i, 1000, {**slow, "at_most": True}) for i in range(1, 30))
    assert any(pace.late(300 + 10.0 * i, 30 + i, 1000, slow) for i in range(1, 30)), "the same with a total that is one"
    assert pace.late(700.0, 100, 1000, {**slow, "doing": "writing"}) == "" and pace.rate.first == (700.0, 100)
    assert not any(pace.late(700 + 10.0 * i, 100 + i, 0, {}) for i in range(1, 29)), "a total that is not known"


def test_the_warning_comes_before_the_kill_and_names_what_to_do(tmp_path):
    seen: list[dict] = []
    body = BEATS + "for i in range(1, 1000):\n    beat(i, 1000, {'loss': 1.5}); time.sleep(0.21)\n"
    with pytest.raises(ChildError, match=r"ran longer than 3 s, its wall clock; raise wall_clock_s and run again"):
        run_child(script(tmp_path, body), tmp_path, Watch(wall_clock_s=3), lambda _d, _t, numbers: seen.append(numbers))
    warned = [numbers for numbers in seen if WILL_NOT_FINISH in numbers]
    assert warned and warned[0]["loss"] == 1.5
    assert "raise wall_clock_s" in warned[0][WILL_NOT_FINISH]
    assert WILL_NOT_FINISH not in seen[0]
