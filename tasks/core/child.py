"""Child processes: each stage's work runs in its own process group, watched by a wall clock and a no-progress watchdog.

A Prefect timeout cannot stop a call into C (notes: 9.9 s for a 2 s limit), memory returns to the system only when a
process ends, and the import order is ours alone in a fresh interpreter.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from tasks.core.errors import ChildError, redact, secret_names

Beat = Callable[[int, int, dict], None]
"""Called with (done, total, numbers to show)."""

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


def silent(done: int, total: int, numbers: dict) -> None:
    """A beat that nobody listens to."""


@dataclass
class Watch:
    """How long a child may run, and how long it may go without a sign of life."""

    wall_clock_s: float = 24 * 3600.0
    no_progress_s: float = 900.0


@dataclass
class Pace:
    """How fast a child gets on, from its beats: when will it be done?

    A run that the wall clock will cut off three hours from now is told so now (seed story "proofkit": killed at step 684 of
    875 after 2 h 59 min).
    """

    wall_clock_s: float
    first: tuple[float, int] | None = None
    """(seconds since the start, steps done) at the first beat: what came before, loading or a resume, is no step."""
    last: int = 0

    def late(self, elapsed_s: float, done: int, total: int) -> str:
        """Why the wall clock comes first, at the pace since the first beat; "" when it does not, or too little was seen."""
        if self.first is None or done < self.last:  # a stage of several parts begins to count anew
            self.first = (elapsed_s, done)
        self.last = done
        since_s, steps = elapsed_s - self.first[0], done - self.first[1]
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
    seen_bytes, last_beat, pace = 0, started, Pace(watch.wall_clock_s)
    while child.poll() is None:
        time.sleep(_POLL_S)
        if (size := beats.stat().st_size) != seen_bytes:
            seen_bytes, last_beat = size, time.monotonic()
            if beat := last_line(beats):
                late = pace.late(last_beat - started, beat["done"], beat["total"])
                on_beat(beat["done"], beat["total"], {**beat["numbers"], **({WILL_NOT_FINISH: late} if late else {})})
        now = time.monotonic()
        if now - started > watch.wall_clock_s:
            limit = f"ran longer than {watch.wall_clock_s:g} s, its wall clock"
            return f"{limit}; raise wall_clock_s and run again: training goes on from its last checkpoint"
        if now - last_beat > watch.no_progress_s:
            return f"made no progress for {watch.no_progress_s:g} s"
    return ""


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
    seen = f"step {beat['done']} of {beat['total']} {beat['numbers'] or ''}".strip() if beat else "no progress at all"
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
    """The child's side: writes beats that the parent reads, at most five a second."""
    file = path.open("a", encoding="utf-8")
    last = 0.0

    def beat(done: int, total: int, numbers: dict) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _BEAT_EVERY_S or done >= total:
            last = now
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
