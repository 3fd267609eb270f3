"""Forgetting: what a fine-tune took from its base, measured on the base and on the trained model side by side.

The story's first run (lr 1e-4, 5 epochs) lost its thinking trace while its loss fell. So both models read general text, and
both answer held-out prompts, greedily: is there exactly one trace, how long is it, does it go in circles, does the answer
follow from it. forgetting_checks.py judges the numbers, advice.py says what to change after a refusal.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from data_contracts.verdict import Check, report
from tasks.core.progress import UNIT, Beat, named, silent
from tasks.core.stage import Job
from tasks.formats.jsonl import write_lines
from tasks.formats.token_rows import TokenRow, longest_completion_tokens, read_token_rows
from tasks.prompts import chat
from tasks.recipes import keeps_trace, load_recipe
from tasks.recipes.interface import ReadsTraces, Trace
from tasks.runtimes import hf_model
from tasks.runtimes.generation import Generation
from tasks.runtimes.greedy_model import FolderModel
from tasks.training.advice import Fit, Signs, advise
from tasks.training.config import ForgettingConfig
from tasks.training.forgetting_checks import (
    Measured,
    Remedies,
    check_general_loss,
    had_traces,
    judge,
    more_rows_may_decide,
    repetition,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

GENERAL_TEXT = Path(__file__).with_name("general_text.txt")
ANSWERS_FILE = "forgetting.jsonl"
"""In the stage's work folder: what the base and the trained model answered to each prompt."""
_BATCH_ROWS = 24
"""Prompts answered at once. For Qwen3-0.6B in bfloat16, 24 rows of 1,600 tokens keep 4.4 GB of keys and values."""
_LEAST_LIMIT_TOKENS = 32
"""Room for the answer of a model that was taught a word or two."""
_REFERENCE_ROWS = 256
"""Training rows whose traces the tuned model's are compared with."""
_LEAST_BUDGET_S = 60.0
"""So long a probe may always take: bounding it by less would save nobody's time, and let the load of a machine choose its
size."""
_NOTED_REPETITION = 0.2
"""From here on an answer is marked as repeating: half of a hand-written trace made a loop has at least this much."""
_clock = time.monotonic


@dataclass(frozen=True)
class Trained:
    """What is known of the run before its answers are read."""

    base: Fit
    tuned: Fit
    training_s: float
    """Seconds of its steps: what the probe may take is a fraction of them."""


def check_forgetting(config: ForgettingConfig, compute_dtype: str, job: Job, trained: Trained) -> list[Check]:
    """General text and traces of the base and of what lies in `job.out`, computed in `compute_dtype`, one model at a time."""
    traced = keeps_trace(job.recipe)
    with hf_model.quiet():
        tokenizer = hf_model.load_tokenizer(job.inputs["base"])
    probe = _Probe(config, compute_dtype, job, tokenizer, *_read(job, "heldout", None if traced else 0))
    base, tuned = _Side("base", None), _Side("tuned", job.out)
    with hf_model.few_threads(job.inputs["base"]):
        if not traced:
            for side in (base, tuned):
                probe.extend(side, 0, 0)
            why = f"not made: answers of the recipe {job.recipe} carry no trace"
            traces = [report("answers probed for their traces", 0, detail=why)]
            advice = _advice(trained, job, wrote_traces=False)
        else:
            traces, advice = _judge_traces(probe, base, tuned, trained)
    general = check_general_loss(
        base.general, tuned.general, config.max_general_loss_increase_nats, len(tokenizer), advice
    )
    return [general, *traces]


