"""The store: content is identity, nothing half-written is visible, nothing damaged is believed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tasks.core.artifact import Artifact, Store, hash_folder
from tasks.core.errors import ArtifactError

KEY = "k" * 64


def make(store: Store, text: str = "weights", key: str = KEY) -> Artifact:
    with store.building("thing") as folder:
        (folder / "sub").mkdir()
        (folder / "a.bin").write_text(text)
        (folder / "sub" / "b.txt").write_text("b")
        return store.publish("thing", key, folder, {"stage": "test"})


def test_same_content_has_the_same_digest_under_any_key(tmp_path):
    store = Store(tmp_path)
    first, second = make(store), make(store, key="j" * 64)
    assert first.digest == second.digest
    assert set(first.files) == {"a.bin", "sub/b.txt"}
    assert store.problems(first) == store.problems(second) == []
    assert store.manifest(second)["files"] == second.files
    assert make(store, "other").digest != first.digest


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: (f / "a.bin").write_bytes(b"weightt"), "a.bin changed"),  # same size, one bit
        (lambda f: (f / "a.bin").write_bytes(b"weigh"), "a.bin changed"),
        (lambda f: (f / "sub" / "b.txt").unlink(), "sub/b.txt is missing"),
        (lambda f: (f / "c.pkl").write_text("x"), "c.pkl was added"),
        (lambda f: next((f / "manifests").iterdir()).write_text("{}"), f"manifests/{KEY}.json changed"),
        (lambda f: next((f / "manifests").iterdir()).unlink(), f"manifests/{KEY}.json is missing"),
    ],
)
def test_every_damage_is_named_and_a_rebuild_mends_it(tmp_path, damage, said):
    store = Store(tmp_path)
    artifact = make(store)
    damage(store.folder(artifact))
    (problem,) = store.problems(artifact)
    assert problem.startswith(said)
    with pytest.raises(ArtifactError, match="rebuilt on the next run"):
        store.verify(artifact)
    rebuilt = make(store)
    assert rebuilt.digest == artifact.digest
    assert store.problems(rebuilt) == []


def test_a_failed_build_leaves_nothing(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(ZeroDivisionError), store.building("thing") as folder:
        (folder / "half").write_text("half")
        raise ZeroDivisionError
    assert list((tmp_path / "building").iterdir()) == []
    assert not (tmp_path / "objects").exists()


def test_what_a_killed_build_left_is_swept_and_a_live_one_is_not(tmp_path):
    store = Store(tmp_path)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = tmp_path / "building" / f"thing.{dead.pid}.abcd"
    left.mkdir(parents=True)
    with store.building("thing") as ours, store.building("thing"):
        assert ours.is_dir()
        assert not left.exists()


def test_an_empty_folder_and_a_link_that_leads_out_are_refused(tmp_path):
    store = Store(tmp_path / "store")
    (tmp_path / "secret").write_text("x")
    with store.building("thing") as folder:
        with pytest.raises(ArtifactError, match="empty"):
            store.publish("thing", KEY, folder, {})
        (folder / "link").symlink_to(tmp_path / "secret")
        with pytest.raises(ArtifactError, match="leads out"):
            hash_folder(folder)


def test_secrets_do_not_reach_a_manifest(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnopqrstuvwx")
    store = Store(tmp_path)
    with store.building("thing") as folder:
        (folder / "a").write_text("a")
        artifact = store.publish("thing", KEY, folder, {"note": "used hf_abcdefghijklmnopqrstuvwx"})
    assert "abcdefghij" not in json.dumps(store.manifest(artifact))
    assert store.problems(artifact) == []


def test_hashing_beats_by_bytes_and_says_nothing_where_nothing_is_read(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.bin").write_bytes(b"a" * (3 << 20))
    (tmp_path / "deep" / "b.bin").write_bytes(b"b" * 5)
    beats = []
    first = hash_folder(tmp_path, lambda *beat: beats.append(beat))
    assert [done for done, _, _ in beats] == [1 << 20, 2 << 20, 3 << 20, (3 << 20) + 5]
    assert {numbers["unit"] for _, _, numbers in beats} == {"bytes"}
    assert hash_folder(tmp_path, lambda *beat: beats.append(beat)) == first and len(beats) == 4
