"""Answers prompt by prompt, with every judge's scores beside them: one self-contained page that asks no server for anything.

Reads:  a board (judgement.json), the records of verdicts.jsonl, the table of answers.
Writes: text for `answers.html` (answers.html.j2, report.css, answers.css and report.js are put into it).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from jinja2 import Template
from markupsafe import Markup

from data_contracts.prompting.rubric import Rubric
from tasks.judging.answer_table import AnswerTable, gate_results, warnings_of
from tasks.judging.panel import COMPETITOR
from tasks.judging.panel_run import ANSWER
from tasks.recipes.interface import Recipe
from tasks.reports import words
from tasks.reports.judging_text import UNTOLD, scored
from tasks.reports.pages import page_template

_FOLDER = Path(__file__).parent
_APART = 0.25
"""Judges whose scores of one answer differ by more than this share of the scale disagree about it."""


@dataclass(frozen=True)
class Opinion:
    """One judge on one answer."""

    judge: str
    levels: dict[str, int | str] | None
    reason: str
    unscored: str


@dataclass(frozen=True)
class JudgedAnswer:
    """One answer, whoever gave it."""

    models: list[str]
    roles: list[str]
    text: str
    thought: str
    opinions: list[Opinion]
    gates: dict[str, bool | None]
    warnings: list[str]


@dataclass(frozen=True)
class PromptView:
    """One prompt and the different answers to it, in the order of the board."""

    task: str
    answers: list[JudgedAnswer]
    disagree: bool
    unscored: bool
    warned: bool


def render_answers(
    board: Mapping, records: Sequence[Mapping], table: AnswerTable, recipe: Recipe, rubric: Rubric
) -> str:
    """The whole page. Every text is escaped: an answer that holds markup stays words."""
    script, style, more = (
        Markup((_FOLDER / name).read_text("utf-8")) for name in ("report.js", "report.css", "answers.css")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    views = prompt_views(board, records, table, recipe, rubric)
    return _page().render(
        board=board, prompts=views, criteria=list(rubric.names), script=script, script_hash=digest, style=style + more
    )


def prompt_views(
    board: Mapping, records: Sequence[Mapping], table: AnswerTable, recipe: Recipe, rubric: Rubric
) -> list[PromptView]:
    """What the page shows of each prompt."""
    said: dict[int, list[Opinion]] = {}
    for one in records:
        if one["kind"] == ANSWER:
            said.setdefault(one["items"][0], []).append(
                Opinion(one["judge"], one["levels"], one["reason"], one["unscored"])
            )
    place = {row["model"]: number for number, row in enumerate(board["rows"])}
    by_prompt: dict[int, list[int]] = {}
    for k, item in enumerate(table.items):
        by_prompt.setdefault(item.prompt, []).append(k)
    return [_view(p, by_prompt[p], said, place, table, recipe, rubric) for p in range(len(table.rows))]


def _view(
    p: int, items: list[int], said: Mapping, place: Mapping, table: AnswerTable, recipe: Recipe, rubric: Rubric
) -> PromptView:
    answers = []
    for k in items:
        owners = sorted((table.models[m] for m in table.owners(k)), key=lambda one: place[one.name])
        thought, text = _split_thought(table.items[k].answer)
        answers.append(
            JudgedAnswer(
                models=[one.name for one in owners],
                roles=sorted({one.role for one in owners} - {COMPETITOR}),
                text=text,
                thought=thought,
                opinions=said.get(k, []),
                gates=gate_results(recipe, table.rows[p], table.items[k].answer),
                warnings=warnings_of(table.items[k].answer, rubric),
            )
        )
    answers.sort(key=lambda one: place[one.models[0]])
    opinions = [one.opinions for one in answers]
    return PromptView(
        task=table.tasks[p],
        answers=answers,
        disagree=any(_disagree(some, rubric) for some in opinions),
        unscored=any(one.levels is None for some in opinions for one in some),
        warned=any(one.warnings for one in answers),
    )


def _disagree(opinions: Sequence[Opinion], rubric: Rubric) -> bool:
    means = []
    for one in opinions:
        known = [v for level in (one.levels or {}).values() if (v := rubric.value(level)) is not None]
        if known:
            means.append(sum(known) / len(known))
    return bool(means) and max(means) - min(means) > _APART * (rubric.top - rubric.bottom)


def _split_thought(text: str) -> tuple[str, str]:
    thought, mark, said = text.rpartition("</think>")
    return (thought.replace("<think>", "", 1).strip(), said.strip()) if mark else ("", text.strip())


@lru_cache
def _page() -> Template:
    filters: dict[str, Callable] = {
        "percent": words.percent,
        "label": words.label,
        "scored": scored,
        "short": words.short,
    }
    return page_template("answers.html.j2", filters, {"UNTOLD": UNTOLD})
