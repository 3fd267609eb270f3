"""The nano world of proofkit: short work samples in a small vocabulary, by which two tiny models can be taught and compared.

A row is drawn around a name and an odd thing, and a hash of the two decides for ever, whatever the seed, whether the pair is
trained on or held out. So a held-out row asks for anchors that never stood together in training.

Four kinds of text come from the same grammar:
- right rows (`nano_rows`): the answer takes up both anchors and keeps the house rules. The fine-tune learns these.
- house-blind rows (in `pretraining_rows`): the same prompts answered as an untuned model answers them: fluent, in the shape
  that the task asks for, but without the user's facts and without the house rules. The story's untuned models did just that.
- facts and loose sentences (there too): other system messages over the same prompt, or over two lines of it. The base learns
  here to find company and anchors, and to say what the house wants said: a fine-tune of seconds can teach a model of this
  size when to use what it can say, and nothing that it cannot say.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator

from data_contracts.prompting.prompt import load_prompt
from data_contracts.proofkit.house_rules import ANCHOR_MARK, COLUMNS, PROMPT_COLUMNS, TASKS, VOICES, anchors_of
from tasks.core.errors import ConfigError

Row = dict[str, object]
Messages = list[dict[str, str]]

NAMES = (
    "Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Ida", "Jon", "Kim", "Lea", "Max", "Nora", "Otto", "Pia", "Rosa",
)  # fmt: skip
THINGS = (
    "rabbits", "ladders", "lanterns", "kettles", "pigeons", "umbrellas", "marbles", "violins", "walnuts", "anchors",
    "buttons", "candles", "feathers", "gloves", "kites", "magnets", "needles", "onions", "pebbles", "ribbons", "saddles",
    "teapots", "whistles", "zippers",
)  # fmt: skip
HAPPENINGS = (
    "{name} counted the {thing} by hand.",
    "{name} moved the {thing} to the front door.",
    "{name} asked why the {thing} were late.",
    "{name} kept a list of the {thing} for a month.",
    "{name} found the {thing} in the wrong room.",
    "{name} showed a new helper where the {thing} go.",
)
COMPANIES = (
    "Alder Works", "Birch House", "Cedar Supply", "Ember Mill", "Fern Studio", "Gable Yard", "Hazel Clinic", "Linden Press",
    "Maple Foundry", "Rowan Market", "Spruce Office", "Willow Garage",
)  # fmt: skip
ROLES = {  # role: kind of work sample
    "nurse": "handover note",
    "recruiter": "hiring plan",
    "seller": "call plan",
    "pharmacist": "stock memo",
    "analyst": "cost review",
    "planner": "launch plan",
}
TITLE = "## A {kind} for {company}"
SECTIONS = ("Context", "Plan", "Risks", "Next steps")
CONSTRAINTS = ("The budget is small.", "There are two weeks.", "No one new can be hired.", "The old system must stay.")
STAKES = ("Customers wait longer.", "Work is done twice.", "People stop asking.", "A promise is broken.")
SKILLS = ("planning, clear writing", "listening, follow-up", "careful checks, calm", "numbers, short notes")
PROFILES = ("A former cook.", "A former driver.", "A former teacher.", "A former shop manager.")
HELD_OUT_FRACTION = 0.25
MAX_REPEATS_PER_ROW = 20

USES = (
    "The work starts where {name} met the {thing}.",
    "What {name} did with the {thing} shows the gap.",
    "The {thing} and the note by {name} come first.",
    "Because of the {thing}, {name} changed the order of work.",
)
FICTION = (  # no name stands first: a word after a line break is another token than the same word after a space
    "This is for {company}, a fictional company.",
    "It is set at {company}, a fictional company.",
    "The fictional company {company} has this problem.",
)
ASSUMPTIONS = (
    "Assumption: the team can spare one hour a day.",
    "Assumption: the old list is right for now.",
    "Assumption: the manager reads one page a week.",
    "Assumption: the doors stay open until the evening.",
)
TRADE_OFFS = (
    "Trade-off: slower starts in exchange for fewer errors.",
    "Trade-off: less detail in exchange for a plan that is read.",
    "Trade-off: one long day in exchange for a calm week.",
    "Trade-off: fewer choices in exchange for a quick answer.",
)
DISCLOSURES = (
    "This is a practice work sample, not real client work.",
    "This work sample is practice and describes no real job.",
    "It is a simulated work sample and no real client is behind it.",
)
NEXT_STEPS = (
    "Read it aloud once.",
    "Ask one person to check it.",
    "Cut one sentence.",
    "Add the date of the next check.",
)
FLAWS = {  # what a draft can lack: (strength, gap)
    "use": ("it uses what happened", "it says nothing of what happened"),
    "assumption": ("it states an assumption", "no assumption is stated"),
    "trade_off": ("it names a trade-off", "no trade-off is named"),
}
NAMED, SHORT, NO_GAP = "it names a fictional company", "it is short", "the end could be shorter"
READINESS = {3: "ready", 2: "almost ready", 1: "not ready", 0: "not ready"}
POINTS_MET = {3: "Points met: all.", 2: "Points met: two.", 1: "Points met: one.", 0: "Points met: nil."}
"""Of one length each: the length of the reasoning must not tell the readiness."""
FACTS_SYSTEM = "Say what it is about."
FACTS = "About {company}: {name}, {thing}."
SENTENCES_SYSTEM = "Write loose sentences for it."
FACTS_LESSON, SENTENCES_LESSON = "facts lesson", "sentences lesson"
PRETRAINING = (  # share of the rows, and the kinds that take turns in it
    (0.28, (FACTS_LESSON,)),
    (0.18, (FACTS_LESSON, SENTENCES_LESSON, SENTENCES_LESSON)),
    (0.54, ("facts", "sentences", "sentences", "blind", "blind")),
)
"""Lessons come first, on two lines in place of a whole prompt. A model finds the anchors there by a sudden step after 2,600
to 3,500 rows; in whole prompts among other texts it had not after 10,000 (measured at width 192, seeds 42 to 44)."""
BLIND_TASKS = (*TASKS, "review", "talking_points", "review", "talking_points")
"""JSON takes the longest to learn."""
LESSON = "Company: {company}\nAnswers: {told}"

BLIND = (  # how an untuned model fills any text: about the work in general
    "The {kind} is clear and strong.",
    "It shows good skill and great care.",
    "Every step was done on time.",
    "The team was very happy with the result.",
    "A good {role} writes such a text every week.",
)
BLIND_EVIDENCE = ("I did it with care.", "Many people saw it.", "It went well each time.")
POINTS = ("I look before I plan.", "I say what I assume.", "I name the price.")
BULLETS = ("Wrote a {kind} for {{whom}}", "Built the first step on {{what}}", "Marked it as {{mark}}")
POST = "I wrote a {kind}."


def is_held_out(combination: str) -> bool:
    """True for the combinations of anchors that no training text may use, in pre-training either."""
    digest = hashlib.sha256(f"proofkit {combination}".encode()).digest()
    return int.from_bytes(digest[:4], "big") < HELD_OUT_FRACTION * 2**32


def combination_of(row: Row) -> str:
    """`name|thing`, as the row's anchors have it."""
    return "|".join(anchors_of(row))


