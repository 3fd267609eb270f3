"""Plain English text taken apart with regular expressions: sentences, words, word n-grams, whether words are prose at all."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

HEADING = re.compile(r"^\s*(?:#{1,6}\s.*|\*\*[^*]+\*\*:?|__[^_]+__:?)\s*$")
"""A Markdown heading, or a line that is bold from end to end."""
LIST_MARKER = re.compile(r"^\s*(?:[-*•–]|\d{1,2}[.)])\s+")
_EMPHASIS = re.compile(r"\*+|(?<!\w)_+|_+(?!\w)|`")
_MAY_EMPHASISE = re.compile(r"[*_`]")
_MAY_END = re.compile(r"[.!?][\"'”’)\]]*\s")
_ABBREVIATION = re.compile(
    r"\b(?:e\.g|i\.e|vs|etc|approx|dr|mr|mrs|ms|st|inc|co|ltd|a\.m|p\.m|u\.s|u\.k)\.(?=\s)", re.IGNORECASE
)
_END = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+(?=[\"'“‘(\[]?[A-Z0-9\uE001-\uE0FE])")
_PLACED = "\ue0ff"
"""Stands for the full stop of an abbreviation while sentences are told apart; a private-use character."""
WORD = re.compile(r"\w+(?:[’'\-]\w+)*")

FUNCTION_WORDS = frozenset(
    WORD.findall(
        "a an the this that these those it its i we you he she they my our your their his her me us them who which what "
        "is are was were be been being am has have had do does did will would can could should may might must "
        "of to in on at by for from with without into onto over under about as than then so because while when where if "
        "and or but not no nor yet both each every any all some there here"
    )
)
"""Words that hold a sentence together. A list of keywords has none of them."""
_LINKS = FUNCTION_WORDS.union(
    WORD.findall(
        "across during between after before against through until since per near off up down out around above below beside "
        "again more most less least much many few other such own same only just even still also very too whose whom how why "
        "whoever whatever nobody nothing somebody anyone everything everyone one two three first last next let make makes "
        "made get gets go goes went come comes came say says said whereas although though"
    )
)
_TOKEN = re.compile(rf"{WORD.pattern}|[^\w\s]")
LONG_SENTENCE_WORDS = 30
"""A longer sentence repeats its small words anyway."""
MOST_IN_A_ROW = 7
"""Measured with names counted: the hand-written answers have at most 5 such words in a row, 13,000 built sentences at most 6,
but for two in a thousand with a long name."""


def without_emphasis(text: str) -> str:
    """The text without Markdown's marks of stress and code."""
    return _EMPHASIS.sub("", text) if _MAY_EMPHASISE.search(text) else text


def lines(text: str, headings: bool = False) -> list[str]:
    """The lines with something on them, without list markers and emphasis; headings only when asked for."""
    found = []
    for line in text.splitlines():
        if HEADING.match(line):
            bare = without_emphasis(line).strip().lstrip("#").strip() if headings else ""
        else:
            bare = without_emphasis(LIST_MARKER.sub("", line)).strip()
        if bare:
            found.append(bare)
    return found


def sentences(text: str, headings: bool = False) -> list[str]:
    """The sentences in order. A line ends one; a heading is none, unless asked for."""
    found = []
    for line in lines(text, headings):
        if not _MAY_END.search(line):
            found.append(line)
        else:
            held = _ABBREVIATION.sub(lambda one: one.group()[:-1] + _PLACED, line)
            found += [one.replace(_PLACED, ".").strip() for one in _END.split(held) if one.strip()]
    return found


def words(text: str) -> list[str]:
    """The words in small letters; a number is a word, and so is what an apostrophe or a hyphen joins."""
    return WORD.findall(text.lower())


def content_words(some: Iterable[str]) -> list[str]:
    """Those that carry meaning."""
    return [word for word in some if word not in FUNCTION_WORDS]


def is_prose(text: str) -> bool:
    """Words that could be a sentence: one of them at least holds it together, they are not one word over and over, and
    nowhere do MOST_IN_A_ROW of them (capitals apart, which are names) stand in a row with nothing that links them, as
    keywords do."""
    some = words(text)
    if FUNCTION_WORDS.isdisjoint(some) or 2 * len(set(some)) <= min(len(some), LONG_SENTENCE_WORDS):
        return False
    in_a_row = 0
    for one in _TOKEN.findall(text):
        if not one[0].isalnum() or one.lower() in _LINKS:
            in_a_row = 0
        elif not one[0].isupper():
            in_a_row += 1
        if in_a_row >= MOST_IN_A_ROW:
            return False
    return True


def ngrams(some: Sequence[str], size: int) -> list[tuple[str, ...]]:
    """Every run of `size` words, in order."""
    return [tuple(some[start : start + size]) for start in range(len(some) - size + 1)]


def places(phrase: str, text: str) -> list[tuple[int, int]]:
    """(start, end) of each place where the phrase stands as whole tokens, whatever its case.

    Without a regular expression: a set has tens of thousands of different phrases, and each would have to be compiled.
    """
    low, wanted = text.lower(), phrase.lower()
    if len(low) != len(text) or not wanted:  # a letter whose small form is longer would move the places
        return [one.span() for one in standing(phrase).finditer(text)] if wanted else []
    found, start = [], low.find(wanted)
    while start >= 0:
        end = start + len(wanted)
        if not (_joins(low[start - 1 : start], wanted[0]) or _joins(wanted[-1], low[end : end + 1])):
            found.append((start, end))
        start = low.find(wanted, start + 1)
    return found


def _joins(one: str, other: str) -> bool:
    """Whether two neighbouring characters belong to one token."""
    return all(part and (part.isalnum() or part == "_") for part in (one, other))


def stands(phrase: str, text: str) -> bool:
    """The phrase stands in the text as whole tokens."""
    return bool(places(phrase, text))


def replaced(text: str, phrase: str, by: str) -> str:
    """The text with every such place replaced."""
    parts, last = [], 0
    for start, end in places(phrase, text):
        if start >= last:
            parts += [text[last:start], by]
            last = end
    return "".join([*parts, text[last:]]) if parts else text


@lru_cache(4096)
def standing(phrase: str) -> re.Pattern[str]:
    """The same as a pattern, for a phrase that is looked for again and again; white space may be a line break."""
    inner = r"\s+".join(re.escape(part) for part in phrase.split())
    return re.compile(rf"(?<!\w){inner}(?!\w)", re.IGNORECASE)
