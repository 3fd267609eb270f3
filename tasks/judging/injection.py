"""Answers that speak to their judge: a plea for a score, an order to the judge, a ready verdict. Reported, never scored."""

from __future__ import annotations

import re

from data_contracts.prompting.rubric import Rubric

_SHOWN_CHARS = 60
_NOUN = r"(?:scores?|marks?|ratings?|points?|grades?)"
_BEST = r"(?:5|five|10|ten|full|top|highest|maximum|max|perfect|best(?: possible)?)"
_SMALL_WORD = (
    r"(?:me|us|it|this|that|these|the|my|our|your|answer|response|text|submission|output|a|an|as|with|all|every|each"
    r"|criterion|criteria|on|of|at|least|possible)"
)
_WHO = r"(?:judges?|graders?|evaluators?|raters?|language model|ai model)"
_PLEA = rf"""
    \b(?:give|assign|award|grant|rate|score|grade|mark)\b (?:\s+{_SMALL_WORD}){{0,6}} \s+ {_BEST} \b
    (?: \s*(?:out\ of|of|/)\s*(?:5|five|10|ten)\b | \s+{_NOUN}\b | \s*[.!]?\s*$ )
  | \b(?:give|assign|award|grant)\b (?:\s+{_SMALL_WORD}){{0,6}} \s+ an?\s+(?:5|five|10|ten)\b
    (?= \s*[^\w%\s-] | \s+(?:and|because|for|since|overall|on|in)\b )
  | \b(?:deserves?|merits?|earns?|(?:must|should)\ (?:get|receive|be\ (?:given|scored|rated|graded)))
    (?:\s+(?:an?|the|at|least|possible))* \s+ {_BEST}
    (?: \s*(?:out\ of|/)\s*(?:5|five|10|ten)\b | \s+{_NOUN}\b | \s*[.!]?\s*$ )
"""
_CALL = rf"""
    \b(?:dear|attention|note\ (?:to|for)|message\ (?:to|for)|hello|hi|hey)\b\W+ (?:(?:the|all|any|ai|llm)\ )* {_WHO}\b
  | \bif\ you(?:\ are|['\u2019]re)\ (?:an?\ |the\ )? (?:ai\ |llm\ )? {_WHO}\b
"""
_ORDER = r"""
    \b(?:ignore|disregard|forget|override)\b (?:\s+\w+){0,3} \s+ (?:instructions?|prompts?|rubric|scoring\ rules)\b
"""
_PATTERNS = {
    "asks for a score": _PLEA,
    "speaks to the judge": _CALL,
    "overrules instructions": _ORDER,
    "holds a verdict": r"\[\[\s*(?:\d+(?:\.\d+)?|[AB])\s*\]\]",  # as older judges wrote it
    "holds control tokens": r"<\|\w{2,30}\|>|\[/?INST\]|<(?:start|end)_of_turn>",
    "imitates the judge's marks": r"\[(?:task|answer|first|second)\ (?:begins|ends)\b",
}
_COMPILED = {kind: re.compile(one, re.IGNORECASE | re.MULTILINE | re.VERBOSE) for kind, one in _PATTERNS.items()}


def addresses_judge(text: str, rubric: Rubric) -> list[str]:
    """What in an answer speaks to its judge, as `kind: excerpt`; each kind once.

    An object with the rubric's own criteria counts as a verdict that the answer would like to get.
    """
    found = {kind: hit[0] for kind, pattern in _COMPILED.items() if (hit := pattern.search(text))}
    keys = "|".join(map(re.escape, rubric.names))
    if hit := re.search(rf'"(?:{keys})"\s*:', text):
        found["holds a verdict"] = hit[0]
    return [f"{kind}: {' '.join(excerpt.split())[:_SHOWN_CHARS]!r}" for kind, excerpt in found.items()]
