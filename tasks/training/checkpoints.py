"""Training checkpoints that say what they belong to: one without a mark, damaged, or of another run is never resumed.

The story's most expensive lesson: a trainer resumed an older dataset's checkpoint, found itself "done", and published the
old model with exit code 0 (seed story "proofkit"; silent-failures.md class 18).
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from tasks.core.artifact import hash_folder, write_whole

_MARK = "plumbline-checkpoint.json"
_REFUSED = "refused"


@dataclass
class Found:
    """What lies in a checkpoint folder."""

    resume_from: Path | None = None
    step: int = 0
    refused: list[str] = field(default_factory=list)
    """Name and reason of each checkpoint that may not be used."""


def mark(folder: Path, fingerprint: str, step: int) -> None:
    """Declare a checkpoint whole: the mark is written last, with the hashes of every other file, and none of it only in memory.

    A process that is killed loses nothing that it wrote; a machine that is (a preempted card, a power cut) loses what the
    system had not put on the disk yet. So every file is synced, then the mark, then the folder that names them.
    """
    files = _files(folder)
    for name in files:
        _sync(folder / name)
    write_whole(folder / _MARK, json.dumps({"fingerprint": fingerprint, "step": step, "files": files}))
    for path in (folder / _MARK, folder, folder.parent):
        _sync(path)


def _sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk. Windows has no handle of a folder to wait for."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def find(folder: Path, fingerprint: str) -> Found:
    """The newest whole checkpoint of this fingerprint; every other one is refused by name.

    A half-written one is removed. The rest of the refused are set aside in `refused/`: the trainer counts what lies beside
    its own checkpoints, and would delete ours, which are older by number, to keep a stranger's.
    """
    found = Found()
    aside = folder / _REFUSED
    lying = sorted([*folder.glob("checkpoint-*"), *aside.glob("checkpoint-*")], key=_step, reverse=True)
    for path in lying:
        reason = _why_not(path, fingerprint)
        if not reason and path.parent == folder:
            if found.resume_from is None:
                found.resume_from, found.step = path, _step(path)
            continue
        found.refused.append(f"{path.name}: {reason or 'was set aside before'}")
        if reason.startswith("half-written"):
            shutil.rmtree(path, ignore_errors=True)
        elif path.parent == folder:
            aside.mkdir(exist_ok=True)
            shutil.rmtree(aside / path.name, ignore_errors=True)
            path.rename(aside / path.name)
    return found


def _why_not(path: Path, fingerprint: str) -> str:
    mark_path = path / _MARK
    if not mark_path.is_file():
        return "half-written (no completion mark)"
    try:
        about = json.loads(mark_path.read_text("utf-8"))
        owner, step, files = str(about["fingerprint"]), about["step"], about["files"]
    except (ValueError, KeyError, TypeError):
        return "its mark is damaged"
    if owner != fingerprint:
        return f"belongs to {owner[:12]} (other data, config, base or code), this run is {fingerprint[:12]}"
    if step != _step(path):
        return f"its mark says step {step}"
    if not files or files != _files(path):
        return "its files changed since it was written"
    return ""


def _files(path: Path) -> dict[str, str]:
    return {name: digest for name, digest in hash_folder(path).items() if name != _MARK}


def _step(path: Path) -> int:
    number = path.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1
