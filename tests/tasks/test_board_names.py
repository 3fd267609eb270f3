"""Four kinds of board, four file names: nobody reads a comparison as a release's leaderboard, or a judgement as an evaluation."""

from __future__ import annotations

from pathlib import Path

from flows.boards import BOARD as KEPT
from tasks.comparison.checks import BOARD as COMPARED
from tasks.judge_answers import BOARD as JUDGED
from tasks.judging import answer_table

ROOT = Path(__file__).resolve().parents[2]


def test_each_kind_of_board_has_a_file_name_of_its_own():
    assert (answer_table.SCORES, COMPARED, JUDGED) == ("scores.json", "comparison.json", "judgement.json")
    assert answer_table.COMPARISON == COMPARED and KEPT == JUDGED


def test_only_a_release_has_a_leaderboard():
    files = [path for folder in ("tasks", "flows") for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(files) > 170
    naming = {path.relative_to(ROOT).as_posix() for path in files if "leaderboard.json" in path.read_text("utf-8")}
    assert naming == {
        "tasks/publish_model.py",
        "tasks/release/released.py",
        "tasks/reports/leaderboard.py",
        "tasks/evaluation/survey.py",
    }
