"""Checkpoints: only a whole one of this very fingerprint is resumed; every other one is named, and out of the way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.training.checkpoints import find, mark

OURS, THEIRS = "a" * 64, "e" * 64
MARK = "plumbline-checkpoint.json"


def make(folder: Path, step: int, fingerprint: str | None = OURS) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "adapter_model.safetensors").write_text(f"weights of step {step}")
    (path / "trainer_state.json").write_text("{}")
    if fingerprint:
        mark(path, fingerprint, step)
    return path


def test_an_empty_or_missing_folder_means_a_fresh_start(tmp_path):
    found = find(tmp_path / "checkpoints", OURS)
    assert (found.resume_from, found.step, found.refused) == (None, 0, [])


def test_the_newest_whole_one_is_taken_by_number_not_by_name_or_age(tmp_path):
    make(tmp_path, 100)
    make(tmp_path, 9)
    found = find(tmp_path, OURS)
    assert found.resume_from == tmp_path / "checkpoint-100"
    assert found.step == 100
    assert found.refused == []


def test_a_stranger_past_our_last_step_is_named_and_set_aside(tmp_path):
    make(tmp_path, 10)
    make(tmp_path, 5000, THEIRS)
    for _ in range(2):  # the next run names it again: it must reach the manifest whatever crashed before
        found = find(tmp_path, OURS)
        assert found.step == 10
        (refused,) = found.refused
        assert refused.startswith("checkpoint-5000: belongs to eeeeeeeeeeee (other data, config, base or code)")
        assert [p.name for p in tmp_path.glob("checkpoint-*")] == ["checkpoint-10"]


def test_a_half_written_one_is_named_and_removed(tmp_path):
    make(tmp_path, 10)
    half = make(tmp_path, 20, fingerprint=None)
    found = find(tmp_path, OURS)
    assert found.step == 10
    assert found.refused == ["checkpoint-20: half-written (no completion mark)"]
    assert not half.exists()


def flip(path: Path) -> None:
    data = bytearray((path / "adapter_model.safetensors").read_bytes())
    data[3] ^= 1
    (path / "adapter_model.safetensors").write_bytes(data)


def lose(path: Path) -> None:
    (path / "trainer_state.json").unlink()


def add(path: Path) -> None:
    (path / "optimizer.pt").write_text("of another run")


def empty(path: Path) -> None:
    lose(path)
    (path / "adapter_model.safetensors").unlink()
    mark(path, OURS, 20)


def cut_mark(path: Path) -> None:
    (path / MARK).write_text((path / MARK).read_text()[:-20])


def forget_in_mark(path: Path) -> None:
    (path / MARK).write_text(json.dumps({"step": 20}))


def no_object_in_mark(path: Path) -> None:
    (path / MARK).write_text("[]")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (flip, "its files changed"),
        (lose, "its files changed"),
        (add, "its files changed"),
        (empty, "its files changed"),
        (cut_mark, "its mark is damaged"),
        (forget_in_mark, "its mark is damaged"),
        (no_object_in_mark, "its mark is damaged"),
    ],
)
def test_a_damaged_one_is_named_and_the_one_before_it_is_taken(tmp_path, damage, said):
    make(tmp_path, 10)
    damage(make(tmp_path, 20))
    found = find(tmp_path, OURS)
    assert found.step == 10
    assert [line.startswith(f"checkpoint-20: {said}") for line in found.refused] == [True]


def test_a_renamed_one_is_refused(tmp_path):
    make(tmp_path, 10).rename(tmp_path / "checkpoint-30")
    found = find(tmp_path, OURS)
    assert (found.resume_from, found.refused) == (None, ["checkpoint-30: its mark says step 10"])


def test_every_file_is_on_the_disk_before_its_mark_and_the_mark_before_the_next_step(tmp_path, monkeypatch):
    """A mark that outlives the files it names would be believed after a power cut."""
    synced = []

    def fsync(handle: int) -> None:
        path = Path(f"/proc/self/fd/{handle}").readlink()
        assert path.name == MARK or path.is_dir() or not (path.parent / MARK).exists(), "the mark came first"
        synced.append(path.name)

    monkeypatch.setattr("os.fsync", fsync)
    folder = make(tmp_path, 10)
    assert synced == ["adapter_model.safetensors", "trainer_state.json", MARK, folder.name, tmp_path.name]
