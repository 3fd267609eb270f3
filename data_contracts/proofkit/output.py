"""What a proofkit model must answer. Review and talking points are JSON; every other task is text, held to house_rules.py."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, RootModel

Readiness = Literal["ready", "almost ready", "not ready"]
READINESS = get_args(Readiness)
Level = Annotated[int, Field(ge=1, le=5)]
"""1 is poor, 5 is excellent."""
Sentence = Annotated[str, Field(min_length=1, pattern=r"\S")]


class _Answer(BaseModel):
    """Frozen, no unknown key, no number written as text."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


class Scores(_Answer):
    """How the work stands, each from 1 to 5."""

    specificity: Level
    """Names people, things, amounts and days in place of words that fit any job."""
    evidence: Level
    """Shows what its claims rest on."""
    honesty: Level
    """Says what is fictional, what is assumed and what is not known."""


class Review(_Answer):
    """The readiness review of a work sample, in the order in which it is written."""

    readiness: Readiness
    """Whether it can be shown to a recruiter as it is."""
    scores: Scores
    """How it stands, by three criteria."""
    strengths: list[Sentence] = Field(min_length=2, max_length=3)
    """What is good, each with where it shows."""
    gaps: list[Sentence] = Field(min_length=1, max_length=3)
    """What is missing, the worst first."""
    reasoning: Sentence
    """Why it is as ready as it is."""
    next_step: Sentence
    """The one change to make first."""


class TalkingPoint(_Answer):
    """One thing to say in an interview."""

    point: Sentence
    """What to say."""
    evidence: Sentence
    """What in the work sample shows it."""


class TalkingPoints(_Answer):
    """Three things to say about a work sample, and how to stay honest about it."""

    talking_points: list[TalkingPoint] = Field(min_length=3, max_length=3)
    """The strongest first."""
    honesty_note: Sentence
    """How to say that the company is fictional and the work a practice piece."""


SCHEMAS: dict[str, type[_Answer]] = {"review": Review, "talking_points": TalkingPoints}
"""The tasks that are answered in JSON; every other task is answered in text."""


class ProofkitAnswer(RootModel[Review | TalkingPoints]):
    """Either of the two: what enters the digest of the prompt contract."""


OUTPUT = ProofkitAnswer
"""The name under which every contract folder exports its output schema."""
