"""Drafts: the sections that a model learns to write, and the ones with planted flaws that it learns to mend or to review."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from tasks.recipes.proofkit.facts import Brief
from tasks.recipes.proofkit.wording import pick, sentence, with_articles

OPENINGS = {  # kind of section: orders of its first moves; what follows is shuffled
    "context": (
        ("open_context", "told", "meaning"),
        ("told", "context", "meaning"),
        ("open_context", "told", "meaning", "stake"),
        ("stake", "open_context", "told", "meaning"),
    ),
    "evidence": (
        ("open_evidence", "meaning", "context"),
        ("open_evidence", "context", "meaning"),
        ("context", "open_evidence", "meaning", "meaning_more"),
        ("open_evidence", "meaning", "meaning_more", "context"),
    ),
    "decision": (
        ("open_decision", "tradeoff_short", "context", "told", "meaning"),
        ("open_decision", "context", "told", "meaning", "tradeoff"),
        ("context", "open_decision", "tradeoff_short", "told", "meaning"),
        ("told", "meaning", "context", "open_decision", "tradeoff_short"),
    ),
    "plan": (
        ("open_plan", "context", "told", "meaning"),
        ("context", "told", "open_plan", "meaning"),
        ("told", "open_plan", "context"),
        ("open_context", "told", "meaning", "next"),
    ),
    "risk": (
        ("open_risk", "context", "told", "meaning"),
        ("context", "open_risk", "told", "meaning"),
        ("told", "meaning", "open_risk", "context"),
        ("open_context", "told", "open_risk", "meaning"),
    ),
}
_OPTIONAL = {"meaning_more": 0.35, "stake": 0.35, "check": 0.3, "next": 0.45}
_ALIKE = (("tradeoff", "tradeoff_short"), ("next", "open_plan"), ("stake", "open_risk"), ("check", "goal"))
"""Moves that say the same: a draft has one of each pair."""
CONTEXTS = ("open_context", "context")
EVENTS = ("open_evidence", "told")
TRADEOFFS = ("tradeoff", "tradeoff_short")
STEPS = ("next", "open_plan")
DISCLOSURES = ("disclosure", "disclosure_plain")


@dataclass(frozen=True)
class Line:
    """What one move says: a sentence, or a few that belong together."""

    move: str
    text: str
    core: str = ""
    """The telling of the event in it, for a quotation."""


@dataclass(frozen=True)
class Draft:
    """A section: a heading, or none, and paragraphs of lines."""

    heading: str
    paragraphs: tuple[tuple[Line, ...], ...]
    listed: int = -1
    """The paragraph that is written as a list; -1 for none."""

    def text(self) -> str:
        """The draft as it is shown and learned."""
        blocks = [f"## {self.heading}"] if self.heading else []
        for place, lines in enumerate(self.paragraphs):
            if lines:
                as_list = place == self.listed and len(lines) > 1
                blocks.append(
                    "\n".join(f"- {one.text}" for one in lines) if as_list else " ".join(one.text for one in lines)
                )
        return "\n\n".join(blocks)

    def lines(self) -> list[Line]:
        """All lines in order."""
        return [line for paragraph in self.paragraphs for line in paragraph]

    def find(self, moves: Iterable[str]) -> Line | None:
        """The first line of one of these moves."""
        return next((line for line in self.lines() if line.move in moves), None)

    def changed(self, old: Line, *new: Line) -> Draft:
        """The draft with one line replaced by others, or by nothing."""
        paragraphs = [tuple(n for line in some for n in (new if line is old else (line,))) for some in self.paragraphs]
        return replace(self, paragraphs=tuple(paragraphs))


def compose(brief: Brief, disclosure: str = "disclosure", also: Iterable[str] = ()) -> Draft:
    """A draft without a flaw: every fact that the applicant told is taken up, and every house rule is kept.

    `also`: moves that it has in any case.
    """
    rng = brief.words.rng
    opening = list(pick(OPENINGS[brief.section_kind], rng))
    rest = {"worry", "detail", "goal"} & brief.facts | {"assumption"}
    rest |= {move for move, chance in _OPTIONAL.items() if rng.random() < chance}
    rest |= {"next"} & brief.facts | set(also)
    rest |= set() if set(TRADEOFFS) & set(opening) else {"tradeoff"}
    for one, other in _ALIKE:
        if one in rest and (other in rest or other in opening):
            rest.discard(one if one != "tradeoff" else other)
    after = sorted(rest - set(opening))
    rng.shuffle(after)
    if "next" in after and rng.random() < 0.6:
        after.sort(key=lambda move: move == "next")
    moves = [*opening, *after]
    moves.insert(len(moves) if rng.random() < 0.85 else len(opening), disclosure)
    lines = [_line(brief, move) for move in moves]
    return _laid_out(brief, lines, len(opening))


def compose_marked(brief: Brief, also: Iterable[str] = ()) -> Draft:
    """A draft in which only the word "fictional" in one line tells that the company is."""
    good = compose(brief, "disclosure_plain", also)
    line = good.find(CONTEXTS)
    assert line is not None, "compose wrote no line that names the company"
    return good.changed(line, Line("context_bare", _said(brief, "context_bare")))


def _line(brief: Brief, move: str) -> Line:
    if move not in EVENTS:
        return Line(move, _said(brief, move))
    told = with_articles(brief.words["told"])
    return Line(move, sentence(brief.move(move, told=told)), told)


def _said(brief: Brief, move: str) -> str:
    if move == "detail":
        return sentence(brief.words.one_of(brief.detail.told))
    if move == "meaning_more":
        return sentence(brief.move(move, means=brief.words.patterns["means_more"]))
    return sentence(brief.move(move))


def _laid_out(brief: Brief, lines: list[Line], opening: int) -> Draft:
    """Two or three paragraphs; now and then one after the first is a list, in which the disclosure never stands."""
    rng = brief.words.rng
    cuts = {opening} if rng.random() < 0.75 else set()
    if len(lines) - opening > 3 and rng.random() < 0.6:
        cuts.add(opening + 2 if rng.random() < 0.5 else len(lines) - 1)
    wants_list = rng.random() < (0.4 if brief.voice == "brisk" or brief.section_kind == "plan" else 0.1)
    if wants_list and lines[-1].move.startswith("disclosure"):
        cuts.add(len(lines) - 1)
    paragraphs, start = [], 0
    for cut in sorted(cuts | {len(lines)}):
        paragraphs.append(tuple(lines[start:cut]))
        start = cut
    fit = [
        place for place, some in enumerate(paragraphs) if place and not any("disclosure" in one.move for one in some)
    ]
    longest = max(fit, key=lambda place: len(paragraphs[place]), default=-1)
    return Draft(brief.section, tuple(paragraphs), longest if wants_list else -1)


# --- flaws ------------------------------------------------------------------------------------------------------------
Plant = Callable[[Brief, Draft], Draft]
NEEDS = {  # flaw: facts that the applicant must have told, so that the mended text follows from the answers
    "tradeoff": ("choice",), "onesided": ("choice",), "assumption": ("assumed",), "vague": (), "disclosure": (),
    "fictional": (), "overclaim": (), "number": ("goal",), "filler": (), "next": ("next",),
}  # fmt: skip


def flawed(brief: Brief, good: Draft, flaw: str) -> Draft:
    """The draft with the flaw planted; as it was, where it has not what the flaw spoils."""
    return _PLANT[flaw](brief, good)


def _gone(moves: tuple[str, ...]) -> Plant:
    def plant(brief: Brief, good: Draft) -> Draft:
        line = good.find(moves)
        return good.changed(line) if line else good

    return plant


def _replaced(moves: tuple[str, ...], move: str) -> Plant:
    def plant(brief: Brief, good: Draft) -> Draft:
        line = good.find(moves)
        return good.changed(line, Line(move, sentence(brief.move(move)))) if line else good

    return plant


def _added(move: str) -> Plant:
    def plant(brief: Brief, good: Draft) -> Draft:
        rng = brief.words.rng
        line = pick([one for one in good.lines() if one.move != "disclosure"], rng)
        planted = Line(move, sentence(brief.move(move)))
        return good.changed(line, *((planted, line) if rng.random() < 0.3 else (line, planted)))

    return plant


def _passed_off(brief: Brief, good: Draft) -> Draft:
    """The company as if it were a real one: `compose_marked` wrote the line so that one word makes the difference."""
    line = good.find(("context_bare",))
    assert line is not None, "compose_marked wrote no such line"
    return good.changed(line, Line("flaw_fictional", with_articles(line.text.replace("fictional ", ""))))


_PLANT = {
    "tradeoff": _gone(TRADEOFFS),
    "onesided": _replaced(TRADEOFFS, "flaw_onesided"),
    "assumption": _gone(("assumption",)),
    "vague": _replaced(EVENTS, "flaw_vague"),
    "disclosure": _gone(DISCLOSURES),
    "fictional": _passed_off,
    "overclaim": _added("flaw_overclaim"),
    "number": _replaced(("goal",), "flaw_result"),
    "filler": _added("flaw_filler"),
    "next": _replaced(STEPS, "flaw_ending"),
}


def revision(brief: Brief) -> tuple[Brief, str, str, str]:
    """(the brief with the facts that the flaw needs, the flawed draft, the rubric point, the mended text).

    The mended text keeps every sentence of the draft that the point does not speak of, word for word.
    """
    rng = brief.words.rng
    possible = [flaw for flaw in NEEDS if flaw != "number" or "count" in brief.case.slots]
    possible = [flaw for flaw in possible if flaw != "next" or brief.section_kind != "plan"]
    flaw = pick(possible, rng)
    brief = brief.with_facts(*NEEDS[flaw])
    good = compose_marked(brief) if flaw == "fictional" else compose(brief)
    bad = flawed(brief, good, flaw)
    if flaw in ("filler", "overclaim") and rng.random() < 0.3:
        bad = flawed(brief, bad, flaw)
    rubric = brief.words.one_of(brief.world.answers.rubrics["tradeoff" if flaw == "onesided" else flaw])
    return brief, bad.text(), sentence(rubric).rstrip("."), good.text()
