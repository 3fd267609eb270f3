"""Child processes: what they did is told, and none of them outlives its parent or its limits."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
import time
from importlib import import_module
from pathlib import Path

import psutil
import pytest

from tasks.core.child import HUB_SECRETS, Moves, Watch, beat_file, run_child
from tasks.core.errors import ChildError
from tasks.core.stage import secrets_of

ROOT = Path(__file__).resolve().parents[3]


def script(folder: Path, body: str) -> list[str]:
    path = folder / "child.py"
    head = f"import os, signal, subprocess, sys, time\nsys.path.insert(0, {str(ROOT)!r})\n"
    path.write_text(head + textwrap.dedent(body))
    return [sys.executable, str(path), str(folder)]


BEATS = """
from pathlib import Path
from tasks.core.child import beat_file, die_with_parent
beat = beat_file(Path(sys.argv[1]) / "beats.jsonl")
"""


def test_progress_arrives_and_a_good_end_is_silent(tmp_path):
    seen = []
    body = BEATS + "for i in range(1, 4):\n    beat(i, 3, {'loss': 0.5}); time.sleep(0.3)\n"
    run_child(script(tmp_path, body), tmp_path, Watch(), lambda *one: seen.append(one))
    assert seen[-1] == (3, 3, {"loss": 0.5})


def test_a_failure_tells_the_last_step_and_the_end_of_the_log(tmp_path):
    body = BEATS + "beat(7, 7, {}); print('CUDA went away'); sys.exit(3)\n"
    with pytest.raises(ChildError, match=r"exited with code 3\. Last seen: 7 of 7\.") as error:
        run_child(script(tmp_path, body), tmp_path, Watch())
    assert "CUDA went away" in str(error.value)


def test_a_hung_child_that_ignores_sigterm_is_killed_with_its_group(tmp_path):
    body = (
        BEATS
        + """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
grandchild = subprocess.Popen([sys.executable, "-c", stubborn])
(Path(sys.argv[1]) / "pids").write_text(f"{os.getpid()} {grandchild.pid}")
beat(5, 100, {"loss": 1.25})
time.sleep(600)
"""
    )
    started = time.monotonic()
    with pytest.raises(ChildError, match=r"no progress for 2 s\. Last seen: 5 of 100, loss 1.25\."):
        run_child(script(tmp_path, body), tmp_path, Watch(no_progress_s=2))
    assert time.monotonic() - started < 30
    assert_gone(tmp_path)


def test_the_wall_clock_stops_a_child_that_beats_for_ever(tmp_path):
    body = BEATS + "i = 0\nwhile True:\n    i += 1; beat(i, 10**9, {}); time.sleep(0.25)\n"
    with pytest.raises(ChildError, match="ran longer than 2 s"):
        run_child(script(tmp_path, body), tmp_path, Watch(wall_clock_s=2))


def test_beats_that_change_nothing_are_no_progress_and_the_kill_says_what_was_done(tmp_path):
    numbers = "{'doing': 'forgetting probe, base model', 'unit': 'tokens', 'at_most': True}"
    body = BEATS + f"while True:\n    beat(3120, 24576, {numbers}); time.sleep(0.25)\n"
    said = (
        r"no progress for 2 s \(\d+ beats that changed nothing\)\. "
        r"Last seen: forgetting probe, base model: 3,120 of at most 24,576 tokens\."
    )
    with pytest.raises(ChildError, match=said):
        run_child(script(tmp_path, body), tmp_path, Watch(wall_clock_s=30, no_progress_s=2))


@pytest.mark.parametrize(
    "beat", ["beat(5, 9, {'tokens': i})", "beat(i, 0, {})", "beat(5, 9, {'file': f'shard {i}'})"], ids=str
)
def test_a_slow_child_whose_beats_move_outlives_no_progress(tmp_path, beat):
    """Six seconds of work, four without a beat that moves are too long; the first seconds are the interpreter's."""
    body = BEATS + f"for i in range(12):\n    {beat}; time.sleep(0.5)\n"
    run_child(script(tmp_path, body), tmp_path, Watch(no_progress_s=4))


def test_two_that_stand_still_do_not_pass_for_a_step_by_taking_turns():
    moves = Moves()
    turns = [{"done": 3, "total": 9, "numbers": {"judge": name}} for name in ("one", "other")] * 5
    assert [moves.moved(beat) for beat in turns] == [True, True] + [False] * 8
    assert moves.still == 8
    assert not moves.moved({**turns[0], "total": 8}), "a bound that shrinks is no work done"
    assert moves.moved({**turns[0], "done": 4}) and moves.still == 0


