"""Facts that are known only when a row is asked, as further `Label: value` lines after the words of the prompt.

A small fine-tune knows the shapes of its prompts, not instructions (seed story "proofkit"): whatever a client wants to add
enters as such lines or not at all. A row holds them in one column of text, `context`, one line each.

One list of rules on a line serves the row contract (polars) and every prompt that is rendered (Python): each is a regular
expression that Rust and Python read alike, tried on one line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from data_contracts import markers

if TYPE_CHECKING:
    import polars as pl

LINE = "{label}: {value}"
"""How a line is written: the style of every prompt's own lines. There is no other."""
MAX_LABEL_CHARS = 32
"""A label names a fact ("Market closes"); what is longer is a sentence, which belongs into a value."""
MAX_VALUE_CHARS = 200
"""Twice the longest hand-written headline (99 characters): a line holds a fact, not an article."""
INVISIBLE = "[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2064\ufeff\ufffd]"
"""Control characters, line breaks of every kind, and characters that hide or reorder text."""
LABEL = r"[A-Z][A-Za-z0-9()'%/&.-]*(?: [A-Za-z0-9()'%/&.-]+)*"
SHOWN_CHARS = 60
"""Characters of a wrong line that a message repeats."""
Line = tuple[str, str]
"""(label, value)"""


@dataclass(frozen=True)
class LineRule:
    """One rule on one line."""

    pattern: str
    broken_when: bool
    """Whether a line that the pattern finds breaks the rule, or one that it does not find."""
    text: str
    """What is wrong; what to do."""

    def broken_by(self, line: str) -> bool:
        """For Python."""
        return (re.search(self.pattern, line) is not None) == self.broken_when

    def kept(self, column: str) -> pl.Expr:
        """For polars: whether every line of a text keeps it; null for a null."""
        import polars as pl

        found = pl.element().str.contains(self.pattern)
        return pl.col(column).str.split("\n").list.eval(found == pl.lit(not self.broken_when)).list.all()


FORM = LineRule(
    rf"^{LABEL}: \S(?:.*\S)?$",
    False,
    "a line is not 'Label: value'; begin it with a capital, write letters and digits, a colon, one space and the value",
)
SHORT_LABEL = LineRule(
    rf"^[^:]{{{MAX_LABEL_CHARS + 1},}}:",
    True,
    f"a label is longer than {MAX_LABEL_CHARS} characters; name the fact in a few words",
)
SHORT_VALUE = LineRule(
    rf"^[^:]*: .{{{MAX_VALUE_CHARS + 1},}}$",
    True,
    f"a value is longer than {MAX_VALUE_CHARS} characters; a line holds one fact, cut it down",
)
NO_MARKER = LineRule(markers.ANY_MARKER, True, "a line holds chat-control text such as '<|' or '</think>'; drop it")
PRINTABLE = LineRule(INVISIBLE, True, "a line holds invisible characters; decode the source as UTF-8 and strip them")
RULES = (FORM, SHORT_LABEL, SHORT_VALUE, NO_MARKER, PRINTABLE)
OWN_LABEL = "a label is one of the prompt's own; rename the line, or write its value where the prompt has it"
TWICE = "a label stands twice; one line for each fact, numbered where there are several"


def own_label_rule(labels: Iterable[str]) -> LineRule:
    """The rule that no line may pass for one of the prompt's own."""
    names = "|".join(" +".join(map(re.escape, one.split())) for one in labels)
    return LineRule(rf"(?i)^\s*(?:{names})\s*:", True, OWN_LABEL)


def own_labels(template: str) -> list[str]:
    """The labels with which lines of a prompt's own text begin."""
    return [found.group(1) for line in template.splitlines() if (found := re.match(rf"({LABEL}):", line))]


def no_label_twice(column: str) -> pl.Expr:
    """For polars: whether the lines of a text have each a label of its own; null for a null."""
    import polars as pl

    labels = pl.col(column).str.to_lowercase().str.split("\n").list.eval(pl.element().str.extract(r"^\s*([^:]*?)\s*:"))
    return labels.list.drop_nulls().list.n_unique() == labels.list.drop_nulls().list.len()


def written(lines: Sequence[Line]) -> tuple[list[str], list[str]]:
    """The lines as text, and what is wrong with a pair before it is text, as `line 2 (...): what is wrong; what to do`."""
    texts, wrong = [], []
    for number, line in enumerate(lines, start=1):
        given = _given(line)
        if given:
            wrong.append(f"line {number} ({_short(repr(line))}): {given}")
        elif ":" in line[0]:
            wrong.append(f"line {number} ({_short(repr(line[0]))}): a label holds a colon; the first colon ends it")
        texts.append("" if given else LINE.format(label=line[0], value=line[1]))
    return texts, wrong


def problems(texts: Sequence[str], own: Iterable[str]) -> list[str]:
    """Everything that is wrong with lines of text, as `line 2 ('Headline: x'): what is wrong; what to do`."""
    rules = (*RULES, own_label_rule(own))
    found, seen = [], set()
    for number, text in enumerate(texts, start=1):
        wrong = [rule.text for rule in rules if rule.broken_by(text)]
        label = text.partition(":")[0].strip().lower() if ":" in text else None
        wrong += [TWICE] * (label is not None and label in seen)
        seen.add(label)
        found += [f"line {number} ({_short(repr(text))}): {what}" for what in wrong]
    return found


def _given(line: object) -> str:
    pair = isinstance(line, (tuple, list)) and len(line) == 2
    if pair and all(isinstance(part, str) for part in line):
        return ""
    given = " and ".join(type(part).__name__ for part in line) if pair else type(line).__name__
    return f"is {given}, not a label and a value; give both as text, as they shall be read"


def _short(shown: str) -> str:
    return shown if len(shown) <= SHOWN_CHARS else f"{shown[: SHOWN_CHARS - 3]}..."
