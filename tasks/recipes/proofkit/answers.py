"""What the applicant typed: one to four casual sentences that tell the facts of a brief, in any order and any shape."""

from __future__ import annotations

import random

from tasks.recipes.proofkit.facts import Brief
from tasks.recipes.proofkit.wording import capitalised, pick, with_articles


def typed_answers(brief: Brief, wish: bool = False) -> str:
    """The text in the form: the event, and each fact that the brief says was told. `wish`: as a wish for a challenge."""
    answers, words, rng = brief.world.answers, brief.words, brief.words.rng
    event = words.one_of(answers.wish if wish else ["{said}"])
    parts = [words.one_of(getattr(answers, fact)) for fact in sorted(brief.facts - {"detail"})]
    if "detail" in brief.facts:
        parts.append(words.one_of(brief.detail.said))
    rng.shuffle(parts)
    parts.insert(0 if rng.random() < 0.6 else rng.randint(0, len(parts)), event)
    return _typed(parts, answers.openers, answers.joins, rng)


def _typed(parts: list[str], openers: list[str], joins: list[str], rng: random.Random) -> str:
    """The parts as one text, tidy or hasty. Hasty texts keep their small letters; names and "I" are as they are."""
    text = pick(openers, rng) + parts[0]
    hasty = rng.random() < 0.25
    for part in parts[1:]:
        joined = rng.random() < (0.35 if hasty else 0.15)
        if joined and not text.endswith(("?", ".")):
            text += pick(joins, rng) + part
        else:
            text += f"{'' if text.endswith(('?', '.')) else '.'} {part}"
    text = with_articles(text)
    if hasty:
        return text if rng.random() < 0.5 else f"{text}."
    return capitalised(text if text.endswith(("?", ".")) else f"{text}.")