def test_a_last_beat_that_is_said_again_is_no_movement(tmp_path):
    """As a finished count that a hung step repeats: "9 of 9 tensors" for ever."""
    moves = Moves()
    last = {"done": 9, "total": 9, "numbers": {"doing": "loading the model", "unit": "tensors"}}
    assert [moves.moved(last) for _ in range(4)] == [True, False, False, False] and moves.still == 3
    body = BEATS + "while True:\n    beat(9, 9, {'doing': 'loading the model'}); time.sleep(0.25)\n"
    with pytest.raises(
        ChildError, match=r"no progress for 2 s \(\d+ beats that changed nothing\)\. Last seen: loading"
    ):
        run_child(script(tmp_path, body), tmp_path, Watch(wall_clock_s=30, no_progress_s=2))


def test_the_first_beat_of_a_label_and_the_last_of_a_count_are_written_and_few_between(tmp_path):
    beat = beat_file(tmp_path / "beats.jsonl")
    for done in range(1, 101):
        beat(done, 100, {"doing": "first"})
    for done in range(1, 101):
        beat(done, 0, {"doing": "second"})
    lines = [json.loads(line) for line in (tmp_path / "beats.jsonl").read_text().splitlines()]
    assert [(one["numbers"]["doing"], one["done"]) for one in lines[:3]] == [
        ("first", 1),
        ("first", 100),
        ("second", 1),
    ]
    assert len(lines) < 10


def test_kill_9_of_a_child_names_the_signal(tmp_path):
    body = "os.kill(os.getpid(), signal.SIGKILL)\n"
    with pytest.raises(ChildError, match="killed by SIGKILL"):
        run_child(script(tmp_path, body), tmp_path, Watch())


def test_kill_9_of_the_parent_ends_the_child(tmp_path):
    body = (
        BEATS
        + """
die_with_parent()
(Path(sys.argv[1]) / "pids").write_text(str(os.getpid()))
time.sleep(600)
"""
    )
    child = script(tmp_path, body)
    parent_code = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from tasks.core.child import HUB_SECRETS, Watch, run_child
run_child({child!r}, Path({str(tmp_path)!r}), Watch())
"""
    parent = subprocess.Popen([sys.executable, "-c", parent_code])
    wait_for(lambda: (tmp_path / "pids").is_file() and (tmp_path / "pids").read_text())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_for(lambda: not alive(int((tmp_path / "pids").read_text())))


def test_a_child_sees_the_secrets_that_are_named_and_no_other(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnopqrstuvwx")
    monkeypatch.setenv("PLUMBLINE_TEACHER_API_KEY", "sesame-open-0123456789")
    body = """
for name in ("HF_TOKEN", "PLUMBLINE_TEACHER_API_KEY"):
    print(name, "is", os.environ.get(name, "hidden"))
sys.exit(1)
"""
    with pytest.raises(ChildError, match=r"HF_TOKEN is hidden\n.*API_KEY is hidden"):
        run_child(script(tmp_path, body), tmp_path, Watch())
    with pytest.raises(ChildError, match=r"HF_TOKEN is hidden\n.*API_KEY is <PLUMBLINE_TEACHER_API_KEY>") as error:
        run_child(script(tmp_path, body), tmp_path, Watch(), secrets=["PLUMBLINE_TEACHER_API_KEY"])
    assert "sesame" not in str(error.value)


def test_each_stage_names_its_secrets():
    stages = {path.stem: import_module(f"tasks.{path.stem}") for path in sorted((ROOT / "tasks").glob("[a-z]*_*.py"))}
    found = {name: module.STAGE.secrets for name, module in stages.items() if module.STAGE.secrets}
    assert len(stages) >= 8
    assert found.keys() >= {"prepare_base", "publish_model"} and set(found.values()) == {HUB_SECRETS}
    endpoint = {"base_url": "http://127.0.0.1:1/v1", "model": "m"}
    teacher = stages["build_dataset"].DatasetConfig(teacher=endpoint)
    assert secrets_of(stages["build_dataset"].STAGE, teacher) == ["PLUMBLINE_TEACHER_API_KEY"]
    other = stages["generate_teacher"].GenerateConfig(
        engine="endpoint", **endpoint, endpoint={"api_key_env": "A_TOKEN"}
    )
    assert secrets_of(stages["generate_teacher"].STAGE, other) == ["A_TOKEN"]


def assert_gone(folder: Path) -> None:
    pids = [int(pid) for pid in (folder / "pids").read_text().split()]
    assert pids
    wait_for(lambda: not any(alive(pid) for pid in pids))


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def wait_for(condition, limit_s: float = 20) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
