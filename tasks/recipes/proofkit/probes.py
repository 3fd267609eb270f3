"""What answers of proofkit say about each other: the same row with other anchors, or another company, must give an answer that
follows (metamorphic checks: the right answer need not be known, only what must stand in it and what must not).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence

from data_contracts.audit import anchoring
from data_contracts.audit import sentences as prose
from data_contracts.proofkit.house_rules import anchors_of, strings
from data_contracts.proofkit.output import READINESS
from tasks.recipes.interface import Pairs, Row
from tasks.recipes.proofkit.parsing import Parsed, completion, parse_output

OTHER_NOUNS = (
    "zinc bucket", "tin whistle", "lemon crate", "cork board", "paper lantern", "wool sock", "clay pigeon", "glass marble",
    "willow basket", "rubber duck", "oak ladder", "brass thimble", "velvet stool", "copper kettle", "chalk line", "felt hat",
)  # fmt: skip
OTHER_NAMES = (
    "Ottilie", "Bartolo", "Ngozi", "Saskia", "Emrys", "Yusra", "Leopold", "Tamsin", "Ishaan", "Perpetua", "Rafaela", "Odhran",
)  # fmt: skip
OTHER_COMPANIES = (
    "Marigold Lock Works", "Pennyroyal Storage", "Seven Bells Laundry", "Ironbark Ferries", "Dunmore Kite House",
    "Tallow Street Supply", "Greywater Instruments", "Nettlefold Freight",
)  # fmt: skip
_NAME = re.compile(r"(?:\w+\.?\s)?[A-ZÀ-Þ]\w+")


def paired_measures(rows: Sequence[Row], parsed: Sequence[Parsed]) -> dict[str, tuple[str, Pairs]]:
    """Name of a measure -> (statistic of tasks/measures/bootstrap.py, the pairs it is taken over).

    Do the verdict and the scores of a review rise with those of the row's own review? 1 is the same order, 0 is none.
    """
    reviews = [
        (row, one.answer) for row, one in zip(rows, parsed, strict=True) if row["task"] == "review" and one.answer
    ]
    pairs = [(own, answer) for row, answer in reviews if (own := parse_output(completion(row), row).answer)]
    return {
        f"review_{name}_rank_correlation": (
            "rank_correlation",
            [(float(of(one)), float(of(other))) for one, other in pairs],
        )
        for name, of in (("readiness", _readiness), ("score", _mean_score))
    }


def _readiness(review: dict) -> int:
    return READINESS[::-1].index(review["readiness"])


def _mean_score(review: dict) -> float:
    return sum(review["scores"].values()) / len(review["scores"])


def variants(row: Row) -> dict[str, Row]:
    """The same row with its anchors, or its company, exchanged wherever they stand, in the target too."""
    swaps = {"swapped_anchors": _other_anchors(row), "swapped_company": _other_company(row)}
    return {kind: _exchanged(row, exchange) for kind, exchange in swaps.items()}


def holds(kind: str, before: Parsed, after: Parsed) -> bool:
    """Whether the answer followed its input: it holds everything that is new, and nothing that went."""
    if before.problem or after.problem:
        return False
    texts = [after.text] if after.answer is None else strings(after.answer)
    if kind == "swapped_company":
        new, old = [str(after.row["company"])], [str(before.row["company"])]
        told = any(prose.stands(new[0], one) for one in texts)
    else:
        new, old = anchors_of(after.row), anchors_of(before.row)
        told = not anchoring.problem(texts, new)
    return told and not any(prose.stands(one, text) for one in old for text in texts)


def _exchanged(row: Row, exchange: Mapping[str, str]) -> Row:
    """Longest first, so that no part of one is exchanged before the whole."""
    changed = dict(row)
    for name, value in row.items():
        if isinstance(value, str) and name not in ("task", "source_batch"):
            for old in sorted(exchange, key=len, reverse=True):
                value = prose.replaced(value, old, exchange[old])
            changed[name] = value
    return changed


def _other_anchors(row: Row) -> dict[str, str]:
    """Each anchor -> one of its kind that the row does not hold: a number changes its digits, a name becomes a name."""
    everything = "\n".join(str(value) for value in row.values()).lower()
    chosen: dict[str, str] = {}
    for place, anchor in enumerate(anchors_of(row)):
        pool = _like(anchor)
        start = _hash(f"{anchor} {place}") % len(pool)
        free = [
            one
            for one in (*pool[start:], *pool[:start])
            if one.lower() not in everything and one not in chosen.values()
        ]
        chosen[anchor] = free[0] if free else f"{pool[start]} {_hash(anchor) % 97 + 2}"
    return chosen


def _like(anchor: str) -> tuple[str, ...]:
    if any(one.isdigit() for one in anchor):
        turned = (_turned(anchor, by) for by in range(1, 9))
        return tuple(dict.fromkeys(one for one in turned if one != anchor))
    return OTHER_NAMES if _NAME.fullmatch(anchor) else OTHER_NOUNS


def _turned(anchor: str, by: int) -> str:
    """The anchor with other digits."""
    return re.sub(r"\d", lambda digit: str((int(digit.group()) + by) % 9 + 1), anchor)


def _other_company(row: Row) -> dict[str, str]:
    company = str(row["company"])
    start = _hash(company) % len(OTHER_COMPANIES)
    others = [one for one in (*OTHER_COMPANIES[start:], *OTHER_COMPANIES[:start]) if one != company]
    return {company: others[0]}


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
