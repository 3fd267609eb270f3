"""The content of the proofkit world: roles, moves and names from data_contracts/proofkit/world, read and checked whole.

A file is text that a data engineer writes; what is checked here is all that the builder relies on: enough of everything,
brackets and slots in order, each wording of an event with the same slots (they are the anchors that a target must keep).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from data_contracts.errors import ConfigError
from data_contracts.paths import CONTRACTS_FOLDER
from data_contracts.yaml_model import problems, read_yaml
from tasks.recipes.proofkit.wording import parse

WORLD_FOLDER = CONTRACTS_FOLDER / "proofkit" / "world"
VOICES = ("plain", "warm", "brisk", "precise")
Kind = Literal["context", "evidence", "decision", "plan", "risk"]
DRAWN_SLOTS = frozenset(("person", "count", "number", "few", "days", "minutes", "years", "money", "when", "place"))
"""Slots that are drawn for a row: what an event, a constraint, a stake or a profile may hold. `count` is a number of the very
things that `measure` names, so a goal can be set for it; `number` is any other."""
_INSIDER = re.compile(r"\b(?:we|us|ours?|I|me|my)\b")
MIN_WORDS_A_SLOT = 3
"""Words that a telling has beside each of its slots: a gate asks as much of a sentence that uses an anchor."""


def _readable(text: str) -> str:
    if text != " ".join(text.split()):
        raise ValueError("white space at an end, or two spaces in a row")
    parse(text)
    return text


def _event_slots(text: str) -> str:
    for slots in parse(_readable(text)).slot_sets():
        if unknown := slots - DRAWN_SLOTS:
            raise ValueError(f"unknown slot {{{', '.join(sorted(unknown))}}}; known: {', '.join(sorted(DRAWN_SLOTS))}")
    return text


Text = Annotated[str, Field(min_length=2), AfterValidator(_readable)]
DrawnText = Annotated[str, Field(min_length=2), AfterValidator(_event_slots)]


class _Content(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


class Item(_Content):
    """A unit of the role's work: `one` order, `many` orders."""

    one: Text
    many: Text


class Section(_Content):
    """A section of a work sample; its kind decides what it leads with."""

    heading: Text
    kind: Kind


class Artifact(_Content):
    """A type of work sample of the role."""

    name: Text
    sections: list[Section] = Field(min_length=4)


class Said(_Content):
    """A sentence as the prompt shows it, and its gist: a noun phrase that a draft can carry on with."""

    says: DrawnText
    gist: DrawnText

    @model_validator(mode="after")
    def _nothing_new(self) -> Said:
        shown = {slot for slots in parse(self.says).slot_sets() for slot in slots}
        if new := {slot for slots in parse(self.gist).slot_sets() for slot in slots} - shown:
            raise ValueError(
                f"gist {self.gist!r} holds {sorted(new)}, which the prompt does not show; put it into says"
            )
        return self


class Option(_Content):
    """One of two ways to act. Noun phrases, but `doing` (an -ing phrase) and `because` (a clause)."""

    what: DrawnText
    doing: DrawnText
    gain: DrawnText
    cost: DrawnText
    because: DrawnText


class Assumption(_Content):
    """What must hold (a clause), and what is done otherwise (a main clause in the present)."""

    that: DrawnText
    otherwise: DrawnText


class Worry(_Content):
    """A colleague's objection (a clause) and what is done about it (a main clause)."""

    worry: Text
    reply: Text


class Case(_Content):
    """An event of the role's work, with everything that can be reasoned from it."""

    key: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
    at: list[str] = []
    """Kinds of companies (keys of the role's `kinds`) at which it can happen; empty for all."""
    title: list[Text] = Field(min_length=1)
    said: list[DrawnText] = Field(min_length=3)
    """How an applicant types it."""
    told: list[DrawnText] = Field(min_length=3)
    """How a work sample tells it: a clause, with the same slots."""
    named: list[DrawnText] = Field(min_length=2)
    """A noun phrase for it, with the same slots."""
    vague: list[Text] = Field(min_length=2)
    """What a weak draft makes of it."""
    means: list[DrawnText] = Field(min_length=3)
    """What follows from it: clauses."""
    options: list[Option] = Field(min_length=2, max_length=2)
    assume: list[Assumption] = Field(min_length=2)
    measure: Text
    """Plural noun phrase of what can be counted, fewer being better."""
    next: list[DrawnText] = Field(min_length=2)
    """First steps: verb phrases without "to"."""

    @model_validator(mode="after")
    def _same_slots(self) -> Case:
        wanted = self.slots
        for name in ("said", "told", "named"):
            for text in getattr(self, name):
                if any(found != wanted for found in parse(text).slot_sets()):
                    raise ValueError(
                        f"{self.key}: {name} must hold the slots {sorted(wanted)} in every wording: {text!r}"
                    )
        if insiders := [text for text in (*self.told, *self.named, *self.means) if _INSIDER.search(text)]:
            raise ValueError(
                f"{self.key}: told, named and means speak of nobody's own company (no we, our, me): {insiders}"
            )
        for text in self.told:
            if (least := parse(text).least_words()) < MIN_WORDS_A_SLOT * len(wanted):
                raise ValueError(
                    f"{self.key}: told has only {least} words beside {len(wanted)} slots; say more: {text!r}"
                )
        if len(wanted) < 2:
            raise ValueError(f"{self.key}: an event needs at least two slots; found {sorted(wanted)}")
        return self

    @property
    def slots(self) -> frozenset[str]:
        """The slots of the event: the anchors of a row that is about it."""
        return next(iter(parse(self.said[0]).slot_sets()))


