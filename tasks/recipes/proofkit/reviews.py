"""Readiness reviews and talking points: JSON that speaks of the very draft that it was given.

A review follows from the draft's facts. Flaws are planted by the seed; scores are counted from them by `SCORE_COST`;
readiness follows from the lowest score; strengths, gaps, reasoning and the next step quote the draft or the answers.
"""

from __future__ import annotations

import json
import random
import re

from tasks.recipes.proofkit.drafts import DISCLOSURES, EVENTS, STEPS, TRADEOFFS, Draft, compose, compose_marked, flawed
from tasks.recipes.proofkit.facts import Brief
from tasks.recipes.proofkit.wording import pick, sentence

SCORE_COST = {  # what is wrong: (criterion, points off 5)
    "overclaim": ("honesty", 3), "disclosure": ("honesty", 2), "fictional": ("honesty", 2), "number": ("honesty", 2),
    "vague": ("specificity", 3), "tradeoff": ("evidence", 2), "onesided": ("evidence", 2), "assumption": ("evidence", 1),
    "next": ("specificity", 1), "filler": ("specificity", 1), "check": ("evidence", 0), "owner": ("specificity", 0),
}  # fmt: skip
"""In the order in which gaps are named, the worst first. The last two cost nothing: they are what a good draft lacks."""
READY_SCORE, NOT_READY_SCORE = 4, 2
"""ready: no score below 4. not ready: a score of 2 or less. Everything between is almost ready."""
_MINOR = ((), (), (), ("filler",), ("next",), ("assumption",))
_MILD = (
    ("disclosure",), ("fictional",), ("number",), ("tradeoff",), ("onesided",), ("next", "filler"), ("tradeoff", "filler"),
    ("onesided", "next"), ("disclosure", "assumption"), ("fictional", "filler"), ("number", "next"),
)  # fmt: skip
_SEVERE = (
    ("overclaim",), ("vague",), ("vague", "filler"), ("overclaim", "filler"), ("vague", "disclosure"),
    ("overclaim", "tradeoff"), ("disclosure", "number"), ("tradeoff", "assumption", "disclosure"), ("vague", "onesided"),
    ("overclaim", "assumption"), ("disclosure", "number", "filler"), ("onesided", "assumption"), ("tradeoff", "assumption"),
)  # fmt: skip
"""Sets of flaws that are planted together, by how far they take a draft from ready; each third of the reviews has one."""
STEP_CHANCE = 0.8
CRITERIA = ("specificity", "evidence", "honesty")
MOST_GAPS = 3
MOST_REVIEW_WORDS = 240
"""With quotations a review can grow long; a longer one is worded again. The gate `length` allows some more."""
SHORTEST_QUOTE_WORDS, LONGEST_QUOTE_WORDS = 6, 20
_LEAD = re.compile(r"(?!Assumption)(?:\S+ ){0,8}\S+$")
"""What may stand before a colon only to lead up to what follows."""
_SHOWN = {  # what a draft can have: the moves that show it
    "told": EVENTS, "tradeoff": TRADEOFFS, "assumption": ("assumption",), "worry": ("worry",), "detail": ("detail",),
    "goal": ("goal",), "meaning": ("meaning",), "next": STEPS,
    "overclaim": ("flaw_overclaim",), "fictional": ("flaw_fictional",), "number": ("flaw_result",),
    "vague": ("flaw_vague",), "onesided": ("flaw_onesided",), "filler": ("flaw_filler",),
}  # fmt: skip
_GOOD = ("told", "tradeoff", "assumption", "worry", "detail", "goal", "meaning", "next")


def review(brief: Brief) -> tuple[Brief, str, str]:
    """(the brief as the prompt tells it, the draft under review, the review as JSON)."""
    rng = brief.words.rng
    brief = brief.with_facts(*(("goal",) if "count" in brief.case.slots and rng.random() < 0.35 else ()))
    also = ("next",) if rng.random() < STEP_CHANCE else ()
    draft = compose(brief, also=also)
    planted = _flaws(draft, pick((_MINOR, _MILD, _SEVERE), rng), rng)
    if "fictional" in planted:
        draft = compose_marked(brief, also)
    for flaw in planted:
        draft = flawed(brief, draft, flaw)
    target = ""
    while not 0 < len(target.split()) <= MOST_REVIEW_WORDS:
        target = _Review(brief, draft).as_json()
    return brief, draft.text(), target


def readiness(scores: dict[str, int]) -> str:
    """The verdict that the scores ask for."""
    lowest = min(scores.values())
    return "ready" if lowest >= READY_SCORE else "not ready" if lowest <= NOT_READY_SCORE else "almost ready"


