"""What base and trained model answered to the forgetting probe, side by side with the gold answer: one self-contained page.

Reads:  forgetting.jsonl of train_lora's work folder, and the checks that were taken from it.
Writes: text for `forgetting.html` (forgetting.html.j2; report.css and answers.css are put into it).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from jinja2 import Template
from markupsafe import Markup

from data_contracts.prompting.prompt import load_prompt
from data_contracts.verdict import Check
from tasks.recipes import load_recipe
from tasks.reports import words
from tasks.reports.pages import page_template

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class ShownAnswer:
    """One column of a prompt."""

    model: str
    text: str
    notes: list[str]


@dataclass(frozen=True)
class ShownPrompt:
    """One prompt and three answers to it."""

    number: int
    text: str
    answers: list[ShownAnswer]

    @property
    def noted(self) -> bool:
        """Something is noted about the trained model's answer."""
        return bool(self.answers[-1].notes)


def render_forgetting(recipe_name: str, answers_file: Path, checks: Sequence[Check]) -> str:
    """The whole page. Every text is escaped: an answer that holds markup stays words."""
    with answers_file.open(encoding="utf-8", newline="\n") as lines:
        prompts = [_prompt(i, json.loads(line), recipe_name) for i, line in enumerate(lines, 1)]
    style = Markup("\n".join((_FOLDER / name).read_text("utf-8") for name in ("report.css", "answers.css")))
    return _page().render(prompts=prompts, checks=checks, style=style)


def _prompt(number: int, line: Mapping, recipe_name: str) -> ShownPrompt:
    row = line["row"]
    answers = [
        ShownAnswer("gold", load_recipe(recipe_name).completion(row), []),
        ShownAnswer("base", line["before"], line["before_notes"]),
        ShownAnswer("trained", line["after"], line["after_notes"]),
    ]
    return ShownPrompt(number, load_prompt(recipe_name).messages(row)[-1]["content"], answers)


@lru_cache
def _page() -> Template:
    filters = {"measured": words.measured, "limit": words.limit, "outcome": words.outcome}
    return page_template("forgetting.html.j2", filters, {"MARKS": words.MARKS})
