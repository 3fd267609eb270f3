"""Stages as Prefect tasks: cached by key, re-hashed on every hit, built once when two runs want the same.

Prefect takes an exception while reading a cache record as a miss, so a damaged artifact is rebuilt (notes: prefect.md §3).
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from functools import partial
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout
from prefect import task
from prefect.cache_policies import CacheKeyFnPolicy
from prefect.serializers import Serializer
from prefect.transactions import IsolationLevel
from pydantic import BaseModel

from tasks.core.artifact import Artifact, Store
from tasks.core.child import Beat, silent
from tasks.core.errors import TransientError
from tasks.core.stage import Outcome, Run, Stage, build, remember

_log = logging.getLogger("plumbline")
RETRY_DELAYS_S: list[float] = [2, 10]
"""Waits before another try after a TransientError."""


class ArtifactSerializer(Serializer):
    """Reads a cache record and re-hashes the artifact it names; a difference makes the record a miss."""

    type: str = "plumbline-artifact"
    store: str

    def dumps(self, obj: Artifact) -> bytes:
        return obj.model_dump_json().encode()

    def loads(self, blob: bytes) -> Artifact:
        artifact = Artifact.model_validate_json(blob)
        try:
            return Store(self.store).verify(artifact)
        except Exception as error:
            _log.warning("%s", error)
            raise


class FileLockManager:
    """Prefect's lock protocol over OS file locks: the system frees them when their holder dies, kill -9 included."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.held: dict[tuple[str, str], FileLock] = {}
        self.guard = threading.Lock()

    def __deepcopy__(self, memo: dict) -> FileLockManager:  # Prefect copies policies; the locks must stay the same
        return self

    def _lock(self, key: str) -> FileLock:
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.lock", thread_local=False)

    def acquire_lock(
        self, key: str, holder: str, acquire_timeout: float | None = None, hold_timeout: float | None = None
    ):
        """Take the lock, waiting for whoever builds the same thing."""
        lock = self._lock(key)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            _log.warning("another run is building %s; waiting for it, to reuse what it makes", key.split("-")[0])
            try:
                lock.acquire(timeout=-1 if acquire_timeout is None else acquire_timeout, poll_interval=0.2)
            except Timeout:
                return False
        with self.guard:
            self.held[key, holder] = lock
        return True

    async def aacquire_lock(self, key, holder, acquire_timeout=None, hold_timeout=None) -> bool:
        import anyio

        return await anyio.to_thread.run_sync(partial(self.acquire_lock, key, holder, acquire_timeout, hold_timeout))

    def release_lock(self, key: str, holder: str) -> None:
        with self.guard:
            lock = self.held.pop((key, holder), None)
        if lock is None:
            raise ValueError(f"{holder} does not hold the lock for {key}")
        lock.release()

    def is_locked(self, key: str) -> bool:
        lock = self._lock(key)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
        return False

    def is_lock_holder(self, key: str, holder: str) -> bool:
        return (key, holder) in self.held

    def wait_for_lock(self, key: str, timeout: float | None = None) -> bool:
        lock = self._lock(key)
        try:
            lock.acquire(timeout=-1 if timeout is None else timeout, poll_interval=0.2)
        except Timeout:
            return False
        lock.release()
        return True

    async def await_for_lock(self, key: str, timeout: float | None = None) -> bool:
        import anyio

        return await anyio.to_thread.run_sync(partial(self.wait_for_lock, key, timeout))


def _retry_only_transient(_task, _run, state) -> bool:
    try:
        state.result()
    except TransientError:
        return True
    except Exception:
        return False
    return False


def run_stage(
    stage: Stage,
    run: Run,
    config: BaseModel,
    on_beat: Beat = silent,
    **inputs: Artifact,
) -> Outcome:
    """The stage's artifact, reused when its key is known and its files are sound, else built, as one Prefect task run."""
    store = Store(run.store)
    parts = stage.key_parts(run, config, inputs)
    key = f"{stage.name}-{parts.key}"
    built: list[bool] = []

    def work() -> Artifact:
        built.append(True)
        return build(stage, run, config, inputs, on_beat)

    policy = CacheKeyFnPolicy(cache_key_fn=lambda _context, _parameters: key).configure(
        isolation_level=IsolationLevel.SERIALIZABLE, lock_manager=FileLockManager(store.root / "locks")
    )
    run_task = task(
        name=stage.name,
        task_run_name=f"{stage.name}{run.part and f' ({run.part})'}",
        cache_policy=policy,
        persist_result=True,
        result_storage=store.root / "results",
        result_serializer=ArtifactSerializer(store=str(store.root)),
        retries=len(RETRY_DELAYS_S),
        retry_delay_seconds=RETRY_DELAYS_S,
        retry_jitter_factor=0.5,
        retry_condition_fn=_retry_only_transient,
    )(work)
    started = time.monotonic()
    artifact = run_task()
    seconds = time.monotonic() - started
    if not built:
        remember(stage, run, store, parts, artifact)
    if not built:
        return Outcome(stage.name, artifact, "reused", seconds, [], run.part)
    manifest = store.manifest(artifact)
    how: Literal["verified", "built"] = "verified" if manifest["work_reused"] else "built"
    return Outcome(stage.name, artifact, how, seconds, manifest["rebuilt_because"], run.part)
