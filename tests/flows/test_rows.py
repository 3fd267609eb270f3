"""Rows as files from a terminal: fast, the same again, never over somebody's own, and mistakes in plain words."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.rows import write_rows
from tasks.core.errors import ConfigError
from tasks.recipes.proofkit import recipe as proofkit

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 60


def run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m flows rows ...`, and what heavy libraries it imported."""
    code = (
        "import sys; from flows.__main__ import main; code = main(); "
        "print('HEAVY', sorted({'torch', 'prefect', 'transformers'} & set(sys.modules))); sys.exit(code)"
    )
    argv = [sys.executable, "-c", code, "rows", *arguments]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=300)


def small(out: Path, seed: int = 42, **more: bool) -> dict[Path, int]:
    return write_rows("proofkit", "built", 30, 14, seed, out, **more)


def read(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_seven_thousand_rows_are_on_disk_in_less_than_a_minute(tmp_path):
    start = time.perf_counter()
    done = run_command("proofkit", "--out", str(tmp_path / "rows"))
    seconds = time.perf_counter() - start
    assert done.returncode == 0, done.stderr
    print(f"7,000 + 210 rows in {seconds:.1f} s")
    assert seconds < LIMIT_S
    assert f"7,000 rows  {tmp_path}/rows/train.jsonl\n" in done.stdout
    assert f"210 rows  {tmp_path}/rows/heldout.jsonl\nbuilt in " in done.stdout
    assert "HEAVY []" in done.stdout
    counts = {name: len(text.splitlines()) for name, text in read(tmp_path / "rows").items()}
    assert counts == {"train.jsonl": 7_000, "heldout.jsonl": 210}


def test_two_processes_write_the_same_bytes_and_another_seed_does_not(tmp_path):
    for name, seed in (("a", "7"), ("b", "7"), ("c", "8")):
        sizes = ("--train-rows", "30", "--heldout-rows", "14", "--seed", seed)
        assert run_command("proofkit", "--source", "built", *sizes, "--out", str(tmp_path / name)).returncode == 0
    assert read(tmp_path / "a") == read(tmp_path / "b")
    assert read(tmp_path / "a")["train.jsonl"] != read(tmp_path / "c")["train.jsonl"]


def test_the_files_hold_the_rows_that_a_run_is_given(tmp_path):
    made = small(tmp_path)
    assert list(made.values()) == [30, 14]
    files = [[json.loads(line) for line in path.read_text("utf-8").splitlines()] for path in made]
    assert tuple(files) == proofkit.build_rows("built", 30, 14, 42)


def test_other_content_is_not_written_over_without_force(tmp_path):
    small(tmp_path)
    before = read(tmp_path)
    small(tmp_path)  # the same bytes are nobody's loss
    with pytest.raises(ConfigError, match=r"2 of 2 files are there already.*Nothing was written.*--force"):
        small(tmp_path, seed=43)
    (tmp_path / "heldout.jsonl").write_text("corrected by hand\n", "utf-8")
    with pytest.raises(ConfigError, match=r"1 of 2 files .*heldout\.jsonl has 1 lines, expected 14\."):
        small(tmp_path)
    assert read(tmp_path)["train.jsonl"] == before["train.jsonl"]
    small(tmp_path, force=True)
    assert read(tmp_path) == before


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    small(tmp_path)
    before, write = read(tmp_path), Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if "heldout" in path.name:
            write(path, data[:100])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        small(tmp_path, seed=43, force=True)
    assert read(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("nowhere",), "recipe: there is no recipe 'nowhere'. Known: signals, proofkit."),
        (("proofkit", "--source", "silver"), "Known: built, nano, gold"),
        (("proofkit", "--source", "gold"), "asked for, it holds"),
        (("proofkit", "--train-rows", "0"), "'--train-rows': Input should be greater than or equal to 1"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(tmp_path, arguments, told):
    done = run_command(*arguments, "--out", str(tmp_path / "rows"))
    assert done.returncode != 0 and told in " ".join(done.stderr.split()), done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "rows").exists()


def test_a_file_in_the_folder_s_place_is_told(tmp_path):
    (tmp_path / "rows").touch()
    with pytest.raises(ConfigError, match="is a file, not a folder"):
        small(tmp_path / "rows")
