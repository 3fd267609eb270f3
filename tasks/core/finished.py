"""Finished work: what a stage made, kept until it is verified, and known again under other checks.

In the work folder of a stage and work key:
    made/        the files, from the moment they were finished until they are published
    made.json    kind, digest, files, facts and cost; written last, so that its presence means the work was done

A kill, a failed check or a changed check costs a verification, never the work.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tasks.core.artifact import Store, content_digest, hash_folder, write_whole
from tasks.core.progress import Beat, silent

FOLDER, _RECORD = "made", "made.json"


class Finished(BaseModel):
    """The record of work that was done."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    digest: str
    files: dict[str, str]
    """Relative POSIX path -> sha256."""
    facts: dict
    """What the work reported."""
    cost: dict
    """Seconds and peak memory of the work."""


def keep(out: Path, work: Path, kind: str, facts: dict, cost: dict, beat: Beat = silent) -> Path:
    """Move finished files from `out` to the work folder and record them; returns where they lie now. `beat`: bytes hashed."""
    made = work / FOLDER
    files = hash_folder(out, beat)
    out.rename(made)
    record = Finished(kind=kind, digest=content_digest(kind, files), files=files, facts=facts, cost=cost)
    write_whole(work / _RECORD, record.model_dump_json(indent=1))
    return made


def find(store: Store, work: Path) -> Finished | None:
    """The record of work done under this work key whose files are whole; they lie in `made/` afterwards.

    What is damaged, or has no record, is removed: it is made anew.
    """
    made, record = work / FOLDER, read(work)
    if record and made.is_dir() and hash_folder(made) == record.files:
        return record
    shutil.rmtree(made, ignore_errors=True)
    if record and hash_folder(store.content(record.kind, record.digest)) == record.files:
        _link_tree(store.content(record.kind, record.digest), record.files, made)
        return record
    forget(work)
    return None


def forget(work: Path) -> None:
    """Remove finished work and its record: it is made anew."""
    (work / _RECORD).unlink(missing_ok=True)
    shutil.rmtree(work / FOLDER, ignore_errors=True)


def read(work: Path) -> Finished | None:
    """The record in a work folder; None where there is none that can be read."""
    try:
        return Finished.model_validate(json.loads((work / _RECORD).read_text("utf-8")))
    except (OSError, ValueError):
        return None


def _link_tree(source: Path, files: dict[str, str], target: Path) -> None:
    """The same files under another folder, linked where the file system can, copied where it cannot."""
    for name in files:
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source / name, path)
        except OSError:
            shutil.copy2(source / name, path)
