"""The nano world: a small language of headlines and market questions in which the truth of every row is known.

A row is drawn as (subject, verb, question form), and a hash of those three decides for ever, whatever the seed, whether
the combination is trained on or held out. So a score on held-out rows is a score on unseen wording combinations.

Four kinds of text come from the same grammar:
- right rows (`nano_rows`): `direction` is about YES. The fine-tune learns these.
- wrong rows (in `pretraining_rows`): the same prompt answered as if `direction` meant "the metric went up".
- comparing rows (there too): another prompt, only the skill "rise, needs fall: clash", and no field of the answer.
- drills (there too): the same skill on two moves that are named.
The vocabulary is small on purpose: with many synonyms a model of two million parameters does not learn to compare.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator
from functools import cache

from data_contracts.prompting.prompt import load_prompt
from tasks.core.errors import ConfigError
from tasks.recipes.signals.answers import completion

Row = dict[str, object]
Messages = list[dict[str, str]]

SUBJECTS = (
    "inflation", "unemployment", "oil prices", "gold prices", "mortgage rates", "bond yields",
    "wheat prices", "car sales", "rents", "exports", "wages", "steel output",
)  # fmt: skip
VERBS = {"rose": 1, "climbed": 1, "gained": 1, "fell": -1, "dropped": -1, "slipped": -1}
QUESTION_FORMS = {
    "Will {subject} rise by {month}?": 1,
    "Will {subject} be higher in {month}?": 1,
    "Will {subject} go up before {month}?": 1,
    "Will {subject} fall by {month}?": -1,
    "Will {subject} be lower in {month}?": -1,
    "Will {subject} go down before {month}?": -1,
}
EVENTS = (
    "a choir won a prize", "the zoo named a panda", "a film festival opened", "the home team won the cup",
    "a bridge was painted", "a chef wrote a book", "a painter sold a mural", "a school held a concert",
)  # fmt: skip
MONTHS = ("March", "May", "June", "July", "October", "December")
SOURCES = {  # label: (information type, credibility, relevance, strength of direction)
    "New data": ("data_release", 0.9, 0.9, 0.9),
    "Agency notice": ("official_statement", 0.9, 0.9, 0.9),
    "News report": ("report", 0.7, 0.8, 0.7),
    "Rumor": ("rumor", 0.3, 0.5, 0.4),
}
SIZES = {"slightly": 0.05, "steadily": 0.1, "sharply": 0.4}
ENDINGS = {"": 0.5, ", as expected": 0.2, ", a surprise": 0.8}
MOVE = {1: "rise", -1: "fall", 0: "none"}
RELATION = {1: "match", -1: "clash", 0: "apart"}
CHANGE = {1: "rises", -1: "falls", 0: "stays"}
NEUTRAL = (
    "Only the words given here count.",
    "The month does not change the reading.",
    "The market may know part of it already.",
    "One text is rarely the whole story.",
)
"""Sentences that say nothing about the answer. Every value of every label gets each number of them alike often, and the words
of MOVE, RELATION and CHANGE are of one length each: so the length of a trace cannot tell noise from signal."""
BALANCED = ("direction", "magnitude", "relevance", "novelty", "information_type", "source_credibility", "source_batch")
"""Columns whose values get the same numbers of neutral sentences. Drawn at random, 8 of 60 seeds gave a set of rows in which
the length of the trace told a label."""
HELD_OUT_FRACTION = 0.25
MAX_REPEATS_PER_ROW = 5
UNFAITHFUL_FRACTION = 0.2
DRILL_SYSTEM = "Compare the two moves."
COMPARE_SYSTEM = "Compare the move in the headline with the move that YES needs."

# One cycle holds two noise rows and the four meetings of (metric moves, YES needs): exactly balanced when repeated.
_CYCLE = ((0, 1), (1, 1), (1, -1), (0, -1), (-1, 1), (-1, -1))


def is_held_out(combination: str) -> bool:
    """True for the wording combinations that no training text may use, in pre-training either."""
    digest = hashlib.sha256(combination.encode("utf-8")).digest()
    return int.from_bytes(digest[:4], "big") < HELD_OUT_FRACTION * 2**32


def combination_of(row: Row) -> str:
    """`subject|verb or event|question form`, read back from the row's text alone."""
    headline, question = str(row["headline"]), str(row["question"])
    subject = _only(s for s in SUBJECTS if f" {s} " in question)
    form = _only(f for f in QUESTION_FORMS if any(f.format(subject=subject, month=m) == question for m in MONTHS))
    happening = _only(w for w in (*VERBS, *EVENTS) if f" {w}" in headline)
    return f"{subject}|{happening}|{form}"


def nano_rows(n_train_rows: int, n_heldout_rows: int, seed: int) -> tuple[list[Row], list[Row]]:
    """(train, held-out) rows with right answers; no (headline, question) twice, no wording combination in both."""
    rng = random.Random(f"nano rows {seed}")
    seen: set[tuple[str, str]] = set()
    return _draw_rows(n_train_rows, rng, False, seen), _draw_rows(n_heldout_rows, rng, True, seen)


