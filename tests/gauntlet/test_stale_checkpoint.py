"""The story's most expensive lesson: a checkpoint of an older data set, past the new run's last step, is "newest".

The trainer resumes it, finds itself done, and the old model is published as the new one, with exit code 0 all the way.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tasks.core.stage import build
from tasks.train_lora import STAGE, train_lora, verify_adapter
from tasks.training import checkpoints
from tests.fixtures.tiny_chain import STEPS, TRAIN_CONFIG, Shop, failed, make_rows, open_shop, train_job

OLD_ROWS, OLD_STEPS = 40, 20
MARK = "plumbline-checkpoint.json"


@pytest.fixture(scope="module")
def old_checkpoints(tmp_path_factory, tiny_base) -> Path:
    """What a run over last month's larger data set left on the volume: its last two checkpoints, whole and marked."""
    folder = tmp_path_factory.mktemp("last-month")
    shop = open_shop(folder / "store", tiny_base, make_rows(tiny_base, folder / "rows", train_rows=OLD_ROWS))
    build(STAGE, shop.run, TRAIN_CONFIG, shop.inputs)
    left = checkpoint_folder(shop)
    assert sorted(path.name for path in left.glob("checkpoint-*")) == ["checkpoint-18", f"checkpoint-{OLD_STEPS}"]
    return left


@pytest.fixture(scope="module")
def clean(tmp_path_factory, tiny_base, tiny_rows) -> tuple[str, str]:
    """(digest, key) of the new run's adapter, trained where nothing lay about."""
    shop = open_shop(tmp_path_factory.mktemp("clean") / "store", tiny_base, tiny_rows)
    made = build(STAGE, shop.run, TRAIN_CONFIG, shop.inputs)
    return made.digest, made.key


def checkpoint_folder(shop: Shop) -> Path:
    key = STAGE.key_parts(shop.run, TRAIN_CONFIG, shop.inputs).work_key
    return shop.store.work(STAGE.name, key) / "checkpoints"


def plant(source: Path, folder: Path, *, marked: bool) -> None:
    """Lay the old checkpoints where the new run looks for its own; without marks they are as any trainer leaves them."""
    shutil.copytree(source, folder)
    for mark in [] if marked else list(folder.rglob(MARK)):
        mark.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("marked", [True, False])
def test_the_old_checkpoint_is_refused_and_the_new_model_is_trained(
    old_checkpoints, clean, tiny_base, tiny_rows, tmp_path, marked
):
    shop = open_shop(tmp_path / "store", tiny_base, tiny_rows)
    plant(old_checkpoints, checkpoint_folder(shop), marked=marked)
    made = build(STAGE, shop.run, TRAIN_CONFIG, shop.inputs)
    assert (made.digest, made.key) == clean
    facts = shop.store.manifest(made)["facts"]
    assert (facts["resumed_from_step"], facts["steps_run_now"]) == (0, STEPS)
    reason = "belongs to" if marked else "half-written"
    assert [line.split(":")[0] for line in facts["refused_checkpoints"]] == [f"checkpoint-{OLD_STEPS}", "checkpoint-18"]
    assert all(reason in line for line in facts["refused_checkpoints"])


def test_without_the_guard_the_trap_closes_and_the_steps_give_it_away(
    old_checkpoints, tiny_base, tiny_rows, tmp_path, monkeypatch
):
    """The guard is taken away: nothing is trained, and what is verified from disk still refuses the result."""
    monkeypatch.setattr(checkpoints, "_why_not", lambda path, fingerprint: "")
    job = train_job(tmp_path, tiny_base, tiny_rows)
    plant(old_checkpoints, job.work / "checkpoints", marked=True)
    outcome = train_lora(TRAIN_CONFIG, job)
    assert (outcome["resumed_from_step"], outcome["steps_run_now"]) == (OLD_STEPS, 0)
    bad = failed(verify_adapter(TRAIN_CONFIG, job))
    assert bad["optimizer steps run"].startswith(f"optimizer steps run: {OLD_STEPS} (expected == {STEPS})")
