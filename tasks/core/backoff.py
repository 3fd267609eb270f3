"""Calls that may fail in passing, tried again: the one loop of retries, and the waits between them."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field

T = TypeVar("T")


class Backoff(BaseModel):
    """How often a call that failed in passing is tried, and the waits in between: doubled each time, with jitter."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_attempts: int = Field(default=4, ge=1)
    first_wait_s: float = Field(default=2.0, ge=0)
    max_wait_s: float = Field(default=30.0, ge=0)

    def wait_s(self, failed_attempts: int, at_least_s: float | None = None) -> float:
        """Seconds before the next try; `at_least_s` is what the server demands, and is never undercut.

        Between half of the step and all of it, so that clients that failed together do not come back together.
        """
        if at_least_s is not None:
            return at_least_s + random.uniform(0, 0.1 * max(at_least_s, self.first_wait_s))
        return random.uniform(0.5, 1.0) * min(self.max_wait_s, self.first_wait_s * 2 ** (failed_attempts - 1))


class FailedInPassing(Exception):
    """This try failed in a way that may pass."""

    def __init__(self, why: str, *, wait_s: float | None = None, status: int = 0, cause: BaseException | None = None):
        super().__init__(why)
        self.wait_s, self.status, self.cause = wait_s, status, cause
        """What the server demands; its HTTP status, 0 where no answer came; the fault itself."""


def with_retries(call: Callable[[], T], backoff: Backoff, pause: Callable[[float], object]) -> T:
    """The call's result. `pause` waits for so many seconds; what it raises ends the tries.

    Raises:
        FailedInPassing: the last of `backoff.max_attempts` tries. Any other error of the call comes through at once.
    """
    for attempt in range(1, backoff.max_attempts):
        try:
            return call()
        except FailedInPassing as failed:
            wait_s = backoff.wait_s(attempt, failed.wait_s)
        pause(wait_s)
    return call()