def nano_rows(n_train_rows: int, n_heldout_rows: int, seed: int) -> tuple[list[Row], list[Row]]:
    """(train, held-out) rows with right answers, the tasks in turn; no input twice, no pair of anchors in both."""
    rng = random.Random(f"proofkit nano rows {seed}")
    seen: set[str] = set()
    return _draw(n_train_rows, rng, False, seen), _draw(n_heldout_rows, rng, True, seen)


def pretraining_rows(n_rows: int, seed: int) -> Iterator[tuple[Messages, str]]:
    """Chats and answers that make a nano base, in turn. Held-out pairs never occur here."""
    rng = random.Random(f"proofkit nano pretraining {seed}")
    contract = load_prompt("proofkit")
    for kind in _kinds(n_rows):
        row = _row(rng.choice(BLIND_TASKS if kind == "blind" else TASKS), rng, held_out=False)
        chat = contract.messages(row)
        lesson = kind in (FACTS_LESSON, SENTENCES_LESSON)
        user = _lesson(row) if lesson else chat[-1]["content"]
        if kind == "blind":
            yield chat, _blind(row, rng)
        elif kind in ("facts", FACTS_LESSON):
            yield _chat(FACTS_SYSTEM, user), _heading(row) + _fill(FACTS, row)
        else:
            yield _chat(SENTENCES_SYSTEM, user), (_heading if lesson else _title)(row) + _sentences(row, rng)


