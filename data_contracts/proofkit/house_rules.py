"""The house rules of proofkit as functions: what a work sample must say, and what it must never claim.

Each rule is a gate on a model's answer and a rule on a training target, so that no model is taught what it is then refused
for. The rules read words, not meaning: they can be pleased by a sentence that is well-formed and empty (a judge scores
depth), but not by a keyword alone; examples/gates.jsonl shows where the line runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ValidationError

from data_contracts.audit import anchoring
from data_contracts.audit import sentences as prose
from data_contracts.proofkit import claims, statements
from data_contracts.proofkit.connections import Told
from data_contracts.proofkit.output import SCHEMAS

TASKS = ("draft", "revise", "review", "talking_points", "scenario", "bullets", "post")
VOICES = ("plain", "warm", "brisk", "precise")

_ALWAYS = ("role", "artifact_type", "company", "constraint", "skills", "answers")
COLUMNS: dict[str, frozenset[str]] = {
    task: frozenset((*_ALWAYS, *further))
    for task, further in {
        "draft": ("section", "stakes", "profile", "voice"),
        "revise": ("section", "voice", "rubric", "draft"),
        "review": ("draft",),
        "talking_points": ("profile", "draft"),
        "scenario": ("stakes", "voice"),
        "bullets": ("profile", "voice", "draft"),
        "post": ("profile", "voice", "draft"),
    }.items()
}
"""Task -> the columns that its prompt shows; every other column of the prompt is null in such a row."""
PROMPT_COLUMNS = (
    "role", "artifact_type", "section", "company", "constraint", "stakes",
    "skills", "profile", "voice", "answers", "draft", "rubric",
)  # fmt: skip
"""In the order in which a prompt shows them."""
APPLICANT = ("answers", "draft")
"""What the applicant typed: where anchors come from."""
ANCHOR_MARK = " | "
LENGTH_WORDS: dict[str, tuple[int, int]] = {
    "draft": (25, 350),
    "revise": (25, 350),
    "review": (14, 260),
    "talking_points": (15, 280),
    "scenario": (20, 300),
    "bullets": (12, 200),
    "post": (18, 250),
}
"""Fewest and most words of an answer, headings left out. Wide on purpose: a gate of sanity, which small models pass with
short texts; limits.yaml asks more of a set that is to teach writing."""

PLACEHOLDER_TITLES = frozenset(("title", "heading", "section", "scenario", "scenario title", "untitled", "tbd", "text"))


class Answer:
    """One answer to one row, taken apart once for all gates."""

    def __init__(self, row: Mapping[str, Any], text: str) -> None:
        self.row, self.text, self.task = row, text, str(row["task"])

    @cached_property
    def parsed(self) -> BaseModel | str:
        """The answer to a task of SCHEMAS as its model, or what is wrong with it."""
        return read_json(self.task, self.text)

    @cached_property
    def fields(self) -> list[str]:
        """The texts in it: every string of a JSON answer, else the whole. None of one that cannot be read."""
        if self.task not in SCHEMAS:
            return [self.text]
        return [] if isinstance(self.parsed, str) else list(strings(self.parsed.model_dump()))

    @cached_property
    def sentences(self) -> list[list[str]]:
        """The sentences of each field, headings left out."""
        return [prose.sentences(one) for one in self.fields]

    @cached_property
    def every_line(self) -> list[str]:
        """The sentences of all fields and their headings: what must not lie."""
        return [one for field in self.fields for one in prose.sentences(field, headings=True)]

    @cached_property
    def given(self) -> str:
        """Everything that the prompt tells, in small letters."""
        return "\n".join(str(self.row[name]) for name in PROMPT_COLUMNS if self.row.get(name) is not None).lower()

    @cached_property
    def _told_trigrams(self) -> frozenset[tuple[str, ...]]:
        """Of what the prompt gives apart from the applicant's own text: an assumption or a choice typed there may be kept."""
        told = (self.row[name] for name in PROMPT_COLUMNS if name not in APPLICANT and self.row.get(name) is not None)
        return frozenset(run for one in told for run in prose.ngrams(prose.words(str(one)), 3))

    def copied(self, some: list[str]) -> bool:
        """Four of five of the three-word runs stand in what the prompt gives: nothing was added to it."""
        runs = prose.ngrams(some, 3)
        return bool(runs) and sum(one in self._told_trigrams for one in runs) >= 0.8 * len(runs)


def anchors_of(row: Mapping[str, Any]) -> list[str]:
    """The anchors of a row."""
    return [one.strip() for one in str(row["anchors"] or "").split(ANCHOR_MARK.strip()) if one.strip()]


