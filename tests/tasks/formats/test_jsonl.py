"""One writer of JSON: what is written is read back, whatever a model answered, and no stage writes its own."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tasks.formats.jsonl import as_lines, read_lines, write_json, write_lines

ROOT = Path(__file__).resolve().parents[3]
ROWS = [{"text": "résumé – 5 %"}, {"text": "half a pair: \ud83d"}, {"text": "line\u2028separator"}, {"n": None}]


def test_what_is_written_is_read_back(tmp_path):
    write_lines(tmp_path / "rows.jsonl", ROWS)
    assert read_lines(tmp_path / "rows.jsonl") == ROWS
    write_json(tmp_path / "rows.json", ROWS)
    assert json.loads((tmp_path / "rows.json").read_text("utf-8")) == ROWS


def test_text_stays_readable_and_only_what_utf8_cannot_hold_is_escaped():
    first, second, *_ = as_lines(ROWS).split("\n")
    assert "résumé – 5 %" in first and "\\ud83d" in second


def test_keys_are_sorted_where_that_is_wanted(tmp_path):
    path = tmp_path / "value.json"
    write_json(path, {"b": 1, "a": 2})
    assert path.read_text() == '{\n "b": 1,\n "a": 2\n}\n'
    write_json(path, {"b": 1, "a": 2}, sort_keys=True)
    assert path.read_text() == '{\n "a": 2,\n "b": 1\n}\n'


def test_no_stage_writes_json_of_its_own():
    stages = sorted((ROOT / "tasks").glob("*.py"))
    assert len(stages) > 12
    own = re.compile(r"json\.dumps?\(")
    assert [path.name for path in stages if own.search(path.read_text("utf-8"))] == []
