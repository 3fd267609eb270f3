"""Finished work outlives what comes after it: a failed check, a changed check, a kill, a damaged record."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tasks.core import finished
from tasks.core.artifact import Artifact, Store
from tasks.core.errors import ArtifactError
from tasks.core.stage import build
from tasks.merge_adapter import STAGE, MergeConfig
from tests.fixtures.tiny_chain import Shop, make_adapter, make_rows, open_shop, publish_folder, train_job

ROOT = Path(__file__).resolve().parents[3]
STRICT = MergeConfig(max_logit_diff=1e-30)
"""A limit that no merge keeps."""


@pytest.fixture(scope="module")
def shop(tmp_path_factory, tiny_base) -> Shop:
    """A store with a base, rows and an adapter of a tiny random model."""
    folder = tmp_path_factory.mktemp("finished")
    shop = open_shop(folder / "store", tiny_base, make_rows(tiny_base, folder / "rows"))
    adapter = make_adapter(train_job(folder, tiny_base, folder / "rows")).out
    lineage = json.loads((adapter / "lineage.json").read_text())
    (adapter / "lineage.json").write_text(json.dumps({**lineage, "base_digest": shop.inputs["base"].digest}))
    shop.inputs["adapter"] = publish_folder(shop.store, "lora-adapter", adapter)
    return shop


@pytest.fixture
def fresh(shop, tmp_path) -> Shop:
    """The same inputs in a store of their own, in which nothing was merged."""
    store = Store(tmp_path / "store")
    inputs = {
        name: publish_folder(store, one.kind, copy_without_manifests(shop.store.folder(one), tmp_path / name))
        for name, one in shop.inputs.items()
    }
    return Shop(store, inputs)


def copy_without_manifests(folder: Path, to: Path) -> Path:
    import shutil

    return Path(shutil.copytree(folder, to, ignore=shutil.ignore_patterns("manifests")))


def merge(shop: Shop, config: MergeConfig | None = None) -> tuple[Artifact, dict]:
    artifact = build(STAGE, shop.run, config or MergeConfig(), shop.inputs)
    return artifact, shop.store.manifest(artifact)


def work_folder(shop: Shop) -> Path:
    return shop.store.work(STAGE.name, STAGE.key_parts(shop.run, MergeConfig(), shop.inputs).work_key)


def test_other_checks_measure_the_same_content_and_write_another_manifest(fresh):
    first, before = merge(fresh)
    second, after = merge(fresh, MergeConfig(max_logit_diff=1e-3))
    assert (before["work_reused"], after["work_reused"]) == (False, True)
    assert second.digest == first.digest and second.key != first.key
    assert after["rebuilt_because"] == ["checks.config.max_logit_diff: 0.0001 -> 0.001"]
    assert len(list((fresh.store.folder(first) / "manifests").glob("*.json"))) == 2
    assert fresh.store.problems(first) == fresh.store.problems(second) == []
    assert after["cost"]["work_seconds"] == before["cost"]["work_seconds"]
    assert fresh.half_made() == [] and not (work_folder(fresh) / finished.FOLDER).exists()


def test_a_setting_that_shapes_the_work_makes_it_anew(fresh):
    first, _ = merge(fresh)
    second, after = merge(fresh, MergeConfig(dtype="float16"))
    assert not after["work_reused"] and second.digest != first.digest
    assert after["rebuilt_because"] == ["config.dtype: bfloat16 -> float16"]


def test_a_failed_check_keeps_the_work_and_the_next_start_only_measures(fresh):
    with pytest.raises(ArtifactError, match=r"checks did not pass(?s:.*)What was made is kept"):
        merge(fresh, STRICT)
    assert fresh.published("merged-model") == [], "nobody sees what no check has passed"
    made = work_folder(fresh) / finished.FOLDER
    before = {path: path.stat().st_mtime_ns for path in made.iterdir()}
    with pytest.raises(ArtifactError, match="checks did not pass"):
        merge(fresh, STRICT)
    assert {path: path.stat().st_mtime_ns for path in made.iterdir()} == before, "not made again"
    artifact, manifest = merge(fresh)
    assert manifest["work_reused"] and len(fresh.published("merged-model")) == 1
    assert fresh.store.problems(artifact) == []


@pytest.mark.parametrize("damage", ["record", "file"])
def test_damaged_work_is_made_anew(fresh, damage):
    with pytest.raises(ArtifactError):
        merge(fresh, STRICT)
    work = work_folder(fresh)
    if damage == "record":
        (work / "made.json").write_text("{")
    else:
        path = next((work / finished.FOLDER).glob("*.safetensors"))
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    artifact, manifest = merge(fresh)
    assert not manifest["work_reused"] and fresh.store.problems(artifact) == []


def test_what_a_check_writes_into_the_work_is_refused(fresh, monkeypatch):
    with pytest.raises(ArtifactError):
        merge(fresh, STRICT)
    record = json.loads((work_folder(fresh) / "made.json").read_text())
    real = finished.find

    def find_and_spoil(store, work):
        found = real(store, work)
        (work / finished.FOLDER / "left-by-a-check.txt").write_text("x")
        return found

    monkeypatch.setattr(finished, "find", find_and_spoil)
    with pytest.raises(ArtifactError, match=f"changed while they were verified.*{record['digest'][:12]}"):
        merge(fresh)
    assert fresh.published("merged-model") == []


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_a_kill_in_the_verification_costs_no_work(fresh, tmp_path):
    script = tmp_path / "build.py"
    inputs = {name: one.model_dump() for name, one in fresh.inputs.items()}
    script.write_text(
        textwrap.dedent(f"""
        import sys; sys.path.insert(0, {str(ROOT)!r})
        from tasks.core.artifact import Artifact
        from tasks.core.stage import Run, build
        from tasks.merge_adapter import STAGE, MergeConfig
        inputs = {{name: Artifact(**one) for name, one in {inputs!r}.items()}}
        build(STAGE, Run(name="tiny", recipe="signals", store={str(fresh.store.root)!r}), MergeConfig(), inputs)
        """)
    )
    running = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.DEVNULL)
    record = work_folder(fresh) / "made.json"
    deadline = time.monotonic() + 120
    while not record.is_file() and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert record.is_file() and fresh.published("merged-model") == [], "killed between the work and its verdict"
    artifact, manifest = merge(fresh)
    assert manifest["work_reused"] and fresh.store.problems(artifact) == []


def test_only_work_that_asked_a_server_is_done_again_after_a_failed_check():
    """Its log holds every answer, so that only what is missing is asked for; other work is never made twice."""
    from tasks import build_dataset, compare_models, train_lora
    from tasks.comparison.model_entry import EndpointSettings
    from tasks.distillation.teacher_settings import TeacherSettings

    address = {"base_url": "http://127.0.0.1:9/v1", "model": "m"}
    local = {"models": [{"name": "m", "hub": "owner/name"}], "rows_file": "rows.jsonl"}
    compared = compare_models.CompareConfig(**local)
    served = compared.models[0].model_copy(update={"hub": None, "endpoint": EndpointSettings(**address)})
    taught = build_dataset.DatasetConfig().model_copy(update={"teacher": TeacherSettings(**address)})
    assert not build_dataset.STAGE.redo_failed(build_dataset.DatasetConfig())
    assert build_dataset.STAGE.redo_failed(taught)
    assert not compare_models.STAGE.redo_failed(compared)
    assert compare_models.STAGE.redo_failed(compared.model_copy(update={"models": (*compared.models, served)}))
    assert not train_lora.STAGE.redo_failed(train_lora.TrainConfig())
