"""Rubrics: what a judge of answers looks for, as data, read from `data_contracts/<recipe>/rubric.md`.

The file is Markdown that a person can read and a program can hold to:

    # What a judge looks for in a ... answer            one title

    Scale: 1 to 5                                       or "Scale: yes, no, cannot tell"; one for all criteria

    What the judge sees, and what it must not look at.  the guide: everything else before the first criterion

    ## depth_and_specificity                            one section a criterion; its name is the key of the judge's JSON
    What this criterion is about.                       required

    - 1: what an answer of this level looks like        the ends of the scale must be described, levels between may be;
    - 3: a longer text may run on in lines              with the scale of words: "- yes: ..." and "- no: ..."
      that are indented
    - 5: ...

A level that is a number counts as itself. Of the words, yes counts as 1 and no as 0; *cannot tell* is no score at all.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache

from pydantic import BaseModel, ConfigDict

from data_contracts.errors import ConfigError
from data_contracts.paths import CONTRACTS_FOLDER

REASON = "reason"
"""The one key of a verdict beside the criteria: a sentence for people, worth nothing in the score."""
CANNOT_TELL = "cannot tell"
_WORDS = {"yes": 1.0, "no": 0.0, CANNOT_TELL: None}
_WORDS_SCALE = "yes, no, cannot tell"
_NAME = re.compile(r"[a-z][a-z0-9_]{1,39}")
_NUMBERS = re.compile(r"1 to ([2-9]|10)")
_ANCHOR = re.compile(r"- ([^:]{1,20}):\s*(.*)")


class Criterion(BaseModel):
    """One thing that a judge scores."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """Key of the judge's JSON, in lower case with underscores."""
    text: str
    """What it is about."""
    anchors: dict[str, str]
    """Level, as it is written in the file -> what an answer of that level looks like."""

    @property
    def label(self) -> str:
        """The name as words."""
        return self.name.replace("_", " ")


class Rubric(BaseModel):
    """All criteria of a recipe, on one scale. `digest` changes when any word of it does."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str
    title: str
    guide: str
    """What the judge is told before the criteria."""
    scale: str
    """ "1 to N", or "yes, no, cannot tell"."""
    criteria: tuple[Criterion, ...]

    @property
    def digest(self) -> str:
        """sha256 over every word of it."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    @property
    def names(self) -> tuple[str, ...]:
        """The criteria, in the file's order."""
        return tuple(one.name for one in self.criteria)

    @property
    def levels(self) -> tuple[int, ...] | tuple[str, ...]:
        """What a judge may say of a criterion: integers, lowest first, or words."""
        return tuple(_WORDS) if self.scale == _WORDS_SCALE else tuple(range(1, int(self.top) + 1))

    @property
    def top(self) -> float:
        """The highest score: what a mean is divided by."""
        return 1.0 if self.scale == _WORDS_SCALE else float(self.scale.split()[-1])

    @property
    def bottom(self) -> float:
        """The lowest score."""
        return 0.0 if self.scale == _WORDS_SCALE else 1.0

    def allows(self, level: object) -> bool:
        """Whether a judge may say this: the right type too, so that 4.0, "4" and true are not 4."""
        return any(type(level) is type(one) and level == one for one in self.levels)

    def value(self, level: int | str) -> float | None:
        """The score of a level; None for *cannot tell*."""
        return _WORDS[level] if isinstance(level, str) else float(level)

    def verdict_schema(self, reasons: bool = True) -> dict:
        """JSON schema of a verdict: a reason if wanted, then each criterion once, nothing else.

        As strict modes of servers want it: levels are enumerated, since not all of them know `minimum` and `maximum`.
        """
        kind = "string" if self.scale == _WORDS_SCALE else "integer"
        first = {REASON: {"type": "string"}} if reasons else {}
        scores = {name: {"type": kind, "enum": list(self.levels)} for name in self.names}
        return {
            "type": "object",
            "properties": {**first, **scores},
            "required": [*first, *scores],
            "additionalProperties": False,
        }


@lru_cache
def load_rubric(recipe: str) -> Rubric:
    """Read `data_contracts/<recipe>/rubric.md`.

    Raises:
        ConfigError: the file is missing, or every line of it that is wrong.
    """
    path = CONTRACTS_FOLDER / recipe / "rubric.md"
    if not path.is_file():
        raise ConfigError(
            f"rubric: data_contracts/{recipe}/rubric.md is missing. Every recipe needs one; copy another recipe's."
        )
    return parse_rubric(path.read_text("utf-8"), recipe)


