"""The proofkit world: any number of rows of the product's seven tasks, in which every target is made from the row's answers.

A row is drawn as (role, event, type of work sample), and a hash of the three decides for ever, whatever the seed, whether it
is trained on or held out; so are the names of companies and the odd things that applicants mention. Content stands in
data_contracts/proofkit/world (one file a role); how facts become text stands in the modules beside this one.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from functools import cache

from data_contracts.audit.sentences import stands
from data_contracts.errors import ConfigError
from tasks.recipes.proofkit import drafts as proofkit_drafts
from tasks.recipes.proofkit import reviews as proofkit_reviews
from tasks.recipes.proofkit import short as proofkit_short
from tasks.recipes.proofkit.answers import typed_answers
from tasks.recipes.proofkit.content import Role, World, load_world
from tasks.recipes.proofkit.facts import Brief, Deck, is_held_out
from tasks.recipes.proofkit.wording import parse

Row = dict[str, str | None]

TASK_CYCLE = (
    "draft", "revise", "talking_points", "draft", "review", "scenario", "draft", "bullets", "post", "draft", "revise",
    "talking_points", "draft", "review", "scenario", "draft", "bullets", "post", "revise", "review",
)  # fmt: skip
"""How the tasks share the rows: six drafts in twenty, three revisions, three reviews, two of each other."""
SHOWN = {  # task: columns of its prompt beside those that every task shows
    "draft": ("section", "stakes", "profile", "voice"),
    "revise": ("section", "voice", "rubric", "draft"),
    "review": ("draft",),
    "talking_points": ("profile", "draft"),
    "scenario": ("stakes", "voice"),
    "bullets": ("profile", "voice", "draft"),
    "post": ("profile", "voice", "draft"),
}
ANCHOR_MARK = " | "
MAX_REDRAWS = 20
"""Tries to fill one place: a row that repeats an earlier input is drawn again."""


def built_rows(n_train_rows: int, n_heldout_rows: int, seed: int) -> tuple[list[Row], list[Row]]:
    """(train, held-out) rows, spread evenly over tasks and roles; no input twice, no combination on both sides.

    Row k of a side depends on the seed and k alone, so a larger set begins with the smaller one.

    Raises:
        ConfigError: a content file is wrong; or the world has no new input left for one side.
    """
    deck = _deck()
    return list(_draw(deck, n_train_rows, seed, False)), list(_draw(deck, n_heldout_rows, seed, True))


def combination_of(row: Row) -> str:
    """`role|event|type of work sample`, read back from the row's text alone: the event by how its answers tell it."""
    role = load_world().role(str(row["role"]))
    if role is None:
        raise ValueError(f"proofkit world: {row['role']!r} is no role of the world.")
    typed = _bare(str(row["answers"]))
    found = [key for key, tellings in _tellings(role.role).items() if any(_tells(typed, pieces) for pieces in tellings)]
    if len(found) != 1:
        raise ValueError(f"proofkit world: answers tell {len(found)} events of {role.role}, expected 1: {found}.")
    return f"{role.role}|{found[0]}|{row['artifact_type']}"


@cache
def _deck() -> Deck:
    return Deck(load_world())


@cache
def _tellings(role_name: str) -> dict[str, list[list[str]]]:
    """Event -> the pieces of text of each way in which answers may tell it, in small letters."""
    role = load_world().role(role_name)
    assert role is not None, f"{role_name} is a role of the world"
    return {
        case.key: [
            [_bare(piece) for piece in pieces] for text in (*case.said, *case.told) for pieces in parse(text).wordings()
        ]
        for case in role.cases
    }


def _bare(text: str) -> str:
    """In small letters, with one article: what stands in a slot decides between "a" and "an"."""
    return re.sub(r"\ban\b", "a", text.lower())


def _tells(typed: str, pieces: list[str]) -> bool:
    """The pieces stand in the text in their order, with something between them."""
    if max(pieces, key=len) not in typed:
        return False
    at = 0
    for piece in pieces:
        at = typed.find(piece, at)
        if at < 0:
            return False
        at += len(piece) + 1
    return True


def _draw(deck: Deck, n_rows: int, seed: int, held_out: bool) -> Iterator[Row]:
    seen: set[tuple[str, str]] = set()
    for place, (task, role) in zip(range(n_rows), _places(deck.world, seed, held_out), strict=False):
        for attempt in range(MAX_REDRAWS):
            row = _row(deck, task, role, random.Random(f"{seed} {held_out} {place} {attempt}"), held_out)
            if (task, str(row["answers"])) not in seen:
                break
        else:
            side = "held-out" if held_out else "training"
            raise ConfigError(
                f"dataset: the proofkit world found no new input for {side} row {place + 1} of {n_rows:,} "
                f"({task}, {role.role}) in {MAX_REDRAWS} tries. Ask for fewer rows, or add events to the role's file."
            )
        seen.add((task, str(row["answers"])))
        yield row


def _places(world: World, seed: int, held_out: bool) -> Iterator[tuple[str, Role]]:
    """(task, role) without end: each block holds every pairing of the cycle's tasks with the roles once, shuffled."""
    block = 0
    while True:
        places = [(task, role) for task in TASK_CYCLE for role in world.roles]
        random.Random(f"{seed} {held_out} block {block}").shuffle(places)
        yield from places
        block += 1


def _row(deck: Deck, task: str, role: Role, rng: random.Random, held_out: bool) -> Row:
    brief = deck.brief(role, rng, held_out)
    rubric = None
    if task == "draft":
        draft, target = None, proofkit_drafts.compose(brief).text()
    elif task == "revise":
        brief, draft, rubric, target = proofkit_drafts.revision(brief)
    else:
        make = {
            "review": proofkit_reviews.review,
            "talking_points": proofkit_reviews.talking_points,
            "bullets": proofkit_short.bullets,
            "post": proofkit_short.post,
            "scenario": proofkit_short.scenario,
        }[task]
        brief, draft, target = make(brief)
    shown = {
        "section": brief.section, "voice": brief.voice, "rubric": rubric, "draft": draft,
        "stakes": brief.columns["stakes"], "profile": brief.columns["profile"],
    }  # fmt: skip
    return {
        "task": task,
        "role": role.role,
        "artifact_type": brief.artifact,
        "company": brief.words["company"],
        "constraint": brief.columns["constraint"],
        "skills": brief.columns["skills"],
        "answers": typed_answers(brief, wish=task == "scenario"),
        **{name: text if name in SHOWN[task] else None for name, text in shown.items()},
        "anchors": ANCHOR_MARK.join(_anchors(brief, target)),
        "target": target,
        "source_batch": f"built-{role.slug}",
    }


def _anchors(brief: Brief, target: str) -> list[str]:
    """What the applicant typed that stands in the target. A draft takes up all of it; a short piece may leave some out."""
    said = re.sub(r'^{"readiness.*?"strengths"', "", target)  # a score is no anchor
    return [one for one in brief.anchors() if stands(one, said)]


__all__ = ["built_rows", "combination_of", "is_held_out"]
