"""Let a model answer the training prompts of a dataset, one shard of them: what a student will learn from.

Reads:    dataset (train.jsonl), and teacher (a model folder) where the flow made it.
Writes:   answers.jsonl: one line a prompt, good or bad: `row` (its line in train.jsonl), `prompt_digest`, `text`,
          `finish_reason`, `refusal`, `prompt_tokens`, `completion_tokens`, `hidden_chars` (reasoning in a channel of its own),
          `attempts`, `problem` (what a channel parser found), and `token_ids` of a model that speaks in channels;
          refused.jsonl: `row`, `reason` and `text` of those that nothing can be made of.
Verifies: each prompt of the shard has one answer, and was asked once, whatever was killed when; the answers belong to the
          prompts that the rows give now; they are those that came, channels parsed again; refused.jsonl names exactly the
          useless ones, and they are not too many.
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

from pydantic import Field, field_validator, model_validator

from data_contracts.prompting.prompt import PromptSet, load_prompt
from data_contracts.verdict import Check, check, report
from tasks.clients.engine_choice import AnsweringConfig, open_answerer
from tasks.clients.response_log import AnswerLog
from tasks.clients.vllm_settings import stack_files
from tasks.core.child import silent
from tasks.core.errors import ConfigError
from tasks.core.hardware import UsedSeconds, load_hardware
from tasks.core.settings import ChecksOnly
from tasks.core.stage import Job, Stage
from tasks.core.stage_process import child_main
from tasks.distillation.teacher_answers import ANSWERS, REFUSED, Prompt, ask_all, kinds, line_of, refusal_of
from tasks.formats.jsonl import read_lines, write_lines
from tasks.recipes import keeps_trace

_USED = "used-seconds.jsonl"


class GenerateConfig(AnsweringConfig):
    """The teacher, and which of the prompts it is asked."""

    prompt_set: PromptSet = "trained"
    """trained: the words that fine-tuned models learn. rich: those for a large model that was not."""
    shard_rows: int = Field(default=1000, ge=1)
    """Prompts of one shard: each is an artifact of its own, so a finished one is never paid for twice."""
    shard: int = Field(default=0, ge=0)
    """Which shard, from 0; the flow sets it."""
    shards: int = Field(default=1, ge=1)
    """How many there are; the flow sets it."""
    max_refused_fraction: ChecksOnly[float] = Field(default=0.5, ge=0, le=1)
    """More useless answers than this share of a shard, and the run stops: prompt and model do not fit, and more would cost."""
    hardware: str | None = None
    """Entry of configs/hardware.yaml that it runs on, for the price; not priced when left out."""

    @field_validator("hardware")
    @classmethod
    def _known_hardware(cls, value: str | None) -> str | None:
        try:
            return value and load_hardware(value).name
        except ConfigError as error:
            raise ValueError(str(error)) from None

    @model_validator(mode="after")
    def _shard_is_one_of_them(self) -> GenerateConfig:
        if self.shard >= self.shards:
            raise ValueError(f"shard {self.shard} is not below shards, {self.shards}: shards count from 0")
        return self

    def for_shard(self, shard: int, shards: int) -> GenerateConfig:
        """The same config for one shard of `shards`."""
        return self.model_copy(update={"shard": shard, "shards": shards})

    def sharded(self, dataset: Path) -> list[GenerateConfig]:
        """The same config once for each shard of a dataset, given its folder."""
        count = self.shards_of(len(read_lines(dataset / "train.jsonl")))
        return [self.for_shard(number, count) for number in range(count)]

    def shards_of(self, rows: int) -> int:
        """How many shards so many rows make."""
        return max(1, math.ceil(rows / self.shard_rows))


def generate_teacher(config: GenerateConfig, job: Job) -> dict:
    """Ask every prompt of the shard until it is answered or out of attempts; returns tokens, seconds and price.

    Both are of all the answers, whichever build asked for them; where that is not known of some, so are seconds and price.

    Raises:
        ConfigError: the teacher cannot be asked as configured, or its endpoint refuses.
        ChildError, TransientError: an engine died, or gave no answer; what came is kept.
    """
    prompts = _prompts(config, job)
    used = UsedSeconds(job.work / _USED)
    with used.counting() as stretch, _answerer(config, job) as answerer, _log(config, job) as log:
        before = len(log) - log.borrowed

        def beat(done: int, total: int, numbers: dict) -> None:
            stretch.tick()
            job.beat(done, total, numbers)

        tokens = ask_all(config, prompts, answerer, log, beat)
        newly_asked = len(log) - log.borrowed - before
        borrowed, borrowed_seconds = log.borrowed, log.borrowed_seconds
    lines = [line_of(one, answerer.reader) for one in prompts]
    refused = [found for one in lines if (found := refusal_of(one, keeps_trace(job.recipe)))]
    write_lines(job.out / ANSWERS, lines)
    write_lines(job.out / REFUSED, refused)
    # What was asked under an earlier key was paid for all the same: price and seconds are those of the tokens beside them.
    seconds = None if borrowed_seconds is None else round(used.total() + borrowed_seconds, 3)
    return {
        "engine": config.engine,
        "model": answerer.name,
        "channel_parser": answerer.reader.parser if answerer.reader else None,
        "prompts": len(lines),
        "new_answers": newly_asked,
        "borrowed_answers": borrowed,
        "asked_again": sum(one["attempts"] > 1 for one in lines),
        "refused": kinds([one["reason"] for one in refused]),
        **tokens,
        "engine_seconds": seconds,
        "price_usd": load_hardware(config.hardware).cost_usd(seconds)
        if config.hardware and seconds is not None
        else None,
    }


def _answerer(config: GenerateConfig, job: Job):
    return open_answerer(config, job.inputs.get("teacher"), job.digests.get("teacher"), job.work)


def _prompts(config: GenerateConfig, job: Job) -> list[Prompt]:
    """The prompts of this shard, rendered from the dataset's rows.

    Raises:
        ConfigError: the dataset gives another number of shards than the config has.
    """
    rows = read_lines(job.inputs["dataset"] / "train.jsonl")
    if (count := config.shards_of(len(rows))) != config.shards:
        raise ConfigError(
            f"generate_teacher: {len(rows):,} rows in shards of {config.shard_rows:,} are {count} shards, the config says "
            f"{config.shards}. Make the shards from the dataset (GenerateConfig.sharded)."
        )
    contract = load_prompt(job.recipe, config.prompt_set)
    first = config.shard * config.shard_rows
    some = enumerate(rows[first : first + config.shard_rows], start=first + 1)
    return [Prompt(number, tuple(contract.messages(row)), config.max_new_tokens) for number, row in some]


def _log(config: GenerateConfig, job: Job) -> AnswerLog:
    """The shard's log, and those of builds under other keys: a changed row or line of code asks only what is new.

    Other shards of the same division hold other prompts; reading all of them in each would take longer the more there are.
    """
    name = f"answers-{config.shard}-by-{config.shard_rows}.jsonl"
    found = sorted(job.work.parent.glob("*/answers-*-by-*.jsonl"))
    same_division = f"-by-{config.shard_rows}.jsonl"
    others = [one for one in found if one.name == name or not one.name.endswith(same_division)]
    return AnswerLog(job.work / name, others, _seconds_of)


def _seconds_of(log: Path) -> float | None:
    """How long the build of another log has taken so far; None where it has not told."""
    used = UsedSeconds(log.with_name(_USED))
    return used.total() if used.path.is_file() else None


def verify_answers(config: GenerateConfig, job: Job) -> list[Check]:
    """Measure the written files; see the module's docstring."""
    lines, refused = read_lines(job.out / ANSWERS), read_lines(job.out / REFUSED)
    prompts = _prompts(config, job)
    wanted = {one.row: one.digest for one in prompts}
    times = Counter(one["row"] for one in lines)
    astray = [row for row in wanted.keys() | times.keys() if times[row] != 1 or row not in wanted]
    stale = [one["row"] for one in lines if one["prompt_digest"] != wanted.get(one["row"])]
    with _answerer(config, job) as answerer, _log(config, job) as log:
        ask_all(config, prompts, answerer, log, silent, ask=False)
        again = [line_of(one, answerer.reader) for one in prompts]
        repeated = log.repeated
    differing = [one["row"] for one, logged in zip(lines, again, strict=False) if one != logged]
    useless = [found for one in lines if (found := refusal_of(one, keeps_trace(job.recipe)))]
    texts = {one["text"] for one in lines}
    enough = bool(prompts)
    return [
        check(
            "prompts of the shard without exactly one answer",
            len(astray),
            "==",
            0,
            enough=enough,
            detail=f"{len(lines)}",
        ),
        check(
            "answers to prompts that the rows do not give",
            len(stale),
            "==",
            0,
            detail=f"rows {stale[:5]}" if stale else "",
        ),
        check(
            "answers that differ from what came",
            len(differing),
            "==",
            0,
            detail=f"rows {differing[:5]}" if differing else "",
        ),
        check("prompts that were asked more than once", repeated, "==", 0),
        check(
            "useless answers that refused.jsonl does not name, or names wrongly",
            sum(one not in refused for one in useless) + sum(one not in useless for one in refused),
            "==",
            0,
        ),
        check(
            "share of useless answers",
            round(len(useless) / max(1, len(lines)), 4),
            "<=",
            config.max_refused_fraction,
            detail=f"{kinds([one['reason'] for one in useless])}, e.g. {useless[0]['reason']}" if useless else "",
            fix=f"Read them: {job.work}. Take another prompt set, more room (max_new_tokens; for `no room` a larger context of "
            "the model or its server), or another model",
        ),
        report("share of distinct answers", round(len(texts) / max(1, len(lines)), 4)),
    ]


def _outside(config: GenerateConfig) -> list[str]:
    """Files that count by their content: the user's model, and what names the versions in vLLM's interpreter."""
    return config.model_files() + (stack_files(config.vllm_python) if config.engine == "vllm" else [])


_ENGINE_STACK = {
    "transformers": ("torch", "transformers"),
    "llama_cpp": ("llama_cpp_python",),
    "vllm": ("transformers",),
}

STAGE = Stage(
    name="generate_teacher",
    kind="teacher-answers",
    version=1,
    redo_failed=lambda _: True,
    work=generate_teacher,
    verify=verify_answers,
    optional_stack=lambda config: _ENGINE_STACK.get(config.engine, ()),
    contract=("prompt.md", "prompt_rich.md", "output.py"),
    outside=_outside,
    texts=("tasks/clients/vllm_worker.py",),  # run by path, imported by nothing
    named_secrets=lambda config: [config.endpoint.api_key_env] if config.engine == "endpoint" else [],
)

if __name__ == "__main__":
    raise SystemExit(child_main(STAGE, GenerateConfig))