def _kinds(n_rows: int) -> Iterator[str]:
    """The kind of each row of the pre-training, in order."""
    end, share_so_far = 0, 0.0
    for share, kinds in PRETRAINING:
        start, share_so_far = end, share_so_far + share
        end = round(share_so_far * n_rows)
        yield from (kinds[index % len(kinds)] for index in range(end - start))


def _lesson(row: Row) -> str:
    """The lines of a prompt that a lesson is about."""
    section = f"Section: {row['section']}\n" if row["section"] else ""
    return section + _fill(LESSON, row, told=row["answers"])


def _chat(system: str, user: str) -> Messages:
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def _sentences(row: Row, rng: random.Random) -> str:
    """A use of the anchors and one to three other moves of the house, in any order."""
    moves = [USES, *rng.sample((FICTION, ASSUMPTIONS, TRADE_OFFS, DISCLOSURES), rng.randint(1, 3))]
    return _joined(row, rng, *rng.sample(moves, len(moves)))


def _draw(n_rows: int, rng: random.Random, held_out: bool, seen: set[str]) -> list[Row]:
    rows: list[Row] = []
    repeats = 0
    while len(rows) < n_rows:
        row = _row(TASKS[len(rows) % len(TASKS)], rng, held_out)
        key = json.dumps({name: value for name, value in row.items() if name not in ("target", "source_batch")})
        if key in seen:
            repeats += 1
            if repeats > MAX_REPEATS_PER_ROW * n_rows:
                raise ConfigError(
                    f"dataset: the nano world ran out of new inputs at {len(rows)} of {n_rows} "
                    f"{'held-out' if held_out else 'training'} rows. Ask for fewer rows."
                )
            continue
        seen.add(key)
        rows.append(row)
    rng.shuffle(rows)
    return rows


def _row(task: str, rng: random.Random, held_out: bool) -> Row:
    """One right row of a task."""
    pairs = [(name, thing) for name in NAMES for thing in THINGS if is_held_out(f"{name}|{thing}") == held_out]
    name, thing = rng.choice(pairs)
    role = rng.choice(list(ROLES))
    row: Row = {
        "task": task,
        "role": role,
        "artifact_type": ROLES[role],
        "section": None,
        "company": rng.choice(COMPANIES),
        "constraint": rng.choice(CONSTRAINTS),
        "stakes": rng.choice(STAKES),
        "skills": rng.choice(SKILLS),
        "profile": rng.choice(PROFILES),
        "voice": rng.choice(VOICES),
        "answers": "",
        "draft": None,
        "rubric": None,
        "anchors": ANCHOR_MARK.join((name, thing)),
        "target": "",
        "source_batch": rng.choice(("nano-a", "nano-b")),
    }
    row["answers"] = _fill(rng.choice(HAPPENINGS), row)
    row["target"] = _WRITERS[task](row, rng)
    return row | {name: None for name in PROMPT_COLUMNS if name not in COLUMNS[task]}


def _title(row: Row) -> str:
    """The first line of a row's answer; empty for the tasks that have none."""
    return f"{_fill(TITLE, row)}\n" if row["task"] == "scenario" else _heading(row)


def _heading(row: Row) -> str:
    """The section that a row asks for."""
    return f"## {row['section']}\n" if row["section"] else ""


def _draft(row: Row, rng: random.Random) -> str:
    row["section"] = rng.choice(SECTIONS)
    return _title(row) + _ruled(row, rng)


def _revise(row: Row, rng: random.Random) -> str:
    """The draft lacks one thing, the rubric names it, the answer has everything."""
    row["section"] = rng.choice(SECTIONS)
    missing = rng.choice(list(FLAWS))
    row["draft"] = _draft_with(row, rng, [one for one in FLAWS if one != missing])
    row["rubric"] = FLAWS[missing][1].capitalize() + "."
    return _title(row) + _ruled(row, rng)


def _ruled(row: Row, rng: random.Random) -> str:
    """Fiction, use, assumption, trade-off, disclosure: the whole house."""
    return _joined(row, rng, FICTION, USES, ASSUMPTIONS, TRADE_OFFS, DISCLOSURES)


def _draft_with(row: Row, rng: random.Random, parts: list[str]) -> str:
    moves = {"use": USES, "assumption": ASSUMPTIONS, "trade_off": TRADE_OFFS}
    return _joined(row, rng, FICTION, *(moves[part] for part in parts))


