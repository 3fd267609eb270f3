"""Hand-written variants of held-out rows: the input changed in one way, so that the right answer follows from the old one.

They stand in examples/metamorphic.jsonl, one a line: `kind`; `of_headline` and `of_question`, which name the row of
heldout.jsonl; the whole changed input in `headline`, `question` and, where the row has lines, `context`; and for a kind that
replaces text `replaced`, a line "old => new" for each name or date. Everything wrong with the file is told at once.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from data_contracts.errors import ContractError
from data_contracts.paths import CONTRACTS_FOLDER
from data_contracts.rows.rows_file import read_rows

EXAMPLES = CONTRACTS_FOLDER / "signals" / "examples"
INPUT = ("headline", "question", "context")
KINDS = ("negated_question", "swapped_names", "moved_date", "reordered_context")
NAMED = ("kind", "of_headline", "of_question", "headline", "question")
COLUMNS = (*NAMED, "context", "replaced")
ARROW = " => "
STEM_CHARS = 5
"""Letters of a replaced name that may not occur any more, so that "Colombian" does not outlive "Colombia"."""
DATE_WORDS = (
    r"(?i)\d{4}-\d\d-\d\d|\b(?:jan(?:uary)?|feb(?:ruary)?|march|april|may|june|july|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?|spring|summer|autumn|winter|(?:mon|tues|wednes|thurs|fri|satur|sun)day|20\d\d)\b"
)
Row = Mapping[str, object]


@dataclass(frozen=True)
class Variant:
    """One line of the file."""

    kind: str
    row: tuple[str, str]
    """Headline and question of the row that was changed."""
    changed: dict[str, str | None]
    """The input afterwards, by column."""
    replaced: tuple[tuple[str, str], ...]
    """(old, new) for each text that was replaced."""


def load_variants(
    path: Path = EXAMPLES / "metamorphic.jsonl", heldout: Path = EXAMPLES / "heldout.jsonl"
) -> list[Variant]:
    """The variants, in the order of the file.

    Raises:
        ContractError: naming file, line, field and what to do, for every problem at once.
    """
    rows = {(str(row["headline"]), str(row["question"])): row for row in read_rows(heldout).iter_rows(named=True)}
    found: list[Variant] = []
    told: list[str] = []
    for number, line in enumerate(read_rows(path).iter_rows(named=True), start=1):
        one = _variant(line)
        seen = {(known.row, known.kind) for known in found}
        wrong = [one] if isinstance(one, str) else list(_problems(one, rows, heldout.name, seen))
        told += [f"  {path}:{number}: {what}" for what in wrong]
        if isinstance(one, Variant):
            found.append(one)
    if told:
        raise ContractError(
            f"metamorphic: {len(told)} problems in {len(found)} variants of {path.name}. Each line must change one row of "
            f"{heldout.name} in the one way that its kind says. Correct:\n" + "\n".join(told)
        )
    return found


def _variant(line: Row) -> Variant | str:
    unknown = [name for name, value in line.items() if name not in COLUMNS and value is not None]
    missing = [name for name in NAMED if not isinstance(line.get(name), str)]
    if unknown or missing:
        wrong = [f"{name}: nothing reads it; take it out" for name in unknown]
        return "; ".join(wrong + [f"{name}: is not text; write it" for name in missing])
    pairs = [pair.split(ARROW) for pair in str(line.get("replaced") or "").split("\n") if pair]
    if odd := [ARROW.join(pair) for pair in pairs if len(pair) != 2]:
        return f"replaced: {odd[0]!r} is not 'old{ARROW}new'; write one replacement on each line"
    changed = {name: None if line.get(name) is None else str(line[name]) for name in INPUT}
    return Variant(
        str(line["kind"]),
        (str(line["of_headline"]), str(line["of_question"])),
        changed,
        tuple((old, new) for old, new in pairs),
    )


def _problems(one: Variant, rows: Mapping[tuple[str, str], Row], where: str, seen: set) -> Iterator[str]:
    if one.kind not in KINDS:
        yield f"kind: {one.kind!r} is not one of {', '.join(KINDS)}; choose one"
        return
    if one.row not in rows:
        near = difflib.get_close_matches(one.row[0], [headline for headline, _ in rows], n=1)
        hint = f"did you mean {near[0]!r}, and is its question the same?" if near else "copy both from there"
        yield f"of_headline, of_question: no row of {where} has them; {hint}"
        return
    if (one.row, one.kind) in seen:
        yield f"kind: the row has a variant of kind {one.kind} already; delete one"
    row = rows[one.row]
    before = {name: row.get(name) for name in INPUT}
    if one.kind == "negated_question":
        yield from _negation_problems(one, row, before)
    elif one.kind == "reordered_context":
        yield from _order_problems(one, before)
    else:
        yield from _replacement_problems(one, before)


def _same(one: Variant, before: Row, *names: str) -> Iterator[str]:
    for name in names:
        if one.changed[name] != before[name]:
            yield f"{name}: differs from the row's, which kind {one.kind} must not change; copy the row's"
    if one.replaced:
        yield f"replaced: kind {one.kind} replaces no names or dates; take it out"


def _negation_problems(one: Variant, row: Row, before: Row) -> Iterator[str]:
    yield from _same(one, before, "headline", "context")
    if not row["direction"]:
        yield "kind: the row has no direction that could turn; negate the question of another row"
    if one.changed["question"] == before["question"]:
        yield "question: is the row's own; ask what is true exactly when the row's answer is NO"
    if "price" in str(before["context"]).lower():
        yield "kind: the row's context holds a price of YES, which would turn too; negate another row"


def _order_problems(one: Variant, before: Row) -> Iterator[str]:
    yield from _same(one, before, "headline", "question")
    lines, new = (str(text or "").split("\n") for text in (before["context"], one.changed["context"]))
    if len(lines) < 2:
        yield "kind: the row has fewer than two context lines; reorder those of another row"
    elif sorted(lines) != sorted(new):
        yield "context: holds other lines than the row; only their order may change"
    elif lines == new:
        yield "context: has the row's own order; change it"


def _replacement_problems(one: Variant, before: Row) -> Iterator[str]:
    if not one.replaced:
        yield f"replaced: is empty; write a line 'old{ARROW}new' for each text that was replaced"
        return
    for name in INPUT:
        expected = replaced(before[name], one.replaced)
        if one.changed[name] != expected:
            yield f"{name}: is not the row's with the replacements made and nothing else; expected {expected!r}"
    whole_before, whole = ("\n".join(str(of[name] or "") for name in INPUT) for of in (before, one.changed))
    for old, new in one.replaced:
        if not re.search(_word(old), whole_before):
            yield f"replaced: {old!r} does not occur in the row; take it out"
        if re.search(_word(new), whole_before):
            yield f"replaced: {new!r} occurs in the row already, so two things would get one name; choose another"
        if one.kind == "moved_date" and not (re.search(DATE_WORDS, old) and re.search(DATE_WORDS, new)):
            yield f"replaced: {old + ARROW + new!r} is no date for a date; write days, months or years"
        if one.kind == "swapped_names" and (left := _trace_of(old, [new for _, new in one.replaced], whole)):
            yield f"replaced: {left!r} is left of {old!r}; replace every form of the name"


def _word(text: str) -> str:
    return rf"(?<!\w){re.escape(text)}(?!\w)"


def replaced(text: object, pairs: tuple[tuple[str, str], ...]) -> str | None:
    """A text with all replacements made at once, longer ones first; None for None."""
    if text is None:
        return None
    new = dict(pairs)
    pattern = "|".join(map(_word, sorted(new, key=len, reverse=True)))
    return re.sub(pattern, lambda found: new[found.group()], str(text))


def _trace_of(old: str, new: list[str], whole: str) -> str:
    """A word that begins as one of the old name's and is part of no new name; empty when none is left."""
    stems = {word[:STEM_CHARS].lower() for word in re.findall(r"\w{3,}", old)}
    allowed = {word.lower() for name in new for word in re.findall(r"\w+", name)}
    left = [word for word in re.findall(r"\w+", whole) if word[:STEM_CHARS].lower() in stems]
    return next((word for word in left if word.lower() not in allowed), "")
