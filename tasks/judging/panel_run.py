"""Every judge asked about every different answer, blind and in an order of its own, and what came of it as records.

A record is a line of verdicts.jsonl. The board is computed from the records and the answers alone, so that it can be
computed again from disk.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_contracts.prompting.rubric import Rubric
from data_contracts.verdict import Check
from tasks.clients.requests import Answer
from tasks.clients.response_log import AnswerLog
from tasks.core.child import Beat, silent
from tasks.core.errors import ConfigError, TransientError
from tasks.judging.agreement import bias_check, first_share_check, rank_correlation_within, swap_check
from tasks.judging.answer_table import AnswerTable, gate_results, gate_share, warnings_of
from tasks.judging.board import JudgeRecord, board_of
from tasks.judging.judge import Heard, Identity, JudgeSettings, Question, ask_digest, ask_judge, shuffled
from tasks.judging.panel import Limits, Panel
from tasks.judging.verdicts import BETTER, FIRST, SECOND, Questions, pair_schema, read_comparison, read_verdict
from tasks.recipes.interface import Recipe

ANSWER, SELF, PAIR = "answer", "self", "pair"
"""Kinds of questions: score one answer; compare an answer with itself; compare two answers, in both orders."""
_NO_ANSWER = "no answer"


@dataclass(frozen=True)
class Plan:
    """What each judge is asked, in its order."""

    table: AnswerTable
    rubric: Rubric
    seed: int
    compared_pairs: int

    def questions(self, judge: JudgeSettings) -> list[tuple[dict, Question]]:
        """(record without its answer, question) for each thing that a judge is asked; names of models only in the record."""
        asks, items = Questions(self.rubric, self.seed, judge.reasons), self.table.items
        scored, compared = self.rubric.verdict_schema(judge.reasons), pair_schema(judge.reasons)
        found: list[tuple[dict, Question]] = []
        for position, k in enumerate(shuffled(items, self.seed, judge.name)):
            record: dict[str, Any] = {"kind": ANSWER, "prompt": items[k].prompt, "items": [k], "position": position}
            found.append((record, (asks.of(items[k].task, items[k].answer), scored)))
        for kind, first, second in self._compared():
            record = {"kind": kind, "prompt": items[first].prompt, "items": [first, second], "position": None}
            shown = asks.of_pair(items[first].task, items[first].answer, items[second].answer)
            found.append((record, (shown, compared)))
        for record, _ in found:
            record |= {"judge": judge.name, "models": [self._names(k) for k in record["items"]]}
        return found

    def _names(self, item: int) -> list[str]:
        return [self.table.models[m].name for m in self.table.owners(item)]

    def _compared(self) -> list[tuple[str, int, int]]:
        """A sample of answers against themselves, and of two answers to one prompt in both orders."""
        rng, items = random.Random(self.seed), self.table.items
        alone = rng.sample(range(len(items)), min(self.compared_pairs, len(items)))
        by_prompt: dict[int, list[int]] = {}
        for k, one in enumerate(items):
            by_prompt.setdefault(one.prompt, []).append(k)
        pairs = [(a, b) for ks in by_prompt.values() for a in ks for b in ks if a < b]
        some = rng.sample(pairs, min(self.compared_pairs, len(pairs)))
        return [(SELF, k, k) for k in alone] + [(PAIR, *pair) for a, b in some for pair in ((a, b), (b, a))]


def ask_panel(
    plan: Plan,
    judges: Sequence[JudgeSettings],
    identities: Sequence[Identity],
    log_of: Callable[[str], AnswerLog],
    beat: Beat = silent,
) -> tuple[list[Heard], list[dict]]:
    """Ask every judge everything: those behind endpoints side by side, those on this disk one after the other.

    `log_of` gives the log of a judge. Returns what came of each, and the records.

    Raises:
        TransientError: not one judge gave a single answer; the panel is worth asking again.
        ConfigError: the same, and none of them would say more when it is asked again.
    """
    asked = {one.name: plan.questions(one) for one in judges}
    done_of, total = dict.fromkeys(asked, 0), sum(map(len, asked.values()))
    lock = threading.Lock()

    def ask(judge: JudgeSettings, identity: Identity) -> Heard:
        def heard(done: int, _total: int, numbers: dict) -> None:
            with lock:
                done_of[judge.name] = done
                beat(sum(done_of.values()), total, {"judge": judge.name, **numbers})

        with log_of(judge.name) as log:
            return ask_judge(judge, [question for _, question in asked[judge.name]], log, identity.where, heard)

    remote = [n for n, one in enumerate(judges) if one.base_url]
    found: dict[int, Heard] = {}
    with ThreadPoolExecutor(max(1, len(remote))) as pool:
        waiting = {n: pool.submit(ask, judges[n], identities[n]) for n in remote}
        found |= {n: ask(judges[n], identities[n]) for n in range(len(judges)) if n not in remote}
        found |= {n: one.result() for n, one in waiting.items()}
    everyone = [found[n] for n in range(len(judges))]
    if judges and all(one.died and not any(one.answers) for one in everyone):
        told = "\n".join(f"  {judge.name}: {one.died}" for judge, one in zip(judges, everyone, strict=True))
        kind = ConfigError if all(one.refused for one in everyone) else TransientError
        raise kind(f"judge_answers: none of {len(judges)} judges gave an answer.\n{told}")
    records = [
        _record(plan.rubric, record, one.asked[i], one.answers[i], one.died)
        for judge, one in zip(judges, everyone, strict=True)
        for i, (record, _) in enumerate(asked[judge.name])
    ]
    return everyone, records


def _record(rubric: Rubric, record: dict, asked: str, answer: Answer | None, died: str) -> dict:
    if answer is None:
        told: dict[str, Any] = {"levels": None, "unscored": f"{_NO_ANSWER}: {died}", "reason": "", "raw": None}
        return {**record, "asked": asked, **told, "finish_reason": "", "refusal": ""}
    read = read_verdict(answer, rubric) if record["kind"] == ANSWER else read_comparison(answer)
    told = {"levels": read.levels, "unscored": read.unscored, "reason": read.reason, "raw": answer.text}
    return {**record, "asked": asked, **told, "finish_reason": answer.finish_reason, "refusal": answer.refusal}


def follows(record: Mapping, rubric: Rubric) -> bool:
    """The verdict, or its absence, is what reading the judge's raw words gives."""
    if record["raw"] is None:
        return record["levels"] is None
    answer = Answer(record["raw"], record["finish_reason"], record["refusal"])
    read = read_verdict(answer, rubric) if record["kind"] == ANSWER else read_comparison(answer)
    return read.levels == record["levels"] and bool(read.unscored) == bool(record["unscored"])


