"""Plain English text taken apart with regular expressions: sentences, words, word n-grams, whether words are prose at all."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

HEADING = re.compile(r"^\s*(?:#{1,6}\s.*|\*\*[^*]+\*\*:?|__[^_]+__:?)\s*$")
"""A Markdown heading, or a line that is bold from end to end."""
LIST_MARKER = re.compile(r"^\s*(?:[-*•–]|\d{1,2}[.)])\s+")
_EMPHASIS = re.compile(r"\*+|(?<!\w)_+|_+(?!\w)|`")
_ABBREVIATION = re.compile(
    r"\b(?:e\.g|i\.e|vs|etc|approx|dr|mr|mrs|ms|st|inc|co|ltd|a\.m|p\.m|u\.s|u\.k)\.(?=\s)", re.IGNORECASE
)
_END = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+(?=[\"'“‘(\[]?[A-Z0-9\uE001-\uE0FE])")
_PLACED = "\ue0ff"
"""Stands for the full stop of an abbreviation while sentences are told apart; a private-use character."""
WORD = re.compile(r"\w+(?:[’'\-]\w+)*")

FUNCTION_WORDS = frozenset(
    "a an the this that these those it its i we you he she they my our your their his her me us them who which what "
    "is are was were be been being am has have had do does did will would can could should may might must "
    "of to in on at by for from with without into onto over under about as than then so because while when where if "
    "and or but not no nor yet both each every any all some there here".split()
)
"""Words that hold a sentence together. A list of keywords has none of them."""


def lines(text: str, headings: bool = False) -> list[str]:
    """The lines with something on them, without list markers and emphasis; headings only when asked for."""
    found = []
    for line in text.splitlines():
        if HEADING.match(line):
            if headings:
                found.append(_EMPHASIS.sub("", line).strip().lstrip("#").strip())
            continue
        bare = _EMPHASIS.sub("", LIST_MARKER.sub("", line)).strip()
        if bare:
            found.append(bare)
    return found


def sentences(text: str, headings: bool = False) -> list[str]:
    """The sentences in order. A line ends one; a heading is none, unless asked for."""
    found = []
    for line in lines(text, headings):
        held = _ABBREVIATION.sub(lambda one: one.group()[:-1] + _PLACED, line)
        found += [one.replace(_PLACED, ".").strip() for one in _END.split(held) if one.strip()]
    return found


def words(text: str) -> list[str]:
    """The words in small letters; a number is a word, and so is what an apostrophe or a hyphen joins."""
    return WORD.findall(text.lower())


def content_words(some: Iterable[str]) -> list[str]:
    """Those that carry meaning."""
    return [word for word in some if word not in FUNCTION_WORDS]


def is_prose(some: Sequence[str]) -> bool:
    """Words that could be a sentence: one of them at least holds it together, and they are not one word over and over."""
    return any(word in FUNCTION_WORDS for word in some) and 2 * len(set(some)) > len(some)


def ngrams(some: Sequence[str], size: int) -> list[tuple[str, ...]]:
    """Every run of `size` words, in order."""
    return [tuple(some[start : start + size]) for start in range(len(some) - size + 1)]


def standing(phrase: str) -> re.Pattern[str]:
    """A pattern that finds the phrase as whole tokens, whatever its case and white space."""
    return _standing(" ".join(phrase.split()).lower())


_PATTERNS: dict[str, re.Pattern[str]] = {}


def _standing(phrase: str) -> re.Pattern[str]:
    found = _PATTERNS.get(phrase)
    if found is None:
        if len(_PATTERNS) > 4096:
            _PATTERNS.clear()
        inner = r"\s+".join(re.escape(part) for part in phrase.split(" "))
        found = _PATTERNS[phrase] = re.compile(rf"(?<!\w){inner}(?!\w)", re.IGNORECASE)
    return found
