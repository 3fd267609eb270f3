"""The one loop of retries: what may pass is tried again, nothing else is, and no server's demand is undercut."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tasks.core.backoff import Backoff, FailedInPassing, with_retries

ROOT = Path(__file__).resolve().parents[3]


def calls(*outcomes):
    """A call that raises or returns these, one a try."""
    left = list(outcomes)

    def call():
        outcome = left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return call


def test_what_fails_in_passing_is_tried_again_with_longer_waits():
    waits = []
    backoff = Backoff(max_attempts=4, first_wait_s=2.0, max_wait_s=3.0)
    assert with_retries(calls(*[FailedInPassing("busy")] * 3, "yes"), backoff, waits.append) == "yes"
    for wait, longest in zip(waits, (2, 3, 3), strict=True):
        assert longest / 2 <= wait <= longest


def test_the_last_failure_comes_through_and_is_not_waited_for():
    waits = []
    with pytest.raises(FailedInPassing, match="third"):
        with_retries(calls(*map(FailedInPassing, ("first", "second", "third"))), Backoff(max_attempts=3), waits.append)
    assert len(waits) == 2


def test_any_other_error_comes_through_at_once():
    waits = []
    with pytest.raises(ValueError, match="wrong"):
        with_retries(calls(ValueError("wrong"), "yes"), Backoff(), waits.append)
    assert waits == []


def test_a_server_that_demands_a_wait_gets_it():
    waits = []
    with_retries(calls(FailedInPassing("busy", wait_s=50.0), "yes"), Backoff(max_wait_s=3.0), waits.append)
    assert 50.0 <= waits[0] <= 55.0


def test_no_other_module_waits_for_a_retry():
    files = sorted((ROOT / "tasks").rglob("*.py"))
    assert len(files) > 150
    waiting = {path.name for path in files if re.search(r"random\.uniform\(", path.read_text("utf-8"))}
    assert waiting == {"backoff.py"}
