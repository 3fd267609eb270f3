"""Reuse: what is sound is not built again, what is damaged is, and two runs that want the same build it once."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from prefect import flow

from tasks import build_dataset
from tasks.build_dataset import DatasetConfig
from tasks.core import cached, stage
from tasks.core.artifact import Store
from tasks.core.cached import FileLockManager, run_stage
from tasks.core.errors import ArtifactError, TransientError
from tasks.core.stage import Outcome, Run

ROOT = Path(__file__).resolve().parents[2]
CONFIG = DatasetConfig(source="nano", train_rows=30, heldout_rows=30)


def settle(store: Path, config: DatasetConfig = CONFIG) -> Outcome:
    """One stage in a flow of its own, as a run would call it."""

    @flow(name="one-stage")
    def one_stage() -> None:
        found.append(run_stage(build_dataset.STAGE, Run(name="t", recipe="signals", store=str(store)), config))

    found: list[Outcome] = []
    one_stage()
    return found[0]


def test_the_second_run_reuses_and_the_first_says_why_it_built(prefect_server, tmp_path):
    first, second = settle(tmp_path), settle(tmp_path)
    assert (first.reused, second.reused) == (False, True)
    assert first.because == ["first build"]
    assert first.artifact == second.artifact


def test_a_changed_setting_is_named_in_the_manifest(prefect_server, tmp_path):
    settle(tmp_path)
    changed = settle(tmp_path, CONFIG.model_copy(update={"seed": 7}))
    assert not changed.reused
    assert Store(tmp_path).manifest(changed.artifact)["rebuilt_because"] == ["config.seed: 42 -> 7"]


@pytest.mark.parametrize("damage", ["truncate", "flip", "delete", "delete folder", "manifest"])
def test_damage_is_noticed_named_and_mended(prefect_server, tmp_path, damage):
    first = settle(tmp_path)
    folder = Store(tmp_path).folder(first.artifact)
    file = folder / "train.jsonl"
    if damage == "truncate":
        file.write_bytes(file.read_bytes()[:-1])
    elif damage == "flip":
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    elif damage == "delete":
        file.unlink()
    elif damage == "delete folder":
        subprocess.run(["rm", "-r", str(folder)], check=True)
    else:
        file = next((folder / "manifests").iterdir())
        file.write_text(file.read_text() + " ")
    second = settle(tmp_path)
    assert not second.reused
    assert second.artifact.digest == first.artifact.digest
    (reason,) = second.because
    assert (file.name if damage != "delete folder" else "is gone") in reason
    assert settle(tmp_path).reused


def test_two_runs_at_once_build_once(prefect_server, tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys; sys.path.insert(0, {str(ROOT)!r})
        from prefect import flow
        from tasks import build_dataset
        from tasks.build_dataset import DatasetConfig
        from tasks.core.cached import run_stage
        from tasks.core.stage import Run
        @flow
        def one():
            config = DatasetConfig(source="nano", train_rows=6000, heldout_rows=1500)
            out = run_stage(build_dataset.STAGE, Run(name="t", recipe="signals", store={str(tmp_path / "store")!r}), config)
            print("REUSED" if out.reused else "BUILT", out.artifact.digest)
        one()
        """)
    )
    env = {**os.environ, "PREFECT_API_URL": prefect_server}
    pipe = subprocess.PIPE
    runs = [subprocess.Popen([sys.executable, str(script)], stdout=pipe, text=True, env=env) for _ in range(2)]
    said = sorted(run.communicate(timeout=180)[0].strip().splitlines()[-1] for run in runs)
    assert [one.split()[0] for one in said] == ["BUILT", "REUSED"]
    assert said[0].split()[1] == said[1].split()[1]


def test_a_bad_artifact_is_tried_once_and_the_network_three_times(prefect_server, tmp_path, monkeypatch):
    calls = []

    def fail_with(error: Exception):
        def build(*_args, **_more):
            calls.append(error)
            raise error

        return build

    monkeypatch.setattr(cached, "RETRY_DELAYS_S", [0, 0])
    for error, times in ((ArtifactError("bad"), 1), (TransientError("503"), 3)):
        calls.clear()
        monkeypatch.setattr(cached, "build", fail_with(error))
        with pytest.raises(type(error)):
            settle(tmp_path / type(error).__name__)
        assert len(calls) == times


def test_a_lock_is_free_again_when_its_holder_was_killed(tmp_path):
    code = f"""
import sys, time; sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from tasks.core.cached import FileLockManager
locks = FileLockManager(Path({str(tmp_path)!r}))
locks.acquire_lock("key-1", "them")
print("held", flush=True); time.sleep(60)
"""
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline().strip() == "held"
    locks = FileLockManager(tmp_path)
    assert locks.is_locked("key-1")
    assert not locks.acquire_lock("key-1", "us", acquire_timeout=0.3)
    holder.kill()
    holder.wait()
    assert locks.acquire_lock("key-1", "us", acquire_timeout=5)
    assert locks.is_lock_holder("key-1", "us")
    locks.release_lock("key-1", "us")
    assert not locks.is_locked("key-1")


def test_a_secret_in_an_error_is_not_told(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnopqrstuvwx")
    assert stage.errors.redact("token hf_abcdefghijklmnopqrstuvwx") == "token <HF_TOKEN>"
