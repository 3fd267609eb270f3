"""A full disk and an unwritable store, met by real stages: one clear sentence, and nothing half-written to be found."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tasks import merge_adapter, train_lora
from tasks.core.errors import ArtifactError
from tasks.core.stage import Run, build
from tasks.merge_adapter import MergeConfig
from tests.fixtures.tiny_chain import RECIPE, TRAIN_CONFIG, Shop, open_shop, publish_folder
from tests.fixtures.tiny_model import edit_json

FULL = re.compile(
    r"^(merge_adapter|train_lora): the disk is full while writing .*Nothing half-written was kept\. Free some"
)


@pytest.fixture
def shop(tiny_base, tiny_rows, tmp_path) -> Shop:
    return open_shop(tmp_path / "store", tiny_base, tiny_rows)


def add_adapter(shop: Shop, adapter: Path, folder: Path) -> Shop:
    """The session's adapter, said to be made on this store's base."""
    copy = shutil.copytree(adapter, folder / "adapter")
    edit_json(copy / "lineage.json", lambda lineage: lineage.update(base_digest=shop.inputs["base"].digest))
    return replace(shop, inputs=shop.inputs | {"adapter": publish_folder(shop.store, "lora-adapter", copy)})


@contextlib.contextmanager
def largest_file(size_bytes: int):
    """No process started from here may write a larger file: a limit that needs no rights, met as a full disk is."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def assert_nothing_is_left(shop: Shop, kind: str) -> None:
    assert shop.published(kind) == []
    assert shop.half_made() == []


def test_a_merge_that_finds_no_room_says_so_and_succeeds_later(shop, tiny_adapter, tmp_path):
    shop = add_adapter(shop, tiny_adapter.out, tmp_path)
    stage = merge_adapter.STAGE
    with largest_file(100_000), pytest.raises(ArtifactError, match=FULL):
        build(stage, shop.run, MergeConfig(), shop.inputs)
    assert_nothing_is_left(shop, stage.kind)
    artifact = build(stage, shop.run, MergeConfig(), shop.inputs)
    assert shop.store.problems(artifact) == []


@pytest.mark.slow
@pytest.mark.parametrize("size_bytes", [20_000, 60_000])
def test_training_that_finds_no_room_for_a_checkpoint_says_so(shop, size_bytes):
    """safetensors and torch.save have errors of their own for this. The adapter is 35 kB, the optimizer's state 80 kB."""
    stage = train_lora.STAGE
    with largest_file(size_bytes), pytest.raises(ArtifactError, match=FULL):
        build(stage, shop.run, TRAIN_CONFIG, shop.inputs)
    assert_nothing_is_left(shop, stage.kind)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 1 MiB, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs; the file size limit tests the same without it")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("room_bytes", [0, 100_000, 200_000])
def test_a_disk_that_is_really_full(small_disk, tiny_base, tiny_rows, tiny_adapter, tmp_path, room_bytes):
    shop = add_adapter(open_shop(small_disk / "store", tiny_base, tiny_rows), tiny_adapter.out, tmp_path)
    fill(small_disk / "other", room_bytes)
    stage = merge_adapter.STAGE
    with pytest.raises(ArtifactError, match=FULL):
        build(stage, shop.run, MergeConfig(), shop.inputs)
    assert shop.published(stage.kind) == []
    assert not list((small_disk / "store" / "building").glob("*/*"))
    (small_disk / "other").unlink()


def fill(path: Path, room_bytes: int) -> None:
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while shutil.disk_usage(path).free > room_bytes:
            file.write(bytes(4096))


def test_a_store_below_a_file_is_refused(shop, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    run = Run(name="tiny", recipe=RECIPE, store=str(tmp_path / "file" / "store"))
    with pytest.raises(ArtifactError, match=r"train_lora: cannot write .*file/store.*Make the folder writable"):
        build(train_lora.STAGE, run, TRAIN_CONFIG, shop.inputs)


def test_a_store_that_this_user_may_not_write_is_refused(shop):
    folders = ["work", "building"]
    for name in folders:
        (shop.store.root / name).mkdir(exist_ok=True)
        (shop.store.root / name).chmod(0o500)
    try:
        with (
            ordinary_user(),
            pytest.raises(ArtifactError, match=r"train_lora: cannot write .*store.*Permission denied"),
        ):
            build(train_lora.STAGE, shop.run, TRAIN_CONFIG, shop.inputs)
    finally:
        for name in folders:
            (shop.store.root / name).chmod(0o700)
    assert_nothing_is_left(shop, train_lora.STAGE.kind)


@contextlib.contextmanager
def ordinary_user():
    """Root may write anywhere, so root is someone else for a moment."""
    if os.geteuid():
        yield
        return
    if not all(parent.stat().st_mode & 0o001 for parent in Path(__file__).resolve().parents):
        pytest.skip("needs an ordinary user, or a checkout that one can read")
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
