"""Boards of judged answers that are kept, and what changed between two of them.

A release's folder is replaced by the next one, so boards lie beside it: <publish folder>/boards/<name>/<date>-<digest>.json.
The same board is kept once; the date is that of the day on which it first stood there.
"""

from __future__ import annotations

import hashlib
import json
from datetime import date
from pathlib import Path

from data_contracts.errors import ConfigError
from tasks.core.artifact import canonical_json, write_whole
from tasks.reports.judging_text import board_diff

_DIGEST_CHARS = 8
BOARD = "judgement.json"


def keep_board(folder: Path, name: str, judgement: Path, today: date | None = None) -> Path:
    """Keep the board of a judgement's folder under `folder`/boards/`name`; returns where it is kept, old or new."""
    board = read_board(judgement)
    digest = hashlib.sha256(canonical_json(board).encode()).hexdigest()[:_DIGEST_CHARS]
    shelf = folder / "boards" / name
    if kept := sorted(shelf.glob(f"*-{digest}.json")):
        return kept[0]
    path = shelf / f"{today or date.today()}-{digest}.json"
    write_whole(path, json.dumps(board, indent=1) + "\n")
    return path


def kept_boards(folder: Path, name: str) -> list[Path]:
    """The boards kept for a release, the oldest first."""
    return sorted((folder / "boards" / name).glob("*.json"), key=lambda path: (path.stem[:10], path.stat().st_mtime_ns))


def find_board(named: str, folder: Path) -> Path:
    """A board by its path, by the folder of a judgement or of a release, or by a part of the name under which it is kept.

    Raises:
        ConfigError: there is none, or more than one of that name.
    """
    path = Path(named)
    if path.is_file():
        return path
    for inside in (path / "board" / BOARD, path / BOARD):  # a release has a leaderboard of its own beside board/
        if inside.is_file():
            return inside
    kept = sorted((folder / "boards").glob("*/*.json"))
    found = [one for one in kept if named and named in f"{one.parent.name}/{one.stem}"]
    if len(found) == 1:
        return found[0]
    shown = ", ".join(f"{one.parent.name}/{one.stem}" for one in (found or kept)) or "none"
    told = f"{len(found)} boards are called {named!r}" if found else f"there is no board {named!r}"
    raise ConfigError(f"boards: {told}. Give a file, a folder that holds {BOARD}, or one name of: {shown}.")


def read_board(path: Path) -> dict:
    """A board from its file, or from the folder that holds it.

    Raises:
        ConfigError: it is no board of judged answers.
    """
    path = path / BOARD if path.is_dir() else path
    try:
        board = json.loads(path.read_text("utf-8"))
        if {"format", "rows", "judges", "findings", "rubric", "prompts_digest"} <= board.keys():
            return board
    except (OSError, ValueError, AttributeError):
        pass
    raise ConfigError(
        f"boards: {path} is no board of judged answers. Expected the {BOARD} that judge_answers writes, or one kept from it."
    )


def diff(older: str, newer: str, folder: Path) -> str:
    """What changed between two boards, as Markdown."""
    return board_diff(*(read_board(find_board(one, folder)) for one in (older, newer)))
