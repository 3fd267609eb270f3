"""Faithfulness anchors: distinctive tokens of an input that must stand in the text made from it, and be used there.

A tester of the story asked for rabbits "so I know my answers are in the document", and got none. A token in a bare list
at the end would have satisfied a search for it: so an anchor counts where a sentence uses it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from data_contracts.audit import sentences as prose

MIN_OTHER_WORDS = 4
"""Words that a sentence must have beside the anchors in it, ..."""
OTHER_WORDS_AN_ANCHOR = 3
"""... and this many for each: an anchor in a bare list is pasted, not used, and a model that may paste learns to append."""
MOST_ANCHORS = 12
_FIRST_MARK = 0xE001
"""Private-use characters stand for anchors while sentences are told apart: an anchor may hold a full stop."""
_MARK = re.compile(f"[{chr(_FIRST_MARK)}-{chr(_FIRST_MARK + MOST_ANCHORS - 1)}]")


def problem(texts: Sequence[str], anchors: Sequence[str]) -> str:
    """What is wrong with the anchors in some texts (a target, or the strings of a JSON target); empty when all are used."""
    if not anchors:
        return "the row names no anchor"
    used, seen = _found(texts, anchors)
    if lost := [one for index, one in enumerate(anchors) if index not in seen]:
        return f"lacks the anchor {', '.join(map(repr, lost))}"
    if listed := [one for index, one in enumerate(anchors) if index not in used]:
        return f"lists the anchor {', '.join(map(repr, listed))} and does not use it in a sentence"
    return ""


def _found(texts: Sequence[str], anchors: Sequence[str]) -> tuple[set[int], set[int]]:
    """Places of the anchors that a sentence uses, and of those that stand anywhere."""
    used: set[int] = set()
    seen: set[int] = set()
    longest_first = sorted(range(len(anchors)), key=lambda index: -len(anchors[index]))
    for text in texts:
        marked = "\n".join(
            line if prose.HEADING.match(line) else prose.without_emphasis(line) for line in text.splitlines()
        )
        for index in longest_first:
            marked = prose.replaced(marked, anchors[index], f" {chr(_FIRST_MARK + index)} ")
        seen |= _marks(marked)
        for sentence in prose.sentences(marked):
            if held := _marks(sentence):
                others = prose.words(sentence)
                enough = len(others) >= max(MIN_OTHER_WORDS, OTHER_WORDS_AN_ANCHOR * len(held))
                used |= held if enough and prose.is_prose(sentence) else set()
    return used, seen


def _marks(text: str) -> set[int]:
    return {ord(one) - _FIRST_MARK for one in _MARK.findall(text)}