def _judge_traces(probe: _Probe, base: _Side, tuned: _Side, trained: Trained) -> tuple[list[Check], str]:
    """Checks of the traces, over twice as many prompts each time until more rows would decide nothing; and the advice."""
    config, job, heldout_rows = probe.config, probe.job, len(probe.prompts)
    budget_s = probe_budget_s(config.max_probe_time_fraction, trained.training_s)
    taught, wanted = probe.taught(), min(config.probe_rows, heldout_rows)
    while True:
        probe.extend(base, wanted, budget_s / 2)
        probe.extend(tuned, len(base.answers), budget_s / 2)
        answered = len(tuned.answers)
        before, after = probe.measured(base, answered), probe.measured(tuned, answered)
        advice = _advice(trained, job, had_traces(config, before))
        remedies = Remedies(advice, _how_to_get_more(answered, wanted, heldout_rows, budget_s))
        checks = judge(config, before, after, taught, probe.longest_tokens, probe.limit_tokens, remedies)
        may_decide = more_rows_may_decide(checks, probe.longest_tokens, probe.limit_tokens)
        if not may_decide or answered < wanted or answered == heldout_rows:
            break
        wanted = min(2 * wanted, heldout_rows)
    probe.write_answers(base, tuned, answered)
    return [*checks, report("held-out prompts probed", answered, detail=f"of {heldout_rows} held-out rows")], advice


def _advice(trained: Trained, job: Job, wrote_traces: bool) -> str:
    log = (job.out / "training_log.jsonl").read_text("utf-8").splitlines()
    logged_nats = tuple(json.loads(line)["train_loss"] for line in log)
    return advise(Signs(trained.base, trained.tuned, wrote_traces, logged_nats)).sentence()


def _how_to_get_more(answered: int, wanted: int, heldout: int, budget_s: float) -> str:
    if answered < wanted:
        return (
            f"Only {answered} of {wanted} prompts were answered in the {budget_s:.0f} s allowed: raise "
            "train.forgetting.max_probe_time_fraction"
        )
    if answered == heldout:
        return f"All {heldout} held-out rows were probed: raise dataset.heldout_rows, or accept it by the limit"
    return f"{answered} of {heldout} held-out rows were probed: raise train.forgetting.probe_rows"


def _notes(answer: Generation, trace: Trace) -> list[str]:
    repeated = repetition(trace.text)
    notes = {
        "cut off": answer.stopped == "length",
        "not exactly one well-formed trace": not trace.well_formed,
        f"{repeated:.0%} of 4-grams repeated": repeated > _NOTED_REPETITION,
        "the answer contradicts its trace": trace.agrees is False,
    }
    return [note for note, holds in notes.items() if holds]


def probe_budget_s(fraction: float, training_s: float) -> float:
    """Seconds that the answers of both models may take together."""
    return max(_LEAST_BUDGET_S, fraction * training_s)


@dataclass
class _Side:
    """One of the two models: what was measured of it so far."""

    which: str
    adapter: Path | None
    general: list[float] = field(default_factory=list)
    """Loss on each passage of general text, in nats a token."""
    answers: list[Generation] = field(default_factory=list)
    """To the first held-out prompts."""
    spent_s: float = 0.0


