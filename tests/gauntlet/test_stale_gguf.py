"""The twin of the stale checkpoint: an older model's GGUF lies in the cache under the new one's name, and is scored and served.

The story found it by loading the file and reading what it said. Here its digest is compared wherever it is opened.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from data_contracts.paths import CONTRACTS_FOLDER
from data_contracts.prompting.prompt import load_prompt
from tasks.core.artifact import Artifact, Store
from tasks.core.cached import ArtifactSerializer
from tasks.core.errors import ArtifactError
from tasks.gguf_export.convert import convert
from tasks.prompts.prompt_digest import contract_digest
from tasks.release import released
from tasks.release.released import open_release
from tests.fixtures.tiny_chain import publish_folder
from tests.fixtures.tiny_model import make_tiny_model

FILE = "model-f16.gguf"


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    """Last month's model and this month's: same architecture, tokenizer, prompt contract and file size, other weights."""
    folder = tmp_path_factory.mktemp("gguf")
    made = {}
    for seed, month in enumerate(("old", "new")):
        model = make_tiny_model(folder / month / "model", hidden_size=64, context_tokens=512, seed=seed)
        made[month] = folder / month / FILE
        digest = contract_digest(load_prompt("signals"), model)
        convert(model, made[month], name="tiny", prompt_digest=digest, tick=lambda _: None)
    assert made["old"].stat().st_size == made["new"].stat().st_size
    assert made["old"].read_bytes() != made["new"].read_bytes()
    return made


@pytest.fixture
def cached(models, tmp_path) -> tuple[Store, Artifact]:
    """A store with this month's export in it."""
    store, folder = Store(tmp_path / "store"), tmp_path / "export"
    folder.mkdir()
    shutil.copyfile(models["new"], folder / FILE)
    return store, publish_folder(store, "gguf", folder)


def read_record(store: Store, artifact: Artifact) -> Artifact:
    """What every run does before it reuses something: its cache record is read, and the files behind it are hashed."""
    serializer = ArtifactSerializer(store=str(store.root))
    return serializer.loads(serializer.dumps(artifact))


def test_the_old_file_under_the_new_name_in_the_store_is_a_miss(models, cached):
    store, artifact = cached
    assert read_record(store, artifact) == artifact
    shutil.copyfile(models["old"], store.folder(artifact) / FILE)
    with pytest.raises(
        ArtifactError, match=rf"1 of 2 files of gguf .* are not as they were made: {FILE} changed.*rebuilt"
    ):
        read_record(store, artifact)


def test_the_old_file_with_the_old_times_is_a_miss_too(models, cached):
    """A cache that looks at size and time sees nothing: both are those of the new file."""
    store, artifact = cached
    planted = store.folder(artifact) / FILE
    before = planted.stat()
    shutil.copyfile(models["old"], planted.with_suffix(".aside"))
    planted.with_suffix(".aside").replace(planted)
    os.utime(planted, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (planted.stat().st_size, planted.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    with pytest.raises(ArtifactError, match=f"{FILE} changed"):
        read_record(store, artifact)


@pytest.fixture
def release(models, tmp_path) -> Path:
    """A release of the new model, as publish_model leaves it."""
    folder = tmp_path / "release"
    (folder / "gguf").mkdir(parents=True)
    shutil.copytree(models["new"].parent / "model", folder / "model")
    shutil.copyfile(models["new"], folder / "gguf" / "tiny-f16.gguf")
    digest = hashlib.sha256(models["new"].read_bytes()).hexdigest()
    row = {"model": "f16", "path": "gguf/tiny-f16.gguf", "file_digest": digest}
    (folder / "leaderboard.json").write_text(json.dumps({"name": "tiny", "recipe": "signals", "rows": [row]}))
    (folder / "manifest.json").write_text(json.dumps({"gguf": {"files": {FILE: digest}}}))
    shutil.copyfile(CONTRACTS_FOLDER / "signals" / "examples" / "gold.jsonl", folder / "heldout.jsonl")
    return folder


def test_the_old_file_under_the_new_name_in_a_release_is_not_served(models, release):
    assert open_release(release, "f16").path.is_file()
    shutil.copyfile(models["old"], release / "gguf" / "tiny-f16.gguf")
    with pytest.raises(ArtifactError, match=r"tiny-f16\.gguf is not what was evaluated: its sha256 is"):
        open_release(release, "f16")


def test_without_the_digest_everything_else_about_the_old_file_fits(models, release, monkeypatch):
    """The guard is taken away: name, header, tokenizer, prompt contract and size let the old model through."""
    recorded = json.loads((release / "leaderboard.json").read_text())["rows"][0]["file_digest"]
    monkeypatch.setattr(released, "sha256_file", lambda path: recorded)
    shutil.copyfile(models["old"], release / "gguf" / "tiny-f16.gguf")
    assert open_release(release, "f16").path.read_bytes() == models["old"].read_bytes()