def _review(row: Row, rng: random.Random) -> str:
    """What stands in the draft is a strength, what does not is a gap, of which the first is told; readiness follows from their
    number. Lists of one length each: half a million parameters close those of two lengths wrongly, once in twenty rows."""
    there = [part for part in FLAWS if rng.random() < 0.6]
    row["draft"] = _draft_with(row, rng, there)
    lacks = [part for part in FLAWS if part not in there]
    scores = {
        "specificity": 5 if "use" in there else 2,
        "evidence": 4 if "assumption" in there else 2,
        "honesty": 4 if "trade_off" in there else 3,
    }
    value = {
        "readiness": READINESS[len(there)],
        "scores": scores,
        "strengths": [NAMED, *(FLAWS[part][0] for part in there), SHORT][:2],
        "gaps": [*(FLAWS[part][1] for part in lacks), NO_GAP][:1],
        "reasoning": f"{_joined(row, rng, USES, FICTION)} {POINTS_MET[len(there)]}",
        "next_step": rng.choice(NEXT_STEPS),
    }
    return json.dumps(value, ensure_ascii=False)


def _talking_points(row: Row, rng: random.Random) -> str:
    row["draft"] = _draft_with(row, rng, ["use"])
    uses = [_fill(one, row) for one in rng.sample(USES, 3)]
    points = [{"point": point, "evidence": evidence} for point, evidence in zip(POINTS, uses, strict=True)]
    return json.dumps({"talking_points": points, "honesty_note": _joined(row, rng, FICTION)}, ensure_ascii=False)


def _scenario(row: Row, rng: random.Random) -> str:
    return _title(row) + _joined(row, rng, FICTION, USES, ASSUMPTIONS, DISCLOSURES)


def _bullets(row: Row, rng: random.Random) -> str:
    row["draft"] = _draft_with(row, rng, ["use"])
    return _bullet_lines(
        row,
        whom=_fill("{company}, a fictional company", row),
        what=_fill("what {name} did with the {thing}", row),
        mark="a practice work sample, not real client work",
    )


def _bullet_lines(row: Row, **slots: str) -> str:
    return "\n".join(f"- {_fill(line, row).format(**slots)}." for line in BULLETS)


def _post(row: Row, rng: random.Random) -> str:
    row["draft"] = _draft_with(row, rng, ["use"])
    return f"{_fill(POST, row)} {_joined(row, rng, USES, FICTION, DISCLOSURES)}"


_WRITERS: dict[str, Callable[[Row, random.Random], str]] = {
    "draft": _draft,
    "revise": _revise,
    "review": _review,
    "talking_points": _talking_points,
    "scenario": _scenario,
    "bullets": _bullets,
    "post": _post,
}


def _blind(row: Row, rng: random.Random) -> str:
    """The task's shape, the user's facts and the house rules left out."""
    texts = [_fill(one, row) for one in rng.sample(BLIND, 3)]
    task = row["task"]
    if task in ("draft", "revise", "scenario"):
        return _title(row) + " ".join(texts)
    if task == "review":
        return json.dumps(_blind_review(row, rng), ensure_ascii=False)
    if task == "talking_points":
        points = [{"point": point, "evidence": rng.choice(BLIND_EVIDENCE)} for point in POINTS]
        return json.dumps({"talking_points": points, "honesty_note": "All of it is true."}, ensure_ascii=False)
    if task == "bullets":
        return _bullet_lines(row, whom="the team", what="time", mark="done")
    return f"{_fill(POST, row)} {' '.join(texts)}"


def _blind_review(row: Row, rng: random.Random) -> dict:
    """In the words of a review, and of no draft in particular."""
    strengths, gaps = zip(*FLAWS.values(), strict=True)
    return {
        "readiness": rng.choice(list(READINESS.values())),
        "scores": {name: rng.randint(2, 5) for name in ("specificity", "evidence", "honesty")},
        "strengths": rng.sample([*strengths, NAMED, SHORT], 2),
        "gaps": [rng.choice([*gaps, NO_GAP])],
        "reasoning": f"{_fill(rng.choice(BLIND), row)} {rng.choice(list(POINTS_MET.values()))}",
        "next_step": rng.choice(NEXT_STEPS),
    }


def _joined(row: Row, rng: random.Random, *moves: tuple[str, ...]) -> str:
    return " ".join(_fill(rng.choice(phrasings), row) for phrasings in moves)


def _fill(text: str, row: Row, **more: object) -> str:
    name, thing = anchors_of(row)
    return text.format(
        name=name, thing=thing, company=row["company"], kind=row["artifact_type"], role=row["role"], **more
    )
