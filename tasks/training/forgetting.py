"""Forgetting: what a fine-tune took from its base, measured on the base and on the trained model side by side.

The story's first run (lr 1e-4, 5 epochs) lost its thinking trace while its loss fell. So both models read general text, and
both answer held-out prompts, greedily: is there exactly one trace, how long is it, does it go in circles, does the answer
follow from it. forgetting_checks.py judges the numbers.
"""

from __future__ import annotations

import json
import math
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
from tasks.runtimes import hf_model
from tasks.runtimes.generation import Generation
from tasks.runtimes.greedy_model import FolderModel
from tasks.training.config import ForgettingConfig
from tasks.training.forgetting_checks import Measured, check_general_loss, judge

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


def check_forgetting(config: ForgettingConfig, compute_dtype: str, job: Job) -> list[Check]:
    """General text and traces of the base and of what lies in `job.out`, computed in `compute_dtype`, one model at a time."""
    base, traced = job.inputs["base"], keeps_trace(job.recipe)
    with hf_model.quiet():
        tokenizer = hf_model.load_tokenizer(base)
    asked, prompts = _read(job, "heldout", config.probe_rows if traced else 0)
    longest_tokens = longest_completion_tokens(job.inputs["rows"] / "train.parquet")
    limit_tokens = answer_limit_tokens(config.probe_answer_ratio, longest_tokens, _context_left(base, prompts))

    def losses_and_answers(which: str, trained: Path | None) -> tuple[list[float], list[Generation]]:
        opened = FolderModel(base, compute_dtype, trained)
        prompt_ids = [row[:start] for row, start in prompts]
        beat = named(job.beat, f"forgetting probe, {which} model")
        answers = opened.generate(prompt_ids, limit_tokens, _BATCH_ROWS, beat)
        return general_losses(opened.model, tokenizer, named(job.beat, f"general text, {which} model")), answers

    with hf_model.few_threads(base):
        before, after = losses_and_answers("base", None), losses_and_answers("tuned", job.out)
    general = check_general_loss(before[0], after[0], config.max_general_loss_increase_nats, len(tokenizer))
    if not traced:
        why = f"not made: answers of the recipe {job.recipe} carry no trace"
        return [general, report("answers probed for their traces", 0, detail=why)]
    lines = zip(asked, before[1], after[1], strict=True)
    answered = [{"row": row, "before": one.text, "after": other.text} for row, one, other in lines]
    write_lines(job.work / ANSWERS_FILE, answered)
    rows, ids = _read(job, "train", _REFERENCE_ROWS)
    header = chat.answer_header(tokenizer)
    taught = [tokenizer.decode(row[start:-1]).removeprefix(header) for row, start in ids]
    read = load_recipe(job.recipe).probe().traces
    numbers = [
        Measured.of(read([one.text for one in some], asked), sum(one.stopped == "length" for one in some))
        for _, some in (before, after)
    ]
    return [general, *judge(config, *numbers, Measured.of(read(taught, rows)), longest_tokens, limit_tokens)]


def answer_limit_tokens(ratio: float, longest_tokens: int, context_left_tokens: int | None) -> int:
    """Longest answer to a probed prompt, in tokens: `ratio` times the longest of the training rows, as the context allows.

    `context_left_tokens`: what the longest prompt leaves of the context; None where the model does not say.
    """
    wanted = max(_LEAST_LIMIT_TOKENS, math.ceil(ratio * longest_tokens))
    return wanted if context_left_tokens is None else max(1, min(wanted, context_left_tokens))


def _context_left(base: Path, prompts: list[TokenRow]) -> int | None:
    context = hf_model.own_context_tokens(base)
    return None if context is None else context - max((start for _, start in prompts), default=0)


def _read(job: Job, split: str, n_rows: int) -> tuple[list[dict], list[TokenRow]]:
    """The first rows of a split, as the recipe has them and as token ids."""
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
