"""Facts that are known only when a row is asked, as further `Label: value` lines after the words of the prompt.

A small fine-tune knows the shapes of its prompts, not instructions (seed story "proofkit"): whatever a client wants to add
enters as such lines or not at all. A row holds them in one column of text, `context`, one line each.

One list of rules on a line serves the row contract (polars) and every prompt that is rendered (Python): each is a regular
expression that Rust and Python read alike, tried on one line.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from data_contracts.prompting import markers

if TYPE_CHECKING:
    import polars as pl

LINE = "{label}: {value}"
"""How a line is written: the style of every prompt's own lines. There is no other."""
MAX_LABEL_CHARS = 32
"""A label names a fact ("Market closes"); what is longer is a sentence, which belongs into a value."""
MAX_VALUE_CHARS = 200
"""Twice the longest hand-written headline (99 characters): a line holds a fact, not an article."""
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
    "a line is not 'Label: value'; begin it with a capital, write letters and digits, a colon, one space and the value; "
    "null for no line",
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
PRINTABLE = LineRule(
    markers.INVISIBLE, True, "a line holds invisible characters; decode the source as UTF-8 and strip them"
)
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


def problems(lines: Sequence[str | Line], own: Iterable[str]) -> dict[int, list[str]]:
    """Everything that is wrong with the lines, given as text or as pairs: number of the line -> what is wrong; what to do."""
    rules = (*RULES, own_label_rule(own))
    found, seen = {}, set()
    for number, line in enumerate(lines, start=1):
        text = as_text(line)
        if text is None:
            found[number] = [_given(line)]
            continue
        wrong = [rule.text for rule in rules if rule.broken_by(text)]
        if not isinstance(line, str) and ":" in line[0]:
            wrong.append("a label holds a colon; the first colon of a line ends its label, write another sign")
        label = text.partition(":")[0].strip().lower()
        if ":" in text and label in seen:
            wrong.append(TWICE)
        seen.add(label)
        if wrong:
            found[number] = wrong
    return found


def told(lines: Sequence[str | Line], wrong: dict[int, list[str]]) -> str:
    """The problems for people, one a line of text."""
    shown = {number: as_text(lines[number - 1]) or lines[number - 1] for number in wrong}
    return "\n".join(
        f"  - line {number} ({_short(repr(shown[number]))}): {what}"
        for number, found in wrong.items()
        for what in found
    )


def count_labels(texts: Iterable[str | None]) -> dict[str, int]:
    """Label -> how many texts of a `context` column hold it, the most frequent first."""
    found = Counter(line.partition(":")[0] for text in texts if text is not None for line in text.split("\n"))
    return dict(found.most_common())


def as_text(line: str | Line) -> str | None:
    """The line as a prompt shows it; None for what is neither text nor a pair of texts."""
    if isinstance(line, str):
        return line
    pair = isinstance(line, (tuple, list)) and len(line) == 2
    return LINE.format(label=line[0], value=line[1]) if pair and all(isinstance(part, str) for part in line) else None


def _given(line: object) -> str:
    types = line if isinstance(line, (tuple, list)) else [line]
    given = " and ".join(type(part).__name__ for part in types)
    return f"is {given or 'empty'}, not a label and a value; give both as text, as they shall be read"


def _short(shown: str) -> str:
    return shown if len(shown) <= SHOWN_CHARS else f"{shown[: SHOWN_CHARS - 3]}..."
