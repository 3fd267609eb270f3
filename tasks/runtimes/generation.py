"""A generated answer, and which models are small enough to run on one thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tasks.core.progress import AT_MOST, UNIT, Beat

SMALL_BYTES = 64 << 20


def is_small(path: Path) -> bool:
    """A file whose operations are too short to share: a second thread gains nothing on it, and on a busy machine made
    generation up to 20 times slower (measured on a file of 4 MB)."""
    return path.is_file() and path.stat().st_size < SMALL_BYTES


def token_beat(beat: Beat, most_tokens: int) -> Callable[[int], None]:
    """Says tokens so far, of at most so many: how long answers are is known when they end."""
    return lambda tokens: beat(tokens, most_tokens, {UNIT: "tokens", AT_MOST: True})


@dataclass(frozen=True)
class Generation:
    """One answer."""

    ids: list[int]
    """The generated tokens, without the stop token."""
    text: str
    """`ids` as text; special tokens that the model let slip are written out, so that a check can see them."""
    stopped: Literal["eos", "length"]
    """"eos" when a stop token was produced; "length" when the limit or the context ended it."""