def read_json(task: str, text: str) -> BaseModel | str:
    """The answer as the model of its task, strictly: nothing around it, each key once, in the schema's order. Else what
    is wrong."""
    model = SCHEMAS[task]
    try:
        found = model.model_validate_json(text)
        keys = list(json.loads(text, object_pairs_hook=_each_key_once))
    except ValidationError as error:
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc'])) or 'answer'}: {first['msg']}"
    except ValueError as error:
        return str(error)
    return found if keys == list(model.model_fields) else f"keys in the order {', '.join(keys)}"


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def strings(value: Any) -> list[str]:
    """Every text in a parsed answer, in order."""
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [one for part in parts for one in strings(part)]


def judge(row: Mapping[str, Any], text: str) -> dict[str, str]:
    """Gate -> what is wrong, empty when it passes; only the gates that apply to the row's task.

    An answer that had to be JSON and is not fails every gate: nothing in it can be read.
    """
    answer = Answer(row, text)
    applying = {name: gate for name, (tasks, gate) in GATES.items() if answer.task in tasks}
    if answer.task in SCHEMAS and isinstance(answer.parsed, str):
        return dict.fromkeys(applying, f"no valid JSON ({answer.parsed})")
    return {name: gate(answer) for name, gate in applying.items()}


def _heading(answer: Answer) -> str:
    first, _, rest = answer.text.strip().partition("\n")
    if not first.startswith("## "):
        return f"the first line is {first[:60]!r}, not a heading '## ...'"
    title = " ".join(first[3:].split()).casefold()
    wanted = answer.row.get("section")
    if wanted is not None and title != " ".join(str(wanted).split()).casefold():
        return f"the heading is {first[3:63]!r}, not the section {wanted!r}"
    if wanted is None and (
        title in PLACEHOLDER_TITLES or re.search(r"[<>\[\]{}]", title) or not re.search(r"\w", title)
    ):
        return f"the heading {first[:60]!r} is a placeholder"
    return "" if prose.lines(rest) else "nothing stands below the heading"


def _fictional_context(answer: Answer) -> str:
    company = str(answer.row["company"]).strip()
    named = False
    for field in answer.sentences:
        for place, sentence in enumerate(field):
            if not prose.stands(company, sentence):
                continue
            named = True
            if any(statements.calls_fictional(one, company) for one in field[max(0, place - 1) : place + 2]):
                return ""
    if not named:
        return f"the company {company!r} is not named in any sentence"
    return "no sentence beside the company's name says that it is fictional"


def _assumptions(answer: Answer) -> str:
    for field in answer.sentences:
        for place, sentence in enumerate(field):
            following = field[place + 1] if place + 1 < len(field) else ""
            for stated in statements.assumed(sentence, following):
                if statements.has_content(stated) and not answer.copied(prose.words(stated)):
                    return ""
    return "no sentence states an assumption of its own"


def _tradeoff(answer: Answer) -> str:
    for field in answer.sentences:
        if any(statements.weighs(one) and not answer.copied(prose.words(one)) for one in field):
            return ""
    return "no sentence says what is given up for what"


def _disclosure(answer: Answer) -> str:
    if any(map(statements.discloses, answer.sentences)):
        return ""
    return "no sentence says that it is a practice piece and not real client work or employment"


def _no_false_claims(answer: Answer) -> str:
    row, some = answer.row, answer.every_line
    told = Told(str(row["company"]).strip(), str(row["role"]), answer.given, to_applicant=answer.task in SCHEMAS)
    if answer.task == "review":
        some = [claims.without_blamed_quotes(one, str(row.get("draft") or "").lower()) for one in some]
    return next((problem for one in some if (problem := claims.false_claim(one, told))), "")


def _length(answer: Answer) -> str:
    low, high = LENGTH_WORDS[answer.task]
    count = sum(len(prose.words(line)) for one in answer.fields for line in prose.lines(one))
    return "" if low <= count <= high else f"{count} words, not {low} to {high}"


def _valid_json(answer: Answer) -> str:
    return answer.parsed if isinstance(answer.parsed, str) else ""


def _anchors(answer: Answer) -> str:
    return anchoring.problem(answer.fields, anchors_of(answer.row))


_EVERY = frozenset(TASKS)
_LONG = frozenset(("draft", "revise"))
GATES: dict[str, tuple[frozenset[str], Callable[[Answer], str]]] = {
    "heading": (_LONG | {"scenario"}, _heading),
    "fictional_context": (_EVERY, _fictional_context),
    "assumptions": (_LONG | {"scenario"}, _assumptions),
    "tradeoff": (_LONG, _tradeoff),
    "disclosure": (_EVERY - SCHEMAS.keys(), _disclosure),
    "no_false_claims": (_EVERY, _no_false_claims),
    "length": (_EVERY, _length),
    "valid_json": (frozenset(SCHEMAS), _valid_json),
    "anchors": (_EVERY, _anchors),
}
"""Gate -> the tasks that it applies to, and the function that says what is wrong (empty: nothing)."""
