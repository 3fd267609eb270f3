"""Lists of JSON objects, one a line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path


def read_lines(path: Path) -> list[dict]:
    """The objects of a .jsonl file, in order. Lines end at \\n alone: a text may hold other characters that end lines."""
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line.strip()]


def as_lines(rows: Iterable[dict]) -> str:
    """What a .jsonl file of these objects holds."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
