"""One self-contained HTML page about a release: it asks no server for anything and works without JavaScript.

Reads:  ReleaseData.
Writes: text for `report.html` (report.html.j2, report.css and report.js are put into it).
"""

from __future__ import annotations

import base64
import difflib
import hashlib
import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Template
from markupsafe import Markup

from data_contracts.verdict import Check, Verdict, failures
from tasks.reports import charts, graph, words
from tasks.reports.data import ReleaseData, Sample
from tasks.reports.pages import page_template

_FOLDER = Path(__file__).parent
_MISSING = "(missing)"


@dataclass(frozen=True)
class Span:
    """A piece of an answer; `differs` when the expected answer does not hold it."""

    text: str
    differs: bool


@dataclass(frozen=True)
class Answer:
    """What one or several models answered, word for word the same."""

    models: list[str]
    thought: str
    fields: list[tuple[str, str, bool]]
    """(name, value, differs from what was expected); empty when the answer is not one JSON object."""
    spans: list[Span]
    """The answer as text, used when `fields` is empty."""
    correct: bool | None


@dataclass(frozen=True)
class SampleView:
    """A held-out row as the page shows it."""

    prompt: str
    expected: Answer
    answers: list[Answer]
    wrong: bool
    differ: bool


def render_report(release: ReleaseData) -> str:
    """The whole page. Every text of the release is escaped: a headline that holds markup stays words."""
    script, style = (Markup((_FOLDER / name).read_text("utf-8")) for name in ("report.js", "report.css"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return _page().render(
        release=release,
        script=script,
        script_hash=digest,
        style=style,
        graph=graph.draw_graph(release),
        curve=charts.draw_curve(release.loss_curve),
        bars=charts.draw_bars(release),
        samples=[sample_view(one) for one in release.samples],
        broken=[(stage.stage, one) for stage in release.stages for one in failures(stage.checks)],
        row_counts=_row_counts(release),
        counts=counts([one for _, one in release.checks]),
        config=json.dumps(release.config, indent=2, ensure_ascii=False, default=str),
    )


def counts(checks: list[Check]) -> dict[str, int]:
    """How many checks had each outcome; numbers without a limit are counted apart."""
    found = dict.fromkeys(("pass", "fail", "cannot tell", "reported"), 0)
    for one in checks:
        found[words.outcome(one)] += 1
    return found


def _row_counts(release: ReleaseData) -> dict[str, int]:
    """The rows behind a metric, for the metrics whose models all answered equally many."""
    found = {
        name: {row.scores[name].n for row in release.leaderboard if name in row.scores} for name in release.metrics
    }
    return {name: next(iter(sizes)) for name, sizes in found.items() if len(sizes) == 1}


def sample_view(sample: Sample) -> SampleView:
    """Put equal answers together and mark where they leave the expected one."""
    groups: dict[tuple[str, bool | None], list[str]] = {}
    for model, text in sample.answers.items():
        groups.setdefault((text, sample.correct.get(model)), []).append(model)
    return SampleView(
        prompt=sample.prompt,
        expected=_answer(["expected"], sample.expected, sample.expected, True),
        answers=[_answer(models, text, sample.expected, right) for (text, right), models in groups.items()],
        wrong=any(right is not True for _, right in groups),
        differ=len({text for text, _ in groups}) > 1,
    )


def _answer(models: list[str], text: str, expected: str, correct: bool | None) -> Answer:
    thought, said = _split_thought(text)
    wanted = _split_thought(expected)[1]
    have, want = _object(said), _object(wanted)
    fields = []
    if have is not None and want is not None:
        names = list(dict.fromkeys([*want, *have]))
        values = {name: (_value(have, name), _value(want, name)) for name in names}
        fields = [(name, _bare(mine), mine != other) for name, (mine, other) in values.items()]
    return Answer(models, thought, fields, [] if fields else _spans(said, wanted), correct)


def _split_thought(text: str) -> tuple[str, str]:
    thought, mark, said = text.rpartition("</think>")
    return (thought.replace("<think>", "", 1).strip(), said.strip()) if mark else ("", text.strip())


def _object(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) and found else None


def _value(fields: dict[str, Any], name: str) -> str:
    return json.dumps(fields[name], ensure_ascii=False) if name in fields else _MISSING


def _bare(value: str) -> str:
    """A string without its quotes, unless it would then read as a number or the like."""
    inner = value[1:-1] if value.startswith('"') else ""
    return inner if re.fullmatch(r"[A-Za-z][\w -]*", inner) and inner not in ("true", "false", "null") else value


def _spans(text: str, expected: str) -> list[Span]:
    """Words of `text`, those that leave the expected text marked."""
    have, want = (re.findall(r"\s+|\w+|[^\w\s]", one) for one in (text, expected))
    matcher = difflib.SequenceMatcher(None, want, have, autojunk=False)
    spans = [Span("".join(have[start:end]), kind != "equal") for kind, _, _, start, end in matcher.get_opcodes()]
    return [one for one in spans if one.text] or [Span("(empty answer)", True)]


@lru_cache
def _page() -> Template:
    named = (
        "number",
        "measured",
        "limit",
        "outcome",
        "percent",
        "interval",
        "size",
        "duration",
        "plain",
        "short",
        "label",
    )
    names = {"MARKS": words.MARKS, "BOX": (graph.BOX_WIDTH, graph.BOX_HEIGHT), "Verdict": Verdict}
    return page_template("report.html.j2", {name: getattr(words, name) for name in named}, names)