def pretraining_rows(n_rows: int, seed: int) -> Iterator[tuple[Messages, str]]:
    """Chats and answers that make the base, in turn: wrong meaning of direction; a comparing row; a drill of comparing.

    A drill names both moves, so that only their relation is left to learn: an exclusive or, which a model of this size
    learns by a sudden step that without drills came late, or for some seeds and thread counts not at all (measured).
    Held-out wording combinations never occur here, under any prompt.
    """
    rng = random.Random(f"nano pretraining {seed}")
    contract = load_prompt("signals")
    for index in range(n_rows):
        metric, needed = _CYCLE[index // 3 % len(_CYCLE)]
        row = _row(metric, needed, rng, held_out=False)
        chat = contract.messages(row)
        if index % 3 == 0:
            yield chat, completion(_as_metric(row, rng))
        elif index % 3 == 1:
            answer = f"<think>\n{_comparison(row, needed)}\n</think>\n\n{json.dumps({'yes': row['direction']})}"
            yield [{"role": "system", "content": COMPARE_SYSTEM}, chat[-1]], answer
        else:
            moves = f"The headline says {MOVE[metric]}. YES needs {MOVE[needed]}."
            yield (
                [{"role": "system", "content": DRILL_SYSTEM}, {"role": "user", "content": moves}],
                _comparison(row, needed),
            )


def _draw_rows(n_rows: int, rng: random.Random, held_out: bool, seen: set[tuple[str, str]]) -> list[Row]:
    rows: list[Row] = []
    n_repeats = 0
    while len(rows) < n_rows:
        metric, needed = _CYCLE[len(rows) % len(_CYCLE)]
        row = _row(metric, needed, rng, held_out)
        key = (str(row["headline"]), str(row["question"]))
        if key in seen:
            n_repeats += 1
            if n_repeats > MAX_REPEATS_PER_ROW * n_rows:
                raise ConfigError(
                    f"dataset: the nano world ran out of new inputs at {len(rows)} of {n_rows} "
                    f"{'held-out' if held_out else 'training'} rows. Ask for fewer rows."
                )
            continue
        seen.add(key)
        rows.append(row)
    _balance_lengths(rows, rng)
    rng.shuffle(rows)
    return rows


def _balance_lengths(rows: list[Row], rng: random.Random) -> None:
    """Give each trace its number of neutral sentences: one of those that the values of its labels have had least often.

    Minimisation, as of treatments in a trial (Pocock and Simon, Biometrics 1975); what is equally rare is drawn.
    """
    given: Counter[tuple[str, object, int]] = Counter()
    for row in rows:
        labels = [(name, row[name]) for name in BALANCED] + [("noise", row["metric_direction"] == 0)]
        had = {n: sum(given[(*label, n)] for label in labels) for n in range(1, len(NEUTRAL) + 1)}
        n_neutral = rng.choice([n for n, times in had.items() if times == min(had.values())])
        given.update((*label, n_neutral) for label in labels)
        kept = str(row["trace"]).partition(NEUTRAL[0])[0]
        row["trace"] = kept + " ".join(NEUTRAL[:n_neutral])


def _row(metric: int, needed: int, rng: random.Random, held_out: bool) -> Row:
    """One right row. `metric` is +1, -1, or 0 for noise; `needed` is the move that would resolve the question YES."""
    subject, happening, form = rng.choice(_combinations(metric, needed, held_out))
    source, ending, size = rng.choice(list(SOURCES)), rng.choice(list(ENDINGS)), rng.choice(list(SIZES))
    kind, credibility, relevance, strength = SOURCES[source]
    event = f"{subject} {happening} {size}" if metric else happening
    row: Row = {
        "headline": f"{source}: {event}{ending}",
        "question": form.format(subject=subject, month=rng.choice(MONTHS)),
        "trace": "",
        "relevance": relevance if metric else 0.0,
        "direction": strength * metric * needed if metric else 0.0,
        "magnitude": SIZES[size] if metric else 0.0,
        "source_credibility": credibility,
        "information_type": kind if metric else "unrelated",
        "novelty": ENDINGS[ending],
        "source_batch": rng.choice(("nano-a", "nano-b")),
        "metric_direction": metric,
    }
    row["trace"] = _trace(row, _comparison(row, needed), rng)
    return row


def _as_metric(row: Row, rng: random.Random) -> Row:
    """The same row as the base reads it: direction is the way the metric went, and what YES needs is not asked.

    Now and then the conclusion is drawn against the headline, and the fields follow the conclusion: the model learns to
    read the fields off its own reasoning, so a fine-tune that mends the reasoning mends the fields.
    """
    metric = int(str(row["metric_direction"]))
    concluded = -metric if rng.random() < UNFAITHFUL_FRACTION else metric
    wrong = row | {"direction": abs(float(str(row["direction"]))) * concluded}
    return wrong | {"trace": _trace(wrong, f"The headline says {MOVE[metric]}. The metric {CHANGE[concluded]}.", rng)}


def _comparison(row: Row, needed: int) -> str:
    """Both moves and their relation in adjacent words: what made comparing learnable at this size."""
    metric = int(str(row["metric_direction"]))
    relation = metric * needed
    moves = f"The headline says {MOVE[metric]}, YES needs {MOVE[needed]}: {RELATION[relation]}."
    return f"{moves} The chance of YES {CHANGE[relation]}."


def _trace(row: Row, reasoning: str, rng: random.Random) -> str:
    """The reasoning first, where the base learned to reason, then the source and some neutral sentences."""
    source = f"The source is: {str(row['headline']).split(':')[0]}."
    return " ".join([reasoning, source, *NEUTRAL[: rng.randint(1, len(NEUTRAL))]])


@cache
def _combinations(metric: int, needed: int, held_out: bool) -> list[tuple[str, str, str]]:
    happenings = [verb for verb, move in VERBS.items() if move == metric] if metric else list(EVENTS)
    forms = [form for form, move in QUESTION_FORMS.items() if move == needed]
    found = [(s, h, f) for s in SUBJECTS for h in happenings for f in forms]
    return [c for c in found if is_held_out("|".join(c)) == held_out]


def _only(found: Iterator[str]) -> str:
    matches = list(found)
    if len(matches) != 1:
        raise ValueError(f"nano world: a row matches {len(matches)} wordings of the grammar, expected 1: {matches}.")
    return matches[0]