def problems_of(
    plan: Plan, judge: JudgeSettings, where: str, structured: str, records: Sequence[dict]
) -> dict[str, int]:
    """What is wrong with a judge's records, counted: asked something else, twice, or not at all; no reason; off the scale.

    Every question is made again from rubric, task and answer: a name of a model that had slipped into one shows as a
    question of another digest.
    """
    wanted = Counter(
        (ask_digest(judge, where, question, structured), tuple(record["items"]))
        for record, question in plan.questions(judge)
    )
    found = Counter((one["asked"], tuple(one["items"])) for one in records)
    scored = [one for one in records if one["levels"] is not None]
    answers = [one for one in scored if one["kind"] == ANSWER]
    return {
        "questions that were never asked": (wanted - found).total(),
        "questions beyond those of rubric, task and answer": (found - wanted).total(),
        "unscored without a reason": sum(one["levels"] is None and not one["unscored"] for one in records),
        "scored and unscored at once": sum(bool(one["unscored"]) for one in scored),
        "levels off the rubric": sum(not _on_rubric(one["levels"], plan.rubric) for one in answers),
    }


def _on_rubric(levels: Mapping, rubric: Rubric) -> bool:
    return tuple(levels) == rubric.names and all(map(rubric.allows, levels.values()))


def panel_of(
    plan: Plan, judges: Sequence[JudgeSettings], records: Sequence[dict], recipe: Recipe, limits: Limits
) -> Panel:
    """The numbers: every verdict at the place of each model that gave the answer."""
    import numpy as np

    table, names = plan.table, plan.rubric.names
    shape = (len(judges), len(table.models), len(table.rows), len(names))
    scores = np.full(shape, np.nan)
    place = {one.name: number for number, one in enumerate(judges)}
    for one in records:
        if one["kind"] != ANSWER or one["levels"] is None or not _on_rubric(one["levels"], plan.rubric):
            continue
        if one["judge"] not in place:  # the verification counts such records
            continue
        values = [plan.rubric.value(one["levels"][name]) for name in names]
        for model in table.owners(one["items"][0]):
            scores[place[one["judge"]], model, one["prompt"]] = [np.nan if v is None else v for v in values]
    gates = [
        [gate_share(recipe, row, text) for row, text in zip(table.rows, texts, strict=True)] for texts in table.texts
    ]
    return Panel(
        judges=tuple(one.name for one in judges),
        families=tuple(one.family for one in judges),
        models=tuple(one.name for one in table.models),
        roles=tuple(one.role for one in table.models),
        scores=scores,
        gates=np.array([[np.nan if share is None else share for share in found] for found in gates], dtype=float),
        top=plan.rubric.top,
        limits=limits,
        seed=plan.seed,
    )


