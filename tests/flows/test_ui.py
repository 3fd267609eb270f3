"""`make ui` for real: up, a run started through the API ends well, and Ctrl-C leaves no process behind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.fixtures.ui_process import ROOT, Started, alive, free_port, trigger, wait_for

GOLD = ROOT / "data_contracts" / "signals" / "examples" / "gold.jsonl"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is sent as a POSIX signal"),
]


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    ui = Started(tmp_path / "home", free_port())
    try:
        yield ui
    finally:
        for one in [*ui.family(), ui.process] if ui.process.poll() is None else []:
            one.kill()


def test_a_run_started_in_the_ui_ends_well_and_ctrl_c_leaves_nothing(started, tmp_path):
    with httpx.Client(base_url=f"{(url := started.wait_until_ready())}/api", timeout=30) as api:
        assert api.get("/health").json() is True
        settings = httpx.get(f"{url}/ui-settings").json()
        assert settings["api_url"] == f"{url}/api", "the page would ask another server"
        run = trigger(api, "validate-contract/laptop", {"recipe": "signals", "data": str(GOLD)})
        done = wait_for(api, run, {"COMPLETED", "FAILED", "CRASHED"})
        assert done["state_type"] == "COMPLETED", done["state"]
        run = trigger(api, "validate-contract/laptop", {"recipe": "signals", "data": str(tmp_path / "nowhere.jsonl")})
        failed = wait_for(api, run, {"COMPLETED", "FAILED", "CRASHED"})
        assert failed["state_type"] == "FAILED" and "is not a file" in failed["state"]["message"]
    family = started.family()
    assert len(family) >= 2, "server and worker"
    assert started.end(signal.SIGINT) == 0 and started.said.rstrip().endswith("stopped")
    assert alive(family) == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/api/health")
    assert started.said.count("\n") < 15, "it must not stream logs"


def test_sigterm_in_the_middle_of_a_run_ends_the_run_too(started, tmp_path):
    """The deepest process is a stage's child, in a session of its own."""
    with httpx.Client(base_url=f"{started.wait_until_ready()}/api", timeout=30) as api:
        blocks = {"base": {"source": "nano"}, "dataset": {"source": "nano"}, "validate_rows": {"limits": "nano"}}
        config = {"name": "stopped", "recipe": "signals", "store": str(tmp_path / "store"), **blocks}
        run = trigger(api, "finetune/laptop-nano", {"config": config})
        wait_for(api, run, {"RUNNING"})
        deadline, family = time.monotonic() + 300, started.family()
        while "tasks.prepare_base" not in str(alive(family)):
            assert time.monotonic() < deadline, alive(family)
            time.sleep(0.5)
            family = started.family()
    assert started.end(signal.SIGTERM) == 0 and "1 unfinished run(s) marked as crashed" in started.said
    assert len(family) >= 4 and alive(family) == []


def test_what_a_killed_start_left_behind_is_ended_by_the_next(started, tmp_path):
    started.wait_until_ready()
    left = started.family()
    started.process.kill()
    started.process.communicate()
    assert len(alive(left)) >= 2, "nothing was left: this test proves nothing"
    again = Started(tmp_path / "home", 4200)
    try:
        again.wait_until_ready()
        assert alive(left) == []
        assert Started(tmp_path / "home", 4200).process.wait(60) == 1, "two of them on one database"
    finally:
        family = again.family()
        again.end(signal.SIGINT)
    assert alive(family) == []