class Role(_Content):
    """Everything that is particular to one role."""

    role: Annotated[str, Field(pattern=r"^[a-z][a-z /-]+$")]
    kinds: dict[str, Text] = Field(min_length=3)
    """Last word of a company's name -> what kind of place that is."""
    items: list[Item] = Field(min_length=2)
    colleagues: list[Text] = Field(min_length=5)
    artifacts: list[Artifact] = Field(min_length=3)
    skills: list[Text] = Field(min_length=10)
    profiles: list[Said] = Field(min_length=6)
    constraints: list[Said] = Field(min_length=8)
    stakes: list[Said] = Field(min_length=8)
    worries: list[Worry] = Field(min_length=5)
    cases: list[Case] = Field(min_length=6)

    @field_validator("cases")
    @classmethod
    def _keys_differ(cls, cases: list[Case]) -> list[Case]:
        keys = [case.key for case in cases]
        if twice := sorted({key for key in keys if keys.count(key) > 1}):
            raise ValueError(f"the key(s) {', '.join(twice)} stand twice")
        return cases

    @model_validator(mode="after")
    def _known_kinds(self) -> Role:
        unknown = {f"{case.key}: {one}" for case in self.cases for one in case.at if one not in self.kinds}
        if unknown:
            raise ValueError(
                f"at names no kind of this role: {', '.join(sorted(unknown))}; known: {', '.join(self.kinds)}"
            )
        return self

    @property
    def slug(self) -> str:
        """The role as part of a batch name."""
        return self.role.replace(" ", "-").replace("/", "-")


class Detail(_Content):
    """An odd thing that belongs to the applicant alone; `short` is a noun phrase for it."""

    key: Annotated[str, Field(pattern=r"^[a-z_]+$")]
    odd: Literal["animals", "plural", "thing"]
    said: list[Text] = Field(min_length=2)
    told: list[Text] = Field(min_length=3)
    short: Text


class Answers(_Content):
    """How an applicant types each kind of fact."""

    choice: list[Text]
    worry: list[Text]
    goal: list[Text]
    assumed: list[Text]
    next: list[Text]
    wish: list[Text]
    openers: list[str]
    joins: list[str]
    details: list[Detail] = Field(min_length=12)
    rubrics: dict[str, list[Text]]


class Names(_Content):
    """Pools of invented names and odd words."""

    people: list[str] = Field(min_length=100)
    company_first: list[str] = Field(min_length=20)
    company_second: list[str] = Field(min_length=20)
    company_denied: list[str]
    """Joined names that exist in the world and are never used."""
    places: list[str] = Field(min_length=50)
    weekdays: list[str]
    months: list[str]
    spans: list[str]
    odd_animals: list[str] = Field(min_length=20)
    odd_colours: list[str] = Field(min_length=20)
    odd_things: list[str] = Field(min_length=30)
    odd_plurals: list[str] = Field(min_length=30)


Moves = dict[str, dict[str, list[Text]]]
"""Move -> voice, or `any` -> patterns."""


class World(_Content):
    """The whole content, in the order of the files' names."""

    roles: list[Role]
    answers: Answers
    names: Names
    moves: Moves

    def role(self, name: str) -> Role | None:
        """The role of this name, if there is one."""
        return next((one for one in self.roles if one.role == name), None)


def load_world(folder: Path = WORLD_FOLDER) -> World:
    """All content files, read once for each folder.

    Raises:
        ConfigError: every problem of every file at once, each with the file and the field.
    """
    return _load(folder)


@cache
def _load(folder: Path) -> World:
    found: list[str] = []
    roles = [_read(Role, path, found) for path in sorted(folder.glob("*.yaml"))]
    answers = _read(Answers, folder / "shared" / "answers.yaml", found)
    names = _read(Names, folder / "shared" / "names.yaml", found)
    moves: Moves = {}
    for path in sorted((folder / "shared").glob("moves_*.yaml")):
        moves |= _read_moves(path, found)
    if not roles:
        found.append(f"world: {folder} holds no role. Expected one .yaml file a role. Add one, or restore the folder.")
    if found:
        raise ConfigError(found)
    return World.model_construct(roles=roles, answers=answers, names=names, moves=moves)


def _read(model: type[BaseModel], path: Path, found: list[str]):
    try:
        return model.model_validate(read_yaml(path, "world"))
    except ValidationError as error:
        found += problems(error, model, "world", f"{path.parent.name}/{path.name}")
    except ConfigError as error:
        found += error.problems
    return None


def _read_moves(path: Path, found: list[str]) -> Moves:
    try:
        moves = TypeAdapter(Moves).validate_python(read_yaml(path, "world"))
    except ValidationError as error:
        found += problems(error, World, "world", f"{path.parent.name}/{path.name}")
        return {}
    except ConfigError as error:
        found += error.problems
        return {}
    for name, voices in moves.items():
        if unknown := sorted(voices.keys() - {"any", *VOICES}):
            found.append(
                f"world: {path.name}: {name}: {', '.join(unknown)} is no voice. Known: any, {', '.join(VOICES)}."
            )
        if not voices.get("any"):
            found.append(f"world: {path.name}: {name} has no wording under `any`. Add some that serve every voice.")
    return moves


def wordings(patterns: Iterable[str]) -> int:
    """How many different sentences the patterns make, slots left as they are."""
    return sum(parse(text).forms() for text in patterns)
