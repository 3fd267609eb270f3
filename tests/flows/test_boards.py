"""Boards that are kept beside a release, found again by a part of their name, and compared from the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from data_contracts.errors import ConfigError
from flows.boards import diff, find_board, keep_board, kept_boards, read_board

ROOT = Path(__file__).resolve().parents[2]


def board(final: float, digest: str = "p") -> dict:
    row = {
        "model": "student", "rank": 1, "role": "competitor", "final": {"value": final, "low": final - 1, "high": final + 1},
        "judges_alone": None, "gate_pass_rate": 1.0, "file_digest": None, "gates": {},
    }  # fmt: skip
    judge = {"served_as": "m", "identity": "w", "counts": True}
    return {
        "format": 1, "rows": [row], "judges": [judge], "findings": [], "rubric": {"digest": "r"}, "prompts_digest": digest,
        "formula": "f",
    }  # fmt: skip


def judgement(folder: Path, final: float) -> Path:
    folder.mkdir(parents=True)
    (folder / "judgement.json").write_text(json.dumps(board(final)))
    return folder


@pytest.fixture
def shelf(tmp_path) -> Path:
    """A folder of releases with two boards of one release."""
    keep_board(tmp_path, "letters", judgement(tmp_path / "a", 70.0), date(2026, 11, 23))
    keep_board(tmp_path, "letters", judgement(tmp_path / "b", 75.0), date(2026, 11, 24))
    return tmp_path


def test_a_board_is_kept_once_under_its_date_and_digest(shelf, tmp_path):
    again = keep_board(tmp_path, "letters", tmp_path / "a", date(2027, 1, 1))
    kept = kept_boards(shelf, "letters")
    assert [path.stem[:10] for path in kept] == ["2026-11-23", "2026-11-24"] and again == kept[0]
    assert read_board(kept[1])["rows"][0]["final"]["value"] == 75.0


def test_boards_are_found_by_path_folder_or_part_of_a_name(shelf):
    kept = kept_boards(shelf, "letters")
    assert (
        find_board(str(kept[0]), shelf)
        == find_board("2026-11-23", shelf)
        == find_board(kept[0].stem[-8:], shelf)
        == kept[0]
    )
    assert find_board(str(shelf / "a"), shelf) == shelf / "a" / "judgement.json"
    (shelf / "a" / "board").mkdir()
    (shelf / "a" / "board" / "judgement.json").write_text("{}")
    assert find_board(str(shelf / "a"), shelf) == shelf / "a" / "board" / "judgement.json"
    assert "+5.0 (intervals apart)" in diff("11-23", "11-24", shelf)


@pytest.mark.parametrize(
    ("named", "told"),
    [("2026-11", "2 boards are called"), ("2025", "there is no board '2025'"), ("", "there is no board ''")],
)
def test_a_name_that_is_no_board_or_several_is_told_with_all_names(shelf, named, told):
    with pytest.raises(ConfigError, match=told) as caught:
        find_board(named, shelf)
    assert "letters/2026-11-23-" in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": "a release\'s own board", "rows": []}'])
def test_another_file_is_refused(tmp_path, text):
    (tmp_path / "judgement.json").write_text(text)
    with pytest.raises(ConfigError, match="is no board of judged answers"):
        read_board(tmp_path)


def run(*words: str):
    return subprocess.run(
        [sys.executable, "-m", "flows", "boards", *words],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_commands(shelf):
    done = run("diff", "11-23", "11-24", "--folder", str(shelf))
    assert done.returncode == 0 and "| student | 1 | 70.0 → 75.0 | +5.0 (intervals apart) |" in done.stdout
    listed = run("list", "letters", "--folder", str(shelf))
    assert listed.returncode == 0 and len(listed.stdout.splitlines()) == 2
    assert "No board of nobody is kept in" in run("list", "nobody", "--folder", str(shelf)).stdout
    wrong = run("diff", "1999", "11-24", "--folder", str(shelf))
    assert wrong.returncode == 1 and "there is no board '1999'" in wrong.stderr and "Traceback" not in wrong.stderr
