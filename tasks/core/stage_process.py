"""A stage at work: make, then measure what lies on disk; and the child process in which a run does both."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel

from data_contracts.verdict import failures
from tasks.core import child, errors, finished
from tasks.core.artifact import canonical_json, write_whole
from tasks.core.math_kernels import settle_math_kernels
from tasks.core.settings import for_work
from tasks.core.stage import Job, Stage


def execute(stage: Stage, config: BaseModel, job: Job) -> dict:
    """Do the work, then verify it from disk; the plain form of a stage, without store, cache or Prefect.

    Raises:
        ArtifactError: naming every check that failed or could not tell.
    """
    _settle(stage)
    facts, cost = make(stage, config, job)
    return {"facts": facts, **measure(stage, config, job, cost)}


def _settle(stage: Stage) -> None:
    if "torch" in (*stage.stack, *stage.checks_stack):
        settle_math_kernels()


def make(stage: Stage, config: BaseModel, job: Job) -> tuple[dict, dict]:
    """Do the work; returns its facts and its cost. It sees neither the settings nor the inputs that only measure."""
    started = time.monotonic()
    shown = {name: path for name, path in job.inputs.items() if name not in stage.checks_inputs}
    facts = stage.work(for_work(config), replace(job, inputs=shown)) or {}
    canonical_json(facts)  # a number that JSON cannot hold is a bug here, not in the reader of the manifest
    cost = {"work_seconds": round(time.monotonic() - started, 3), "peak_memory_bytes": child.peak_memory_bytes()}
    return facts, cost


def measure(stage: Stage, config: BaseModel, job: Job, cost: dict) -> dict:
    """Verify what lies in `job.out`; returns the checks, and the cost of the work with that of the verification.

    Raises:
        ArtifactError: naming every check that failed or could not tell.
    """
    started = time.monotonic()
    checks = stage.verify(config, job)
    if bad := failures(checks):
        sentences = "\n".join(f"  - {check.sentence()}" for check in bad)
        raise errors.ArtifactError(f"{stage.name}: {len(bad)} of {len(checks)} checks did not pass.\n{sentences}")
    if not checks:
        raise errors.ArtifactError(f"{stage.name}: nothing was verified. A stage without a check proves nothing.")
    cost = {
        **cost,
        "verify_seconds": round(time.monotonic() - started, 3),
        "peak_memory_bytes": max(cost.get("peak_memory_bytes", 0), child.peak_memory_bytes()),
    }
    return {"checks": [check.model_dump(mode="json") for check in checks], "cost": cost}


def child_main(stage: Stage, config_type: type[BaseModel]) -> int:
    """Entry of `python -m tasks.<stage> spec.json`: exit code 0 and result.json, or 1 and the error in result.json."""
    spec_path = Path(sys.argv[1])
    spec = json.loads(spec_path.read_text("utf-8"))
    child.die_with_parent()
    raw = spec["job"]
    paths = {name: {k: Path(v) for k, v in raw[name].items()} for name in ("inputs", "manifests")}
    job = Job(
        recipe=raw["recipe"],
        out=Path(raw["out"]),
        work=Path(raw["work"]),
        key=raw["key"],
        digests=raw["digests"],
        beat=child.beat_file(spec_path.with_name("beats.jsonl")),
        **paths,
    )
    result = spec_path.with_name("result.json")
    try:
        outcome = _make_once(stage, config_type.model_validate(spec["config"]), job, spec)
    except errors.PlumblineError as error:
        _write_error(result, error)
        return 1
    except Exception as error:
        if explained := errors.explain_os_error(stage.name, error):
            shutil.rmtree(job.out, ignore_errors=True)  # makes room for the sentence that says the disk is full
            with contextlib.suppress(OSError):
                _write_error(result, explained)
        with contextlib.suppress(OSError):
            print(errors.redact(traceback.format_exc()), flush=True)
        return 1
    write_whole(result, json.dumps(outcome))
    return 0


def _make_once(stage: Stage, config: BaseModel, job: Job, spec: dict) -> dict:
    """The work, unless it was finished before, then its verification, where a kill or a failed check leaves the work whole."""
    _settle(stage)
    if not spec["is_made"]:
        facts, cost = make(stage, config, job)
        finished.keep(job.out, job.work, spec["kind"], facts, cost, job.beat)
    record = finished.read(job.work)
    if record is None:
        raise errors.ArtifactError(f"{stage.name}: {job.work} holds no record of finished work. Run again.")
    made = job.work / finished.FOLDER
    try:
        measured = measure(stage, config, replace(job, out=made), record.cost)
    except errors.ArtifactError as error:
        if stage.redo_failed(config):
            finished.forget(job.work)
            raise
        raise type(error)(
            f"{error}\nWhat was made is kept: the next start verifies it again and makes nothing anew. "
            f"To make it anew, delete {made}"
        ) from None
    return {"facts": record.facts, **measured}


def _write_error(result: Path, error: errors.PlumblineError) -> None:
    write_whole(result, json.dumps({"error": {"type": type(error).__name__, "message": errors.redact(str(error))}}))
