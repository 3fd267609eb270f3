"""Child processes: each stage's work runs in its own process group, watched by a wall clock and a no-progress watchdog.

A Prefect timeout cannot stop a call into C (notes: 9.9 s for a 2 s limit), memory returns to the system only when a
process ends, and the import order is ours alone in a fresh interpreter.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.core.errors import ChildError, redact, secret_names
from tasks.core.progress import AT_MOST, Beat, Rate, label_of, progress_line, silent

HUB_SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
"""What a stage that talks to the Hub may see."""
WILL_NOT_FINISH = "will not finish"
"""Name under which a beat carries the projection that the wall clock comes first."""
_GRACE_S = 3.0
_POLL_S = 0.1
_PACE_STEPS, _PACE_SHARE = 3, 0.01
"""A projection rests on so many steps, and on so much of the wall clock: the first steps are slower than the rest."""
_BEAT_EVERY_S = 0.2
_TAIL_LINES = 12


@dataclass
class Watch:
    """How long a child may run, and how long it may go without a beat that moved."""

    wall_clock_s: float = 24 * 3600.0
    no_progress_s: float = 900.0


@dataclass
class Pace:
    """How fast a child gets on, from its beats: when will it be done?

    A run that the wall clock will cut off three hours from now is told so now (seed story "proofkit": killed at step 684 of
    875 after 2 h 59 min).
    """

    wall_clock_s: float
    rate: Rate = field(default_factory=Rate)

    def late(self, elapsed_s: float, done: int, total: int, numbers: Mapping[str, Any] | None = None) -> str:
        """Why the wall clock comes first, at the pace since the first beat; "" when it does not, or too little was seen.

        A total that is only an upper bound, or not known, says nothing of the end.
        """
        since_s, steps = self.rate.note(elapsed_s, done, numbers or {})
        if total <= 0 or (numbers or {}).get(AT_MOST):
            return ""
        if steps < _PACE_STEPS or since_s < _PACE_SHARE * self.wall_clock_s:
            return ""
        needed_s = elapsed_s + since_s / steps * (total - done)
        if needed_s <= self.wall_clock_s:
            return ""
        return (
            f"at this pace it needs {needed_s / 3600:.2f} h, and is killed after {self.wall_clock_s / 3600:.2f} h. Stop it, "
            "raise wall_clock_s, and run again: training goes on from its last checkpoint"
        )


def run_child(
    argv: list[str], folder: Path, watch: Watch, on_beat: Beat = silent, *, secrets: Collection[str] = ()
) -> None:
    """Run a command in its own process group until it ends well.

    The child writes `beats.jsonl` in `folder`; its output goes to `folder/child.log`. Whatever ends this call
    (return, error, Ctrl-C), no process of the group is left. `secrets` names the variables it may see; it sees no other secret.

    Raises:
        ChildError: it exited non-zero, exceeded a limit, or was killed; with its last beat and the end of its log.
    """
    beats, log = folder / "beats.jsonl", folder / "child.log"
    beats.write_text("")
    env = environment(secrets)
    started = time.monotonic()
    with log.open("wb") as out:
        # The child watches its stdin: when this process dies, however it dies, the pipe closes and the child ends itself.
        child = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=out, stderr=out, env=env, start_new_session=os.name == "posix"
        )
    try:
        trouble = _watch(child, beats, watch, started, on_beat)
    finally:
        _kill_group(child)
    if trouble or child.returncode:
        raise ChildError(_story(argv, child.returncode, trouble, beats, log))


def environment(secrets: Collection[str] = ()) -> dict[str, str]:
    """This process's environment without its secrets, but for those that are named."""
    hidden = set(secret_names()) - set(secrets)
    return {name: value for name, value in os.environ.items() if name not in hidden}


def _watch(child: subprocess.Popen, beats: Path, watch: Watch, started: float, on_beat: Beat) -> str:
    seen_bytes, last_move, pace, moves = 0, started, Pace(watch.wall_clock_s), Moves()
    while child.poll() is None:
        time.sleep(_POLL_S)
        now = time.monotonic()
        if (size := beats.stat().st_size) != seen_bytes:
            seen_bytes = size
            if beat := last_line(beats):
                if moves.moved(beat):
                    last_move = now
                late = pace.late(now - started, **beat)
                on_beat(beat["done"], beat["total"], {**beat["numbers"], **({WILL_NOT_FINISH: late} if late else {})})
        if now - started > watch.wall_clock_s:
            limit = f"ran longer than {watch.wall_clock_s:g} s, its wall clock"
            return f"{limit}; raise wall_clock_s and run again: training goes on from its last checkpoint"
        if now - last_move > watch.no_progress_s:
            repeated = f" ({moves.still} beats that changed nothing)" if moves.still else ""
            return f"made no progress for {watch.no_progress_s:g} s{repeated}"
    return ""


