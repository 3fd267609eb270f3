"""What a beat says: how far a step is, what it is doing, how fast it gets on, and when it will be done; as one line."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Beat = Callable[[int, int, dict], None]
"""Called with (done, total, numbers to show). A total of 0 is not known. DOING, UNIT and AT_MOST have a meaning of their own."""

DOING = "doing"
"""Name under which a beat says what is being done: "forgetting probe, base model"."""
UNIT = "unit"
"""Name under which a beat says what is counted: "tokens"."""
AT_MOST = "at_most"
"""Name under which a beat says that its total is only an upper bound: answers may end before their last token."""
_OWN_RATE = ("tokens_per_s", "left_s")
"""Numbers of a beat that knows its own speed; no second one is shown beside them."""


def silent(done: int, total: int, numbers: dict) -> None:
    """A beat that nobody listens to."""


def named(beat: Beat, doing: str) -> Beat:
    """The same beat, which also says what is being done."""
    return lambda done, total, numbers: beat(done, total, {DOING: doing, **numbers})


def summed(beat: Beat, doing: str) -> Beat:
    """One count of several that run side by side, told apart by what each says it is doing."""
    parts: dict[tuple[str, str], tuple[int, int]] = {}
    lock = threading.Lock()

    def add(done: int, total: int, numbers: dict) -> None:
        with lock:
            parts[label_of(numbers)] = (done, total)
            all_done, all_total = map(sum, zip(*parts.values(), strict=True))
            beat(all_done, all_total, {**numbers, DOING: doing})

    return add


def label_of(numbers: Mapping[str, Any]) -> tuple[str, str]:
    """(what is being done, what is counted) of a beat: another label is another count, with a rate of its own."""
    return str(numbers.get(DOING, "")), str(numbers.get(UNIT, ""))


@dataclass
class Rate:
    """How fast a count grows, from the first beat of its label: what came before, loading or a resume, is no step."""

    first: tuple[float, int] | None = None
    """(seconds since the start, done) at the first beat of this label."""
    last: int = 0
    label: tuple[str, str] = ("", "")

    def note(self, elapsed_s: float, done: int, numbers: Mapping[str, Any]) -> tuple[float, int]:
        """(seconds, steps) since the first beat of this label; a count that falls begins anew."""
        label = label_of(numbers)
        if self.first is None or done < self.last or label != self.label:
            self.first, self.label = (elapsed_s, done), label
        self.last = done
        return elapsed_s - self.first[0], done - self.first[1]


def progress_line(done: int, total: int, numbers: Mapping[str, Any], per_s: float = 0.0) -> str:
    """A beat in words: "forgetting probe, base model: 3,120 of at most 24,576 tokens, 52.0/s, at most 6 min 52 s left".

    `per_s`: how many are done in a second, 0 where that is not known. A total that is 0, or that has shrunk below what is
    done, gives no time left.
    """
    doing, unit = label_of(numbers)
    bound = "at most " if numbers.get(AT_MOST) else ""
    parts = [f"{done:,}" + (f" of {bound}{total:,}" if total > 0 else "") + (f" {unit}" if unit else "")]
    if per_s > 0 and not any(name in numbers for name in _OWN_RATE):
        parts.append(f"{per_s:,.1f}/s")
        if total > done:
            parts.append(f"{bound}{duration((total - done) / per_s)} left")
    parts += [_shown(name, value) for name, value in numbers.items() if name not in (DOING, UNIT, AT_MOST)]
    return (f"{doing}: " if doing else "") + ", ".join(parts)


def _shown(name: str, value: Any) -> str:
    if name == "left_s":
        return f"{duration(value)} left"
    return f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"


def duration(seconds: float) -> str:
    """Seconds as a person reads them: "52 s", "6 min 52 s", "3 h 05 min"."""
    minutes, rest_s = divmod(round(seconds), 60)
    hours, rest_min = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {rest_min:02} min"
    return f"{minutes} min {rest_s:02} s" if minutes else f"{rest_s} s"


@contextmanager
def file_growth(path: Path, say: Callable[[int], None], every_s: float = 1.0) -> Iterator[None]:
    """Say the size in bytes of a file, or of all files under a folder, that a call is writing, from a thread, while it grows.

    The call has to let go of Python's lock, as ctypes does. A size that stands still is not said again: a hung call falls
    silent. The last size is always said.
    """
    ended, seen = threading.Event(), -1

    def look() -> None:
        nonlocal seen
        over = False
        while not over:
            over = ended.wait(every_s)
            size_bytes = _size_bytes(path)
            if size_bytes != seen:
                seen = size_bytes
                say(size_bytes)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _size_bytes(path: Path) -> int:
    """What lies there now; 0 for what is not there. Files come and go while they are looked at."""
    size_bytes = 0
    for file in path.rglob("*") if path.is_dir() else [path]:
        with suppress(OSError):
            size_bytes += file.lstat().st_size if file.is_file() and not file.is_symlink() else 0
    return size_bytes