def judge_record(
    plan: Plan, judge: JudgeSettings, identity: Identity, told: Mapping, records: Sequence[dict]
) -> JudgeRecord:
    """How asking a judge went, with its biases measured. `told` holds `structured` and `died`."""
    mine = [one for one in records if one["judge"] == judge.name]
    kinds = Counter(one["unscored"].partition(":")[0] for one in mine if one["levels"] is None)
    return JudgeRecord(
        name=judge.name,
        family=judge.family,
        served_as=judge.served_as,
        identity=identity.digest,
        structured=told["structured"],
        died=told["died"],
        asked=len(mine),
        unscored=kinds,
        checks=(*_correlations(plan, mine), *_comparisons(mine)),
    )


def _correlations(plan: Plan, records: Sequence[dict]) -> list[Check]:
    """Scores against the place in the order of asking, and against the answer's length, within each model."""
    import numpy as np

    some = [one for one in records if one["kind"] == ANSWER]
    sound = [one["levels"] if one["levels"] and _on_rubric(one["levels"], plan.rubric) else {} for one in some]
    values = [_mean_value(plan.rubric, levels) for levels in sound]
    groups = np.array([plan.table.owners(one["items"][0])[0] for one in some])
    lengths = [len(plan.table.items[one["items"][0]].answer) for one in some]
    scored = np.array([np.nan if v is None else v for v in values], dtype=float)
    against = {"position in which it was asked": [one["position"] for one in some], "length of the answer": lengths}
    fix = "A bias of the judge, or of what is long or late: read answers of both kinds before believing its column"
    return [
        bias_check(
            f"score against {what}",
            rank_correlation_within(scored, np.array(numbers, dtype=float), groups),
            fix,
        )
        for what, numbers in against.items()
    ]


def _mean_value(rubric: Rubric, levels: Mapping) -> float | None:
    known = [v for level in levels.values() if (v := rubric.value(level)) is not None]
    return sum(known) / len(known) if known else None


def _comparisons(records: Sequence[dict]) -> list[Check]:
    takes_first = {FIRST: 1.0, SECOND: 0.0}
    told = {
        (one["kind"], *one["items"]): takes_first.get(one["levels"].get(BETTER), 0.5)
        for one in records
        if one["kind"] != ANSWER and one["levels"] is not None
    }
    alone = [share for (kind, _, _), share in told.items() if kind == SELF]
    both = [
        (share, 1 - told[PAIR, b, a])
        for (kind, a, b), share in told.items()
        if kind == PAIR and a < b and (PAIR, b, a) in told
    ]
    return [first_share_check(alone), swap_check(both)]


def board_from(
    plan: Plan,
    judges: Sequence[JudgeSettings],
    identities: Sequence[Identity],
    told: Sequence[Mapping],
    records: Sequence[dict],
    recipe: Recipe,
    limits: Limits,
) -> dict:
    """The whole board, from records and answers."""
    panel = panel_of(plan, judges, records, recipe, limits)
    table = plan.table
    heard = [judge_record(plan, *one, records) for one in zip(judges, identities, told, strict=True)]
    by_model = [
        [gate_results(recipe, row, text) for row, text in zip(table.rows, texts, strict=True)] for texts in table.texts
    ]
    names = dict.fromkeys(name for rows in by_model for row in rows for name in row)
    gates = {name: [_share(row.get(name) for row in rows) for rows in by_model] for name in names}
    warnings = [
        Counter(w.partition(":")[0] for text in texts for w in warnings_of(text, plan.rubric)) for texts in table.texts
    ]
    return board_of(panel, table, heard, plan.rubric, gates, warnings)


def _share(results) -> float | None:
    known = [one for one in results if one is not None]
    return round(sum(known) / len(known), 4) if known else None


def log_path(folder: Path, judge: str) -> Path:
    """Where a judge's answers are kept between runs."""
    return folder / f"judge-{judge}.jsonl"
