"""The pattern language of the world's content files, and the tidying that makes its fragments sentences.

`[a|b|c]` is one of several wordings, and may hold others; `{name}` is a slot. `\\n` in a slot's value is kept as it is.
Everything drawn comes from the one `random.Random` that the caller hands in, so the same seed gives the same bytes.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from functools import cache

Slots = Mapping[str, str]

_PIECES = re.compile(r"[\[\]|]|\{[a-z_0-9]+\}|[^\[\]|{}]+|[{}]")
_WORD = re.compile(r"\w+(?:['’-]\w+)*")
_SLOT = re.compile(r"\{([a-z_0-9]+)\}")
# Words that begin with a vowel letter and a consonant sound, or the other way round.
_CONSONANT_SOUND = re.compile(r"(?:uni(?!n|mp)|us[eu]|one\b|once|eu|ut[ei]n|uk)", re.IGNORECASE)
_VOWEL_SOUND = re.compile(
    r"(?:[aeiou]|hour|honest|honou?r|heir|8|11\b|18\b|fmea|hr\b|mri\b|sla\b|sms\b|rfp\b|nda\b)", re.IGNORECASE
)
_ARTICLE = re.compile(r"\b([Aa])n? (?=([\"'“‘(]?)([A-Za-z0-9][\w'-]*))")
_SENTENCE_START = re.compile(r"(^|[.!?][\"”']? |\n)([\"“']?)([a-z])")


class Pattern:
    """A parsed pattern: a list whose items are text, a slot (a 1-tuple) or alternatives (a list of patterns)."""

    __slots__ = ("parts",)

    def __init__(self, parts: list) -> None:
        self.parts = parts

    def forms(self) -> int:
        """How many different wordings the pattern has, slots left as they are."""
        total = 1
        for part in self.parts:
            if isinstance(part, list):
                total *= sum(one.forms() for one in part)
        return total

    def say(self, slots: Slots, rng: random.Random) -> str:
        """One wording, drawn evenly over each bracket."""
        said = []
        for part in self.parts:
            if isinstance(part, str):
                said.append(part)
            elif isinstance(part, tuple):
                said.append(slots[part[0]])
            else:
                said.append(part[int(rng.random() * len(part))].say(slots, rng))
        return "".join(said)

    def wordings(self) -> list[list[str]]:
        """Every wording as the pieces of text around its slots."""
        found: list[list[str]] = [[""]]
        for part in self.parts:
            if isinstance(part, str):
                found = [[*one[:-1], one[-1] + part] for one in found]
            elif isinstance(part, tuple):
                found = [[*one, ""] for one in found]
            else:
                more = [pieces for option in part for pieces in option.wordings()]
                found = [[*one[:-1], one[-1] + pieces[0], *pieces[1:]] for one in found for pieces in more]
        return found

    def least_words(self) -> int:
        """Words of the shortest wording, slots not counted."""
        least = 0
        for part in self.parts:
            if isinstance(part, str):
                least += len(_WORD.findall(part))
            elif isinstance(part, list):
                least += min(one.least_words() for one in part)
        return least

    def slot_sets(self) -> set[frozenset[str]]:
        """The sets of slots that the wordings use: one set where every wording uses the same."""
        found: set[frozenset[str]] = {frozenset()}
        for part in self.parts:
            if isinstance(part, tuple):
                found = {one | {part[0]} for one in found}
            elif isinstance(part, list):
                more = set().union(*(one.slot_sets() for one in part))
                found = {one | other for one in found for other in more}
        return found


@cache
def parse(text: str) -> Pattern:
    """The pattern of a text.

    Raises:
        ValueError: a bracket or a brace without its partner, or a `|` outside brackets.
    """
    pieces = _PIECES.findall(text)
    pattern, rest = _sequence(pieces, 0, depth=0)
    if rest != len(pieces):
        raise ValueError(f"{pieces[rest]!r} has no partner in {text!r}")
    return pattern


def _sequence(pieces: list[str], at: int, depth: int) -> tuple[Pattern, int]:
    parts: list = []
    while at < len(pieces):
        piece = pieces[at]
        if piece == "[":
            options = []
            while piece != "]":
                option, at = _sequence(pieces, at + 1, depth + 1)
                options.append(option)
                if at >= len(pieces):
                    raise ValueError(f"'[' has no partner in {''.join(pieces)!r}")
                piece = pieces[at]
            parts.append(options)
        elif piece in "]|" and depth:
            return Pattern(parts), at
        elif piece in "]|{}":
            raise ValueError(f"{piece!r} has no partner in {''.join(pieces)!r}")
        else:
            slot = _SLOT.fullmatch(piece)
            parts.append((slot[1],) if slot else piece)
        at += 1
    return Pattern(parts), at


def say(text: str, slots: Slots, rng: random.Random) -> str:
    """One wording of a pattern with its slots filled."""
    return parse(text).say(slots, rng)


def pick(options: Sequence, rng: random.Random):
    """One of the options, each as likely."""
    return options[int(rng.random() * len(options))]


def with_articles(text: str) -> str:
    """`a` or `an`, as the sound of the next word asks."""

    def article(match: re.Match) -> str:
        word = match[3]
        vowel = _VOWEL_SOUND.match(word) and not _CONSONANT_SOUND.match(word)
        return f"{match[1]}n " if vowel else f"{match[1]} "

    return _ARTICLE.sub(article, text)


def capitalised(text: str) -> str:
    """The text with a capital at the start of each sentence and of each line."""
    return _SENTENCE_START.sub(lambda match: match[1] + match[2] + match[3].upper(), text)


def sentence(text: str) -> str:
    """A clause as a sentence: a capital, one closing mark, the right articles."""
    text = with_articles(" ".join(text.split())).replace("..", ".").replace(".;", ";").replace(".,", ",")
    if not text.endswith((".", "!", "?", '."', '?"')):
        text += "."
    return capitalised(text)
