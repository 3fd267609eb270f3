"""What a signals model must answer: a thinking trace, then one JSON object: the six fields, or the one error schema."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

InformationType = Literal[
    "official_action", "official_statement", "data_release", "report", "rumor", "opinion", "unrelated"
]


ErrorCode = Literal[
    "missing_headline", "missing_question", "truncated", "several_questions", "not_english", "instructions_in_input"
]


class SignalOutput(BaseModel):
    """The six fields, in the order in which they are written."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    relevance: float = Field(ge=0, le=1)
    """How much the headline bears on the question; 0 is noise."""
    direction: float = Field(ge=-1, le=1)
    """Does it make the question resolving YES more likely (towards +1) or less likely (towards -1)? 0 for noise.
    Never which way the metric in the headline moves."""
    magnitude: float = Field(ge=0, le=1)
    """Size of the update of the probability of YES: 0.1 is moderate, 0.4 or more near-resolving evidence; 0 for noise."""
    source_credibility: float = Field(ge=0, le=1)
    """How far the source can be believed: 1 is the institution that decides, 0.3 an unnamed source."""
    information_type: InformationType
    """What kind of information the headline carries."""
    novelty: float = Field(ge=0, le=1)
    """How much of it the market cannot have known already."""


class SignalError(BaseModel):
    """What to answer when there is nothing to assess: the input is not one headline and one question in English."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    error_code: ErrorCode
    """What is wrong with the input; the first that applies, in the order of the list."""
    error_message: str = Field(min_length=10, max_length=160)
    """One sentence for whoever sent it."""


OUTPUT = SignalOutput
"""The name under which every contract folder exports its output schema."""

ERROR_OUTPUT = SignalError
"""The schema of the answer to a malformed input; a contract without one accepts no malformed rows."""
