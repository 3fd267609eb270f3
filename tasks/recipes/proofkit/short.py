"""The short pieces around a work sample: résumé bullets, the post, and the challenge that an applicant is set."""

from __future__ import annotations

from tasks.recipes.proofkit.drafts import compose
from tasks.recipes.proofkit.facts import Brief
from tasks.recipes.proofkit.wording import sentence, with_articles

SHORTEST_BULLETS_CHARS = 310
"""Three bullets that are shorter name the work and do not tell it; limits.yaml of proofkit asks for nearly as much."""


def bullets(brief: Brief) -> tuple[Brief, str, str]:
    """(the brief, the finished draft, three bullets: the first says what the piece is, the others what was done in it)."""
    rng = brief.words.rng
    draft = compose(brief)
    told = [one for one in ("worry", "detail", "goal") if one in brief.facts]
    others = ["told", "assumption", "next"]
    rng.shuffle(told)
    rng.shuffle(others)
    chosen = [*(["tradeoff"] if "choice" in brief.facts or rng.random() < 0.5 else []), *told, *others][:2]
    rng.shuffle(chosen)
    moves = ["bullet_label", *(f"bullet_{one}" for one in chosen)]
    target = ""
    while len(target) < SHORTEST_BULLETS_CHARS:
        target = "\n".join(f"- {sentence(brief.move(one))}" for one in moves)
    return brief, draft.text(), target


def post(brief: Brief) -> tuple[Brief, str, str]:
    """(the brief, the finished draft, a short post about it)."""
    rng = brief.words.rng
    draft = compose(brief)
    told = [one for one in ("worry", "detail") if one in brief.facts]
    rng.shuffle(told)
    middle = ["choice", *told[:1]] if rng.random() < 0.7 else [*told[:1], "choice"]
    middle.insert(0, "meaning")
    if rng.random() < 0.25:
        middle.remove("meaning")
    first = [sentence(brief.move("post_open")), sentence(brief.move("post_told"))]
    second = [sentence(brief.move(f"post_{one}")) for one in middle]
    end = [sentence(brief.move("post_disclosure"))]
    if rng.random() < 0.6:
        end.insert(rng.randint(0, 1), sentence(brief.move("post_ask")))
    if rng.random() < 0.3:
        first, second = first + second[:1], second[1:]
    return brief, draft.text(), "\n\n".join(" ".join(some) for some in (first, second, end) if some)


def scenario(brief: Brief) -> tuple[Brief, None, str]:
    """(the brief, no draft, the challenge: who, what happened, what binds and what is at stake, and the task)."""
    rng = brief.words.rng
    brief = brief.of_facts("detail", "worry", "assumed")  # who wishes for a challenge has not decided anything yet
    moves = ["scenario_open", "scenario_event", "scenario_meaning"]
    if rng.random() < 0.25:
        moves[0:2] = ["scenario_event", "scenario_open"]
    second = ["scenario_stakes", "scenario_options"]
    second += ["scenario_voices"] if "worry" in brief.facts else []
    second += ["detail"] if "detail" in brief.facts else []
    rng.shuffle(second)
    third = ["scenario_task", "scenario_assumption"]
    rng.shuffle(third)
    third.insert(rng.choice((0, 2, 2, 2)), "scenario_disclosure")
    blocks = [moves, second, third] if rng.random() < 0.7 else [moves + second, third]
    said = [" ".join(_said(brief, move) for move in some) for some in blocks]
    return brief, None, "\n\n".join((f"## {with_articles(brief.words['title'])}", *said))


def _said(brief: Brief, move: str) -> str:
    if move == "detail":
        return sentence(brief.words.one_of(brief.detail.told))
    return sentence(brief.move(move))
