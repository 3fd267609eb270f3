"""Readiness reviews and talking points: JSON that speaks of the very draft that it was given.

A review follows from the draft's facts. Flaws are planted by the seed; scores are counted from them by `SCORE_COST`;
readiness follows from the lowest score; strengths, gaps, reasoning and the next step quote the draft or the answers.
"""

from __future__ import annotations

import json
import re

from tasks.recipes.proofkit_drafts import EVENTS, STEPS, TRADEOFFS, Draft, compose, compose_marked, flawed
from tasks.recipes.proofkit_facts import Brief
from tasks.recipes.proofkit_wording import pick, sentence

SCORE_COST = {  # flaw: (criterion, points off 5)
    "overclaim": ("honesty", 3), "disclosure": ("honesty", 2), "fictional": ("honesty", 2), "number": ("honesty", 2),
    "vague": ("specificity", 3), "filler": ("specificity", 1), "owner": ("specificity", 1),
    "tradeoff": ("evidence", 2), "onesided": ("evidence", 2), "assumption": ("evidence", 1), "next": ("specificity", 1),
    "check": ("evidence", 1),
}  # fmt: skip
"""In the order of severity in which gaps are named."""
READY_SCORE, NOT_READY_SCORE = 4, 2
"""ready: no score below 4. not ready: a score of 2 or less. Everything between is almost ready."""
_MILD = (("disclosure",), ("fictional",), ("number",), ("tradeoff",), ("onesided",), ("assumption", "filler"), ("tradeoff", "filler"),
         ("onesided", "next"), ("disclosure", "assumption"), ("fictional", "filler"), ("number", "next"))  # fmt: skip
_SEVERE = (("overclaim",), ("vague",), ("vague", "filler"), ("overclaim", "filler"), ("vague", "disclosure"), ("overclaim", "tradeoff"),
           ("disclosure", "number"), ("tradeoff", "assumption", "disclosure"), ("vague", "onesided"), ("overclaim", "assumption"),
           ("disclosure", "number", "filler"), ("onesided", "assumption"), ("tradeoff", "assumption"))  # fmt: skip
_MINOR = ((), ("filler",), ("next",), ("assumption",), ())
CRITERIA = ("specificity", "evidence", "honesty")
SHORTEST_QUOTE_WORDS, LONGEST_QUOTE_WORDS = 6, 18
_LEAD = re.compile(r"(?!Assumption)(?:\S+ ){0,8}\S+$")
"""What may stand before a colon only to lead up to what follows."""


def review(brief: Brief) -> tuple[Brief, str, str]:
    """(the brief as the prompt tells it, the draft under review, the review as JSON)."""
    rng = brief.words.rng
    brief = brief.with_facts(*(("goal",) if "count" in brief.case.slots and rng.random() < 0.35 else ()))
    good = compose(brief)
    planted = _flaws(brief, good, pick((_MINOR, _MILD, _SEVERE), rng))
    if "fictional" in planted:
        good = compose_marked(brief)
        planted = tuple(flaw for flaw in planted if _possible(good, flaw))
    draft, quotes = good, {}
    for flaw in planted:
        draft, quotes[flaw] = flawed(brief, draft, flaw)
    gaps = [*planted, *([] if planted and rng.random() < 0.7 else _minor_gaps(brief, draft))]
    gaps = [flaw for flaw in SCORE_COST if flaw in gaps][:3]
    return brief, draft.text(), _Review(brief, draft, gaps, quotes).as_json()


def readiness(scores: dict[str, int]) -> str:
    """The verdict that the scores ask for."""
    lowest = min(scores.values())
    return "ready" if lowest >= READY_SCORE else "not ready" if lowest <= NOT_READY_SCORE else "almost ready"


def scores_of(gaps: list[str]) -> dict[str, int]:
    """5 for each criterion, less what the gaps cost; at least 1."""
    off = {one: sum(SCORE_COST[gap][1] for gap in gaps if SCORE_COST[gap][0] == one) for one in CRITERIA}
    return {one: max(1, 5 - lost) for one, lost in off.items()}