@dataclass
class _Probe:
    """The held-out prompts, and how both models answer them within a bound of time."""

    config: ForgettingConfig
    compute_dtype: str
    job: Job
    tokenizer: PreTrainedTokenizerBase
    rows: list[dict]
    prompts: list[TokenRow]

    def __post_init__(self) -> None:
        base = self.job.inputs["base"]
        self.header = chat.answer_header(self.tokenizer)
        self.longest_tokens = longest_completion_tokens(self.job.inputs["rows"] / "train.parquet")
        left_tokens = _context_left(base, self.prompts)
        self.limit_tokens = answer_limit_tokens(self.config.probe_answer_ratio, self.longest_tokens, left_tokens)

    def extend(self, side: _Side, n_rows: int, allowed_s: float) -> None:
        """Answer the first `n_rows` prompts, as far as `allowed_s` for all its answers goes; and read general text, once.

        The first min_probe_traces are answered whatever it takes.
        """
        if side.general and not self._next_block(side, n_rows, allowed_s):
            return
        opened = FolderModel(self.job.inputs["base"], self.compute_dtype, side.adapter, beat=self.job.beat)
        opened.load()
        beat = named(self.job.beat, f"forgetting probe, {side.which} model")
        while block := self._next_block(side, n_rows, allowed_s):
            started = _clock()
            prompts = [row[:start] for row, start in block]
            side.answers += opened.generate(prompts, self.limit_tokens, len(block), beat)
            side.spent_s += _clock() - started
        if not side.general:
            side.general = general_losses(
                opened.model, self.tokenizer, named(self.job.beat, f"general text, {side.which} model")
            )

    def measured(self, side: _Side, n_rows: int) -> Measured:
        """The numbers of a model's first answers."""
        answers = side.answers[:n_rows]
        return Measured.of(self._traces(answers), sum(answer.stopped == "length" for answer in answers))

    def taught(self) -> Measured:
        """The numbers of the training rows' own answers."""
        rows, ids = _read(self.job, "train", _REFERENCE_ROWS)
        texts = [self.tokenizer.decode(row[start:-1]).removeprefix(self.header) for row, start in ids]
        return Measured.of(self._read_traces(texts, rows))

    def write_answers(self, base: _Side, tuned: _Side, n_rows: int) -> None:
        """A line for each prompt: its row, both answers, and what was noted about each."""
        lines = [
            {
                "row": row,
                "before": before.text,
                "after": after.text,
                "before_notes": _notes(before, before_trace),
                "after_notes": _notes(after, after_trace),
            }
            for row, before, after, before_trace, after_trace in zip(
                self.rows[:n_rows],
                base.answers[:n_rows],
                tuned.answers[:n_rows],
                self._traces(base.answers[:n_rows]),
                self._traces(tuned.answers[:n_rows]),
                strict=True,
            )
        ]
        write_lines(self.job.work / ANSWERS_FILE, lines)

    def _traces(self, answers: list[Generation]) -> list[Trace]:
        """The traces of answers to the first prompts."""
        return self._read_traces([answer.text for answer in answers], self.rows[: len(answers)])

    def _read_traces(self, texts: list[str], rows: list[dict]) -> list[Trace]:
        probe = load_recipe(self.job.recipe).probe()
        if not isinstance(probe, ReadsTraces):
            raise RuntimeError(f"recipe {self.job.recipe} keeps traces, and its probe does not read them")
        return list(probe.traces(texts, rows))

    def _next_block(self, side: _Side, n_rows: int, allowed_s: float) -> list[TokenRow]:
        """The prompts that are answered next; none when all are, or when they would not end in time."""
        done, most = len(side.answers), n_rows - len(side.answers)
        if not done:
            return self.prompts[: min(self.config.min_probe_traces, most)]
        block = self.prompts[done : done + min(_BATCH_ROWS, most)]
        return block if side.spent_s * (1 + len(block) / done) <= allowed_s else []


def answer_limit_tokens(ratio: float, longest_tokens: int, context_left_tokens: int | None) -> int:
    """Longest answer to a probed prompt, in tokens: `ratio` times the longest of the training rows, as the context allows.

    `context_left_tokens`: what the longest prompt leaves of the context; None where the model does not say.
    """
    wanted = max(_LEAST_LIMIT_TOKENS, math.ceil(ratio * longest_tokens))
    return wanted if context_left_tokens is None else max(1, min(wanted, context_left_tokens))


def _context_left(base: Path, prompts: list[TokenRow]) -> int | None:
    context = hf_model.own_context_tokens(base)
    return None if context is None else context - max((start for _, start in prompts), default=0)


def _read(job: Job, split: str, n_rows: int | None) -> tuple[list[dict], list[TokenRow]]:
    """The first rows of a split, all of them for None, as the recipe has them and as token ids."""
    with (job.inputs["rows"] / f"{split}.jsonl").open(encoding="utf-8", newline="\n") as lines:
        rows = [json.loads(line) for line in islice(lines, n_rows)]
    return rows, read_token_rows(job.inputs["rows"] / f"{split}.parquet", n_rows)


def general_losses(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, beat: Beat = silent) -> list[float]:
    """Loss on each passage of general_text.txt, in nats a token."""
    passages = [passage for passage in GENERAL_TEXT.read_text("utf-8").split("\n\n") if passage.strip()]
    losses = []
    for done, passage in enumerate(passages, 1):
        losses.append(hf_model.completion_loss(model, [(chat.text_ids(tokenizer, passage), 1)]))
        beat(done, len(passages), {UNIT: "passages"})
    return losses
