"""train_lora in its own process: kill -9 loses nothing, and Unsloth, which patches transformers, trains there too."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tasks.core.artifact import Artifact
from tasks.core.stage import build
from tasks.train_lora import STAGE
from tests.fixtures.tiny_chain import STEPS, TRAIN_CONFIG, TRAIN_ROWS, Shop, open_shop

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = "adapter_model.safetensors"
BUILD = """
import json, sys
from tasks.core.artifact import Artifact
from tasks.core.stage import Run, build
from tasks.train_lora import STAGE, TrainConfig
told = json.loads(sys.argv[1])
inputs = {name: Artifact(**one) for name, one in told["inputs"].items()}
print(build(STAGE, Run(**told["run"]), TrainConfig(**told["config"]), inputs).model_dump_json())
"""


class Flow:
    """A process that runs `build`, as a flow does, and the child that it starts."""

    def __init__(self, shop: Shop) -> None:
        told = {
            "run": shop.run.model_dump(),
            "config": TRAIN_CONFIG.model_dump(mode="json"),
            "inputs": {name: one.model_dump() for name, one in shop.inputs.items()},
        }
        argv = [sys.executable, "-c", BUILD, json.dumps(told)]
        self.parent = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def child(self) -> psutil.Process:
        found = [p for p in psutil.Process(self.parent.pid).children(recursive=True) if STAGE.module in p.cmdline()]
        assert len(found) == 1, "one training process at a time"
        return found[0]

    def kill(self, whom: str, moment: Callable[[], bool]) -> str:
        """kill -9 at a moment; returns what the parent said. No process is left."""
        deadline = time.monotonic() + 120
        while not moment():
            assert self.parent.poll() is None, self.parent.communicate()[1]
            assert time.monotonic() < deadline, "the moment never came"
            time.sleep(0.001)
        child = self.child()
        if whom in ("parent", "both"):
            self.parent.kill()
        if whom in ("child", "both"):
            child.kill()
        _, said = self.parent.communicate(timeout=60)
        assert self.parent.returncode == (1 if whom == "child" else -signal.SIGKILL)
        psutil.wait_procs([child], timeout=20)
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
        return said

    def finish(self) -> Artifact:
        out, err = self.parent.communicate(timeout=180)
        assert self.parent.returncode == 0, err
        return Artifact.model_validate_json(out)


def checkpoint(shop: Shop, step: int) -> Path:
    folders = list((shop.store.root / "work" / STAGE.name).glob("*/checkpoints"))
    assert len(folders) <= 1, "one key, one work folder"
    return (folders[0] if folders else shop.store.root / "none") / f"checkpoint-{step}"


@pytest.mark.slow
def test_kill_9_of_child_of_flow_and_of_both_loses_nothing(tiny_base, tiny_rows, tmp_path):
    unbroken_shop = open_shop(tmp_path / "unbroken", tiny_base, tiny_rows)
    unbroken = build(STAGE, unbroken_shop.run, TRAIN_CONFIG, unbroken_shop.inputs)
    shop = open_shop(tmp_path / "killed", tiny_base, tiny_rows)
    marked = "plumbline-checkpoint.json"
    moments = [
        ("child", lambda: (checkpoint(shop, 3) / marked).is_file()),
        ("child", lambda: checkpoint(shop, 6).is_dir()),  # while it is being written
        ("parent", lambda: (checkpoint(shop, 6) / marked).is_file()),
        ("both", lambda: (checkpoint(shop, 9) / marked).is_file()),
    ]
    for whom, moment in moments:
        said = Flow(shop).kill(whom, moment)
        if whom == "child":
            assert "train_lora: the child process was killed by SIGKILL" in said
            assert f"of {STEPS} steps, loss " in said
        assert shop.published(STAGE.kind) == []
    artifact = Flow(shop).finish()

    manifest = shop.store.manifest(artifact)
    facts = manifest["facts"]
    assert facts["resumed_from_step"] >= 9
    assert facts["resumed_from_step"] + facts["steps_run_now"] == facts["steps_run"] == STEPS
    assert artifact.key == unbroken.key
    assert artifact.digest == unbroken.digest
    ours, theirs = shop.store.folder(artifact), unbroken_shop.store.folder(unbroken)
    assert (ours / WEIGHTS).read_bytes() == (theirs / WEIGHTS).read_bytes()
    assert shop.half_made() == []
    assert unbroken_shop.store.manifest(unbroken)["facts"]["steps_run_now"] == STEPS


@pytest.mark.slow
def test_unsloth_trains_an_adapter_that_passes_every_check_and_resumes_to_the_last_bit(tiny_base, tiny_rows, tmp_path):
    shop = open_shop(tmp_path / "store", tiny_base, tiny_rows)
    config = TRAIN_CONFIG.model_copy(update={"engine": "unsloth", "dropout": 0.0})
    artifact = build(STAGE, shop.run, config, shop.inputs)
    manifest = shop.store.manifest(artifact)
    assert manifest["facts"]["engine"] == "unsloth"
    assert manifest["facts"]["steps_run"] == STEPS
    assert len(manifest["verified"]) >= 16
    assert {one["verdict"] for one in manifest["verified"]} == {"pass"}
    assert set(artifact.files) == {WEIGHTS, "adapter_config.json", "lineage.json", "training_log.jsonl"}

    shutil.rmtree(shop.store.folder(artifact))
    shutil.rmtree(checkpoint(shop, STEPS))
    again = build(STAGE, shop.run, config, shop.inputs)
    assert shop.store.manifest(again)["facts"]["resumed_from_step"] == 9
    assert again.digest == artifact.digest


@pytest.mark.slow
def test_unsloth_learns_whole_rows_when_it_is_asked_to(tiny_base, tiny_rows, tmp_path):
    shop = open_shop(tmp_path / "store", tiny_base, tiny_rows)
    changes = {"engine": "unsloth", "dropout": 0.0, "completion_only_loss": False, "epochs": 1.0}
    manifest = shop.store.manifest(build(STAGE, shop.run, TRAIN_CONFIG.model_copy(update=changes), shop.inputs))
    (labels,) = [one for one in manifest["verified"] if one["name"].startswith("rows of collated batches")]
    assert labels["name"].endswith("exactly the prompt, the answer and its end token")
    assert labels["measured"] == labels["threshold"] == TRAIN_ROWS