def parse_rubric(text: str, recipe: str) -> Rubric:
    """A rubric from the text of its file.

    Raises:
        ConfigError: one sentence for each thing that is wrong, all of them.
    """
    reader = _Reader(text)
    rubric = Rubric(
        recipe=recipe,
        title=reader.titles[0] if reader.titles else "",
        guide="\n".join(reader.guide).strip(),
        scale=reader.scales[0] if reader.scales else "",
        criteria=tuple(
            Criterion(name=name, text=" ".join(words), anchors={level: " ".join(w) for level, w in anchors.items()})
            for name, words, anchors in reader.criteria
        ),
    )
    if problems := [*reader.problems, *_problems(reader, rubric)]:
        raise ConfigError([f"rubric: {recipe}/rubric.md: {one}" for one in problems])
    return rubric


class _Reader:
    """The lines of a rubric, sorted into title, scale, guide and criteria."""

    def __init__(self, text: str) -> None:
        self.titles: list[str] = []
        self.scales: list[str] = []
        self.guide: list[str] = []
        self.criteria: list[tuple[str, list[str], dict[str, list[str]]]] = []
        self.problems: list[str] = []
        for number, line in enumerate(text.splitlines(), start=1):
            self._read(number, line.rstrip())

    def _read(self, number: int, line: str) -> None:
        if line.startswith("## "):
            self.criteria.append((line[3:].strip(), [], {}))
        elif line.startswith("# "):
            self.titles.append(line[2:].strip())
        elif line.startswith("#"):
            self.problems.append(
                f"line {number} is a heading of another level. Use # for the title, ## for a criterion."
            )
        elif line.lower().startswith("scale:"):
            self.scales.append(" ".join(line.partition(":")[2].split()))
        elif not self.criteria:
            self.guide.append(line)
        elif line:
            self._read_criterion(number, line)

    def _read_criterion(self, number: int, line: str) -> None:
        name, words, anchors = self.criteria[-1]
        if found := _ANCHOR.match(line):
            level = found[1].strip()
            if level in anchors:
                self.problems.append(f"line {number} describes level {level} of {name} again. Keep one.")
            anchors[level] = [found[2].strip()]
        elif not anchors:
            words.append(line.strip())
        elif line[0] in " \t":
            anchors[next(reversed(anchors))].append(line.strip())
        else:
            self.problems.append(
                f"line {number} stands after the levels of {name}. Put it before them, or indent it to go on with a level."
            )


def _problems(reader: _Reader, rubric: Rubric) -> list[str]:
    found = []
    if len(reader.titles) != 1:
        found.append(f"{len(reader.titles)} titles. Write one line '# What a judge looks for in ...'.")
    if not rubric.guide:
        found.append("nothing stands before the first criterion. Tell the judge what it sees and what does not count.")
    if not rubric.criteria:
        found.append("no criterion. Start each with a line '## its_name'.")
    names = [one.name for one in rubric.criteria]
    found += [
        f"criterion {name} stands there twice. Keep one." for name in dict.fromkeys(names) if names.count(name) > 1
    ]
    found += [
        f"{name!r} is no name of a criterion. Use 2 to 40 lower-case letters, digits and underscores, but not {REASON!r}."
        for name in names
        if not _NAME.fullmatch(name) or name == REASON
    ]
    found += [
        f"{one.name} does not say what it is about. Write it below the heading."
        for one in rubric.criteria
        if not one.text
    ]
    scales = ", ".join(map(repr, reader.scales)) or "none"
    if len(reader.scales) != 1 or not (rubric.scale == _WORDS_SCALE or _NUMBERS.fullmatch(rubric.scale)):
        return [*found, f"scale: found {scales}. Write one line 'Scale: 1 to 5' (2 to 10) or 'Scale: {_WORDS_SCALE}'."]
    return [*found, *(sentence for one in rubric.criteria for sentence in _level_problems(one, rubric))]


def _level_problems(one: Criterion, rubric: Rubric) -> list[str]:
    known = [str(level) for level in rubric.levels]
    ends = ["yes", "no"] if rubric.scale == _WORDS_SCALE else [known[0], known[-1]]
    found = [
        f"{one.name} describes level {level!r}, which is not on the scale. Known: {', '.join(known)}."
        for level in one.anchors
        if level not in known
    ]
    found += [
        f"{one.name} does not describe level {end}. Add '- {end}: ...'." for end in ends if not one.anchors.get(end)
    ]
    found += [
        f"{one.name} names level {level} without a word. Describe it."
        for level, text in one.anchors.items()
        if not text and level not in ends
    ]
    return found
