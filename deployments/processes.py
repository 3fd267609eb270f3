"""Prefect's programs as children: started with a log each, watched, and stopped with everything that they started."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO

import psutil

ROOT = Path(__file__).resolve().parents[1]
GRACE_S = 15.0
"""What a process gets to end by itself before it is killed."""


class StartError(Exception):
    """Something did not start, or died."""


class Processes:
    """Programs in process groups of their own: Ctrl-C reaches this process alone, and the order of stopping is ours."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.record = home / "processes.json"
        self.running: dict[str, subprocess.Popen] = {}

    def start(self, name: str, *arguments: str, env: dict[str, str]) -> subprocess.Popen:
        """`python -m prefect <arguments>`, its output in <home>/<name>.log."""
        with self._log(name) as log:
            own_group = os.name == "posix"
            argv = [sys.executable, "-m", "prefect", *arguments]
            pipe = subprocess.DEVNULL
            made = subprocess.Popen(
                argv, cwd=ROOT, env=env, stdin=pipe, stdout=log, stderr=log, start_new_session=own_group
            )
        self.running[name] = made
        alive = [psutil.Process(one.pid) for one in self.running.values() if one.poll() is None]
        self.record.write_text(json.dumps([[one.pid, one.create_time()] for one in alive]), "utf-8")
        return made

    def _log(self, name: str) -> IO[bytes]:
        return (self.home / f"{name}.log").open("wb")

    def check(self) -> None:
        """Raise StartError when a program has ended by itself; with the end of its log."""
        for name, one in self.running.items():
            if one.poll() is not None:
                log = self.home / f"{name}.log"
                tail = "\n".join(f"    {line}" for line in log.read_text("utf-8", "replace").splitlines()[-12:])
                raise StartError(f"ui: the {name} ended with code {one.returncode}. Its log: {log}\n{tail}")

    def stop(self, name: str) -> None:
        """Ask a program to end, then kill what is left of it and of everything it started, in whatever session."""
        if not (program := self.running.pop(name, None)):
            return
        family = _family(program.pid)
        program.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            program.wait(GRACE_S)
        _kill(family)
        program.wait()

    def stop_leftovers(self) -> None:
        """End what an earlier start left behind that was itself killed."""
        with contextlib.suppress(OSError, ValueError):
            for pid, created in json.loads(self.record.read_text("utf-8")):
                if psutil.pid_exists(pid) and abs(psutil.Process(pid).create_time() - created) < 1:
                    _kill(_family(pid))
        self.record.unlink(missing_ok=True)


def _family(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        head = psutil.Process(pid)
        return [head, *head.children(recursive=True)]
    return []


def _kill(family: list[psutil.Process]) -> None:
    for one in family:
        with contextlib.suppress(psutil.NoSuchProcess):  # psutil compares the start time: never another's process
            one.kill()
    psutil.wait_procs(family, timeout=GRACE_S)