def _flaws(brief: Brief, good: Draft, sets: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
    possible = [some for some in sets if all(_possible(good, flaw) for flaw in some)]
    return pick(possible, brief.words.rng)


def _possible(good: Draft, flaw: str) -> bool:
    """Whether the draft has what the flaw spoils."""
    wanted = {"number": ("goal",), "next": ("next",), "vague": EVENTS, "tradeoff": TRADEOFFS, "onesided": TRADEOFFS}
    return flaw not in wanted or good.find(wanted[flaw]) is not None


def _minor_gaps(brief: Brief, draft: Draft) -> list[str]:
    found = [] if draft.find(("check", "goal", "flaw_result")) else ["check"]
    found += ["owner"] if draft.find(STEPS) else []
    return [pick(found, brief.words.rng)] if found else ["owner" if draft.find(STEPS) else "next"]


class _Review:
    """One review, written from what the draft has and lacks."""

    def __init__(self, brief: Brief, draft: Draft, gaps: list[str], quotes: dict[str, str]) -> None:
        self.brief, self.draft, self.gaps = brief, draft, gaps or _minor_gaps(brief, draft)
        self.words = brief.words.having(**{f"quote_{flaw}": excerpt(text) for flaw, text in quotes.items()})
        self.rng = brief.words.rng

    def as_json(self) -> str:
        """The object in the schema's order."""
        scores = scores_of(self.gaps)
        strengths = self._strengths()
        answer = {
            "readiness": readiness(scores),
            "scores": scores,
            "strengths": [sentence(self._say(f"strength_{one}", one)) for one in strengths],
            "gaps": [sentence(self._say(f"gap_{one}", one)) for one in self.gaps],
            "reasoning": self._reasoning(scores, strengths),
            "next_step": sentence(self._say(f"next_{self.gaps[0]}", self.gaps[0])),
        }
        return json.dumps(answer, ensure_ascii=False)

    def _say(self, move: str, about: str) -> str:
        quote = self.words.patterns.get(f"quote_{about}")
        if quote is None:
            quote = quoted(self.draft, about)
        return self.brief.move(move, quote=quote)

    def _strengths(self) -> list[str]:
        """What the draft has; the event first, because a review must show that it was read."""
        gaps = set(self.gaps)
        has = [one for one, moves in _SHOWN.items() if self.draft.find(moves) and not gaps & _SPOILED_BY.get(one, set())]
        if not {"disclosure", "fictional", "overclaim", "number"} & gaps:
            has.append("honest")
        first = [one for one in has if one == "told"] or [one for one in has if one in ("worry", "detail")][:1]
        others = [one for one in has if one not in first]
        self.rng.shuffle(others)
        return (first + others)[: 2 if len(gaps) == 3 or self.rng.random() < 0.6 else 3]

    def _reasoning(self, scores: dict[str, int], strengths: list[str]) -> str:
        """A verdict and two or three reasons. Their number is drawn without a look at the scores: a long reasoning must
        not give the readiness away."""
        verdict = {"ready": "verdict_ready", "almost ready": "verdict_almost", "not ready": "verdict_not"}[readiness(scores)]
        best = [self.brief.move("best_lead", point=self._say(f"best_{one}", one)) for one in strengths[:2]]
        worst = [self.brief.move("worst_lead", point=self._say(f"worst_{one}", one)) for one in self.gaps[:2]]
        parts = [best[0], worst[0]] if self.rng.random() < 0.6 else [worst[0], best[0]]
        more = self.rng.random()
        if more < 0.35:
            parts.append(worst[1] if len(worst) > 1 and self.rng.random() < 0.5 else best[1])
        elif more < 0.7:
            parts.append(self.brief.move("reason_depth"))
        return " ".join(map(sentence, [self.brief.move(verdict), *parts]))


_SHOWN = {
    "told": EVENTS, "tradeoff": TRADEOFFS, "assumption": ("assumption",), "worry": ("worry",), "detail": ("detail",),
    "goal": ("goal",), "meaning": ("meaning",), "next": STEPS,
}  # fmt: skip
_SPOILED_BY = {"next": {"owner", "next"}, "goal": {"number"}, "told": {"vague"}}


def quoted(draft: Draft, about: str) -> str:
    """The draft's own words on something, short enough to quote; empty where it has none."""
    line = draft.find(_SHOWN.get(about, ()))
    return excerpt(line.text) if line else ""


def excerpt(text: str) -> str:
    """The telling part of a line's first statement: what follows its colon, else its clauses up to a fair length."""
    stated = [one for one in re.split(r"(?<=[.!?]) (?=[A-Z0-9])", text) if not one.endswith("?")]
    first = stated[0].rstrip(".")
    lead, colon, rest = first.partition(": ")
    if colon and len(rest.split()) >= SHORTEST_QUOTE_WORDS and (_LEAD.match(lead) or len(first.split()) > LONGEST_QUOTE_WORDS):
        first = rest
    clauses = re.split(r"(?<=[,;:]) ", first)
    kept = clauses[0]
    for clause in clauses[1:]:
        if len(kept.split()) >= SHORTEST_QUOTE_WORDS and len(f"{kept} {clause}".split()) > LONGEST_QUOTE_WORDS:
            break
        kept = f"{kept} {clause}"
    return kept.rstrip(",;:")


def talking_points(brief: Brief) -> tuple[Brief, str, str]:
    """(the brief as the prompt tells it, the finished draft, three talking points and a note as JSON)."""
    rng = brief.words.rng
    draft = compose(brief)
    has = [one for one in ("worry", "detail", "goal", "assumption", "next", "meaning") if draft.find(_SHOWN[one])]
    rng.shuffle(has)
    told_facts = [one for one in has if one in brief.facts]
    others = [one for one in has if one not in told_facts]
    chosen = ["told", "tradeoff", *told_facts, *others][:3] if rng.random() < 0.6 else ["told", *told_facts, "tradeoff", *others][:3]
    if rng.random() < 0.5:
        rng.shuffle(chosen)
    points = [_talking_point(brief, draft, one) for one in chosen]
    answer = {"talking_points": points, "honesty_note": sentence(brief.move("honesty_note"))}
    return brief, draft.text(), json.dumps(answer, ensure_ascii=False)


def _talking_point(brief: Brief, draft: Draft, about: str) -> dict[str, str]:
    skill = pick(brief.columns["skills"].split(", "), brief.words.rng)
    point = sentence(brief.move(f"point_{about}", skill=skill))
    intro = pick(brief.world.moves["evidence_intro"]["any"], brief.words.rng)
    evidence = sentence(brief.move(f"evidence_{about}", intro=intro, quote=quoted(draft, about)))
    return {"point": point, "evidence": evidence}