def scores_of(wrong: list[str]) -> dict[str, int]:
    """5 for each criterion, less what is wrong costs; at least 1."""
    off = {one: sum(SCORE_COST[gap][1] for gap in wrong if SCORE_COST[gap][0] == one) for one in CRITERIA}
    return {one: max(1, 5 - lost) for one, lost in off.items()}


def wrong_with(draft: Draft) -> list[str]:
    """Everything that is wrong with a draft, the worst first: read off the draft alone, so equal drafts get equal scores."""
    has = {one for one, moves in _SHOWN.items() if draft.find(moves)}
    lacks = {
        "disclosure": not draft.find(DISCLOSURES),
        "tradeoff": not has & {"tradeoff", "onesided"},
        "assumption": "assumption" not in has,
        "next": "next" not in has,
    }
    planted = ("overclaim", "fictional", "number", "vague", "onesided", "filler")
    wrong = [one for one in SCORE_COST if lacks.get(one) or (one in planted and one in has)]
    return wrong or ["owner" if draft.find(("check", "goal")) else "check"]


def _flaws(good: Draft, sets: tuple[tuple[str, ...], ...], rng: random.Random) -> tuple[str, ...]:
    needs = {"number": "goal", "next": "next"}
    return pick([some for some in sets if all(good.find(_SHOWN[needs[one]]) for one in some if one in needs)], rng)


class _Review:
    """One review, written from what the draft has and lacks."""

    def __init__(self, brief: Brief, draft: Draft) -> None:
        self.brief, self.draft, self.rng = brief, draft, brief.words.rng
        self.wrong = wrong_with(draft)
        self.gaps = self.wrong[:MOST_GAPS]

    def as_json(self) -> str:
        """The object in the schema's order."""
        scores = scores_of(self.wrong)
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
        return self.brief.move(move, quote=quoted(self.draft, about))

    def _strengths(self) -> list[str]:
        """What the draft has; the event first, because a review must show that it was read."""
        has = [one for one in _GOOD if self.draft.find(_SHOWN[one])]
        has += [] if any(SCORE_COST[one][0] == "honesty" for one in self.wrong) else ["honest"]
        first = [one for one in has if one == "told"] or [one for one in has if one in ("worry", "detail")][:1]
        others = [one for one in has if one not in first and not (one == "next" and "owner" in self.gaps)]
        self.rng.shuffle(others)
        return (first + others)[: 2 if len(self.gaps) == MOST_GAPS or self.rng.random() < 0.6 else 3]

    def _reasoning(self, scores: dict[str, int], strengths: list[str]) -> str:
        """A verdict and two or three reasons. Their number is drawn without a look at the scores: a long reasoning must
        not give the readiness away."""
        verdict = {"ready": "verdict_ready", "almost ready": "verdict_almost", "not ready": "verdict_not"}[
            readiness(scores)
        ]
        best = [self.brief.move("best_lead", point=self._say(f"best_{one}", one)) for one in strengths[:2]]
        worst = [self.brief.move("worst_lead", point=self._say(f"worst_{one}", one)) for one in self.gaps[:2]]
        parts = [best[0], worst[0]] if self.rng.random() < 0.6 else [worst[0], best[0]]
        more = self.rng.random()
        if more < 0.35:
            parts.append(worst[1] if len(worst) > 1 and self.rng.random() < 0.5 else best[1])
        elif more < 0.7:
            parts.append(self.brief.move("reason_depth"))
        return " ".join(map(sentence, [self.brief.move(verdict), *parts]))


def quoted(draft: Draft, about: str) -> str:
    """The draft's own words on something, short enough to quote; empty where it has none."""
    line = draft.find(_SHOWN.get(about, ()))
    return excerpt(line.core or line.text) if line else ""


def excerpt(text: str) -> str:
    """The telling part of a line's first statement: what follows its colon, else its clauses up to a fair length."""
    stated = [one for one in re.split(r"(?<=[.!?]) (?=[A-Z0-9])", text) if not one.endswith("?")]
    first = stated[0].rstrip(".")
    lead, colon, rest = first.partition(": ")
    if (
        colon
        and len(rest.split()) >= SHORTEST_QUOTE_WORDS
        and (_LEAD.match(lead) or len(first.split()) > LONGEST_QUOTE_WORDS)
    ):
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
    chosen = (
        ["told", "tradeoff", *told_facts, *others][:3]
        if rng.random() < 0.6
        else ["told", *told_facts, "tradeoff", *others][:3]
    )
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