class Moves:
    """Which beats moved: another count, or other numbers, than the last beat with the same words.

    By their words, so that two models at work side by side, of which neither gets on, do not pass for a step each time one
    of them beats after the other. The total is left out: a bound that shrinks is no work done.
    """

    def __init__(self) -> None:
        self._last: dict[tuple, tuple] = {}
        self.still = 0
        """Beats since the last that moved."""

    def moved(self, beat: Mapping[str, Any]) -> bool:
        """Whether something was done since the last beat of these words."""
        words = tuple(sorted((name, value) for name, value in beat["numbers"].items() if isinstance(value, str)))
        state = (beat["done"], json.dumps(beat["numbers"], sort_keys=True))
        moved = self._last.get(words) != state
        self._last[words] = state
        self.still = 0 if moved else self.still + 1
        return moved


def _kill_group(child: subprocess.Popen) -> None:
    """SIGTERM, a moment's grace, SIGKILL, for the whole group, grandchildren included."""
    if os.name != "posix":
        import psutil

        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(child.pid).children(recursive=True):
                process.kill()
        child.kill()
    else:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGTERM)
            deadline = time.monotonic() + _GRACE_S
            while child.poll() is None and time.monotonic() < deadline:
                time.sleep(_POLL_S)
            os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    if child.stdin:
        child.stdin.close()


def _story(argv: list[str], code: int | None, trouble: str, beats: Path, log: Path) -> str:
    name = next((argv[i + 1] for i, a in enumerate(argv[:-1]) if a == "-m"), Path(argv[0]).name)
    if not trouble:
        trouble = f"was killed by {signal.Signals(-code).name}" if code and code < 0 else f"exited with code {code}"
        if code == -signal.SIGKILL:
            trouble += " (the system does this when memory runs out)"
    beat = last_line(beats)
    seen = progress_line(**beat) if beat else "no progress at all"
    tail = "\n".join(f"    {line}" for line in log.read_text("utf-8", "replace").splitlines()[-_TAIL_LINES:])
    return redact(
        f"{name}: the child process {trouble}. Last seen: {seen}. Whole log: {log.name} in its work folder.\n{tail}"
    )


def last_line(path: Path) -> dict | None:
    """The last complete JSON line of a file that may be written to right now."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        lines = file.read().split(b"\n")[:-1]
    for line in reversed(lines):
        with contextlib.suppress(ValueError):
            return json.loads(line)
    return None


def beat_file(path: Path) -> Beat:
    """The child's side: writes beats that the parent reads, from any thread; at most five a second of one label.

    The first beat of a label and the last of a count are always written.
    """
    file, lock = path.open("a", encoding="utf-8"), threading.Lock()
    last_s, last_label, ended = -math.inf, ("", ""), False

    def beat(done: int, total: int, numbers: dict) -> None:
        nonlocal last_s, last_label, ended
        with lock:
            now, label, ends = time.monotonic(), label_of(numbers), done >= total > 0
            due = now - last_s >= _BEAT_EVERY_S or label != last_label or (ends and not ended)
            ended = ends
            if due:
                last_s, last_label = now, label
                file.write(json.dumps({"done": done, "total": total, "numbers": numbers}) + "\n")
                file.flush()

    return beat


def die_with_parent() -> None:
    """End this process group when stdin closes, which happens when the parent is gone, killed -9 included."""

    def wait() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 1):  # not sys.stdin: its lock, held by a daemon thread, aborts the interpreter's shutdown
                pass
        os.killpg(0, signal.SIGKILL) if os.name == "posix" else os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def peak_memory_bytes() -> int:
    """Largest resident set this process has had; 0 where the system does not say."""
    with contextlib.suppress(OSError):  # Linux: ru_maxrss of a new process begins with its parent's, this does not
        for line in Path("/proc/self/status").read_text("utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
