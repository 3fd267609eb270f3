"""Build a recipe's training and held-out rows.

Reads:    the recipe's sources (hand-written examples, a synthetic world); a teacher's answers, where one is configured.
Writes:   train.jsonl, heldout.jsonl: one flat JSON object a line; with a teacher, refused.jsonl: what was not accepted.
Verifies: the same seed, and the same answers, give the same bytes; no input of the held-out rows is in training; every
          row renders through the prompt contract; the rendered answer reads back to the row; each teacher's row keeps
          the row contract, each prompt was answered once, and each seed became a row or has a reason.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Literal

from pydantic import Field, field_validator, model_validator

from data_contracts.limits import Limits, load_limits
from data_contracts.verdict import Check, check, report
from tasks.core.artifact import write_whole
from tasks.core.errors import ConfigError, ContractError
from tasks.core.stage import Job, Settings, Stage, child_main
from tasks.engines.answer_log import AnswerLog, answer_all
from tasks.engines.chat_endpoint import Answer, Ask, ChatEndpoint, LocalChat, Source, local_identity, url_problem
from tasks.recipes import load_recipe

SPLITS = ("train", "heldout")
REFUSED = "refused"
API_KEY = "PLUMBLINE_TEACHER_API_KEY"
"""The environment variable with the teacher's key: the only place for it. An endpoint without keys needs none."""
LOG_NAME = "teacher-answers.jsonl"


class TeacherSettings(Settings):
    """Who writes further training rows, from which seeds, and how patiently it is asked."""

    base_url: str | None = None
    """An OpenAI-compatible endpoint, e.g. http://127.0.0.1:8000/v1. Its key, if any, stands in the environment as
    PLUMBLINE_TEACHER_API_KEY."""
    local_model: str | None = None
    """In place of base_url: a .gguf file, or a folder that transformers loads. It answers greedily."""
    model: str | None = None
    """The model's name at the endpoint; it also names the rows' batch. With local_model: the file's name when left out."""
    seeds_file: str | None = None
    """A .jsonl of rows without trace and source_batch; the recipe's own examples/teacher_seeds.jsonl when left out."""
    max_tokens: int = Field(default=2048, ge=16)
    """Room for one answer, a reasoning model's thoughts included; doubled for an answer that was cut off."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    """Sampling temperature; left to the endpoint when left out."""
    token_limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the endpoint calls the room for an answer; some hosted models know the second name only."""
    concurrency: int = Field(default=8, ge=1, le=1024)
    """Requests in flight at once; for local_model, rows in a batch."""
    retries: int = Field(default=5, ge=0, le=20)
    """Further tries of a request after 429, a server's error, a lost connection or a timeout."""
    timeout_s: float = Field(default=120, gt=0, le=600)
    """Longest wait for one whole answer, in seconds."""
    attempts: int = Field(default=2, ge=1, le=5)
    """How often a seed is asked in all; each time after the first with the reasons of the refusals before."""
    limits: str = "default"
    """Profile of data_contracts/<recipe>/limits.yaml, whose trace length a row must keep."""
    min_accepted_fraction: float = Field(default=0.8, ge=0, le=1)
    """Fewer accepted rows than this share of the seeds, and the build fails: prompt, model and contract do not fit."""

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, value: str | None) -> str | None:
        if value is not None and (problem := url_problem(value)):
            # not a ValueError: its message would show the value, and with it a password
            raise ConfigError(f"config: dataset.teacher.base_url {problem}.")
        return value

    @model_validator(mode="after")
    def _one_teacher(self) -> TeacherSettings:
        if (self.base_url is None) == (self.local_model is None):
            raise ValueError("give base_url or local_model, and not both")
        if self.base_url is not None and not self.model:
            raise ValueError("base_url needs model, the model's name at the endpoint")
        if self.local_model is not None and self.temperature is not None:
            raise ValueError("local_model answers greedily: leave temperature out")
        for name in ("local_model", "seeds_file"):
            path = getattr(self, name)
            if path is not None and not (Path(path).is_file() or (name == "local_model" and Path(path).is_dir())):
                raise ValueError(f"{name} {path!r} is not there")
        return self

    @property
    def name(self) -> str:
        """The model's name, as rows and log carry it."""
        return self.model or Path(self.local_model or "").stem

    @property
    def files(self) -> list[str]:
        """The user's files that shape the rows."""
        local = Path(self.local_model) if self.local_model else None
        models = sorted(path for path in local.rglob("*") if path.is_file()) if local and local.is_dir() else [local]
        return [str(path) for path in (self.seeds_file, *models) if path]


class DatasetConfig(Settings):
    """Which rows, and how many."""

    source: str = "gold"
    """Where rows come from: "file" for your own, or a source of the recipe (nano, gold, ...)."""
    rows_file: str | None = None
    """source file: a .jsonl or .parquet of rows; shuffled by the seed, then split."""
    train_rows: int = Field(default=200, ge=1)
    """Rows to train on."""
    heldout_rows: int = Field(default=200, ge=1)
    """Rows that no model here is trained on; every score is measured on them."""
    seed: int = Field(default=42, ge=0)
    """Same seed, same bytes."""
    teacher: TeacherSettings | None = Field(default=None, title="Teacher")
    """Further training rows, whose traces a larger model writes; none when left out."""

    @model_validator(mode="after")
    def _file_is_there(self) -> DatasetConfig:
        if (self.source == "file") != (self.rows_file is not None):
            raise ValueError("source file and rows_file belong together: give both or neither")
        if self.rows_file is not None and not Path(self.rows_file).is_file():
            raise ValueError(f"rows_file {self.rows_file!r} is not there; give the path of a .jsonl or .parquet file")
        return self


def build_dataset(config: DatasetConfig, job: Job) -> dict:
    """Write both splits, and what was refused of a teacher's rows, to `job.out`.

    Raises:
        ContractError: the seeds break the row contract, or too few of the teacher's rows keep it.
        ConfigError, TransientError: the teacher's endpoint refuses, or gives no answer.
    """
    if config.teacher is None:
        made = _Made(*_own_rows(config, job.recipe))
    else:
        with _source(config.teacher) as source:
            made = _with_teacher(config, config.teacher, job, source)
        _refuse_too_few(config.teacher, job, made)
    for name, text in made.texts.items():
        (job.out / f"{name}.jsonl").write_text(text, "utf-8")
    return {"source": config.source} | ({"teacher": made.facts} if config.teacher else {})


@dataclass
class _Made:
    """Everything that is written."""

    train: list[dict]
    heldout: list[dict]
    refused: list[dict] | None = None
    """None without a teacher."""
    facts: dict = field(default_factory=dict)

    @property
    def texts(self) -> dict[str, str]:
        """Name -> what its .jsonl holds."""
        parts = {"train": self.train, "heldout": self.heldout} | (
            {} if self.refused is None else {REFUSED: self.refused}
        )
        return {
            name: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows) for name, rows in parts.items()
        }


def _own_rows(config: DatasetConfig, recipe: str) -> tuple[list[dict], list[dict]]:
    if config.source == "file":
        return _split_file(config)
    return load_recipe(recipe).build_rows(config.source, config.train_rows, config.heldout_rows, config.seed)


def _split_file(config: DatasetConfig) -> tuple[list[dict], list[dict]]:
    from data_contracts.rows_file import read_rows

    rows = read_rows(Path(config.rows_file)).to_dicts()
    wanted = config.train_rows + config.heldout_rows
    if len(rows) < wanted:
        raise ConfigError(
            f"build_dataset: {config.train_rows:,} + {config.heldout_rows:,} rows asked for, {Path(config.rows_file).name} "
            f"holds {len(rows):,}. Lower dataset.train_rows or dataset.heldout_rows, or add rows."
        )
    random.Random(config.seed).shuffle(rows)
    return rows[config.heldout_rows : wanted], rows[: config.heldout_rows]


@dataclass
class _Seed:
    """One seed on its way to a row."""

    number: int
    """Its line in the seeds file."""
    values: dict
    reasons: list[str] = field(default_factory=list)
    """Why each answer so far was refused, as `kind: detail`."""
    texts: list[str] = field(default_factory=list)
    max_tokens: int = 0
    row: dict | None = None


def _with_teacher(config: DatasetConfig, teacher: TeacherSettings, job: Job, source: Source | None) -> _Made:
    """The own rows, and after them the teacher's in the order of the seeds. `source` None asks nobody: the log must do."""
    recipe = _teaching_recipe(job.recipe)
    limits = load_limits(job.recipe, teacher.limits).model_copy(update={"min_rows": 1})
    train, heldout = _own_rows(config, job.recipe)
    seeds = _read_seeds(teacher, job, limits, train + heldout)
    where = teacher.base_url.rstrip("/") if teacher.base_url else local_identity(Path(teacher.local_model))
    tokens: Counter[str] = Counter()
    with AnswerLog(_log_path(job), _earlier_logs(job)) as log:
        left, done = seeds, 0
        for _ in range(teacher.attempts):
            asks = [_ask(teacher, where, recipe, seed) for seed in left]
            answers = answer_all(asks, log, source, job.beat, done)
            done += len(asks)
            _judge(recipe, job.recipe, limits, teacher.name, left, answers)
            for one in answers:
                tokens += Counter(prompt_tokens=one.prompt_tokens, completion_tokens=one.completion_tokens)
            left = [seed for seed in left if seed.row is None]
    rows = [seed.row for seed in seeds if seed.row is not None]
    facts = {"model": teacher.name, "accepted_rows": len(rows), "refused_rows": len(left), "prompts": done}
    facts |= {"reasons": _kinds(left), **{name: tokens[name] for name in ("prompt_tokens", "completion_tokens")}}
    return _Made(train + rows, heldout, [_refused(seed) for seed in left], facts)


def _source(teacher: TeacherSettings) -> ChatEndpoint | LocalChat:
    if teacher.local_model:
        return LocalChat(Path(teacher.local_model), teacher.concurrency)
    return ChatEndpoint(
        teacher.base_url,
        os.environ.get(API_KEY),
        concurrency=teacher.concurrency,
        retries=teacher.retries,
        timeout_s=teacher.timeout_s,
        token_limit=teacher.token_limit,
    )


def _teaching_recipe(name: str) -> ModuleType:
    recipe = load_recipe(name)
    wanted = ("teacher_seeds", "teacher_messages", "teacher_row")
    if missing := [one for one in wanted if not hasattr(recipe, one)]:
        raise ConfigError(
            f"dataset.teacher: recipe {name} has no {', '.join(missing)}, so no teacher can write its rows. "
            "Leave dataset.teacher out, or add the functions to the recipe."
        )
    return recipe


def _log_path(job: Job) -> Path:
    return job.work / LOG_NAME


def _earlier_logs(job: Job) -> list[Path]:
    """Those of builds under other keys: a changed seed, limit or line of code asks only what is new."""
    return sorted(job.work.parent.glob(f"*/{LOG_NAME}"))


def _read_seeds(teacher: TeacherSettings, job: Job, limits: Limits, own: list[dict]) -> list[_Seed]:
    """The seeds, checked before anything is spent on them.

    Raises:
        ContractError: a seed breaks the row contract, stands twice, or asks what a row of the dataset asks.
    """
    import polars as pl

    from data_contracts.contract import check_rows, format_table
    from data_contracts.rows_file import read_rows

    path = Path(teacher.seeds_file) if teacher.seeds_file else load_recipe(job.recipe).teacher_seeds()
    frame = read_rows(path)
    made_here = {"trace": "A seed has no trace of its own.", "source_batch": "teacher"}
    if frame.height == 0 or (given := [name for name in made_here if name in frame.columns]):
        wrong = (
            "holds no seeds" if frame.height == 0 else f"gives {' and '.join(given)}, which the teacher's rows get here"
        )
        raise ContractError(f"build_dataset: {path} {wrong}. Give headline, question and the expected fields alone.")
    findings = check_rows(job.recipe, frame.with_columns(**{k: pl.lit(v) for k, v in made_here.items()}), limits)
    if findings.broken:
        raise ContractError(
            f"build_dataset: the teacher's seeds break the row contract.\n{format_table(findings, path)}"
        )
    seeds = [
        _Seed(number, values, max_tokens=teacher.max_tokens)
        for number, values in enumerate(findings.frame.drop(*made_here).to_dicts(), start=1)
    ]
    places: dict[str, str] = {_input(job, row): "a row of the dataset" for row in own}
    known = []
    for seed in seeds:
        if (asked := _input(job, seed.values)) in places:
            known.append(f"line {seed.number} is {places[asked]}")
        places.setdefault(asked, f"line {seed.number} again")
    if known:
        shown = "; ".join(known[:5])
        raise ContractError(
            f"build_dataset: {len(known)} of {len(seeds)} seeds in {path} ask what is asked already: {shown}. Remove them."
        )
    return seeds


def _ask(teacher: TeacherSettings, where: str, recipe: ModuleType, seed: _Seed) -> Ask:
    """The prompt of a seed; after a refusal with its reasons, in the same message: some templates take no second one."""
    *before, last = recipe.teacher_messages(seed.values)
    if seed.reasons:
        told = "\n".join(f"- {reason}" for reason in seed.reasons)
        last = {**last, "content": f"{last['content']}\n\nEarlier answers were refused:\n{told}\nWrite it anew."}
    return Ask(where, teacher.name, (*before, last), seed.max_tokens, teacher.temperature)


def _judge(
    recipe: ModuleType, recipe_name: str, limits: Limits, model: str, seeds: list[_Seed], answers: list[Answer]
) -> None:
    """Give each seed its row, or one more reason."""
    candidates: list[tuple[_Seed, dict]] = []
    for seed, answer in zip(seeds, answers, strict=True):
        seed.texts.append(answer.text)
        row, reason = _row_of(recipe, limits, model, seed, answer)
        if answer.finish_reason == "length":
            seed.max_tokens *= 2
        if row is None:
            seed.reasons.append(reason)
        else:
            candidates.append((seed, row))
    found = _broken_rules(recipe_name, limits, [row for _, row in candidates])
    for number, (seed, row) in enumerate(candidates, start=1):
        if number in found:
            seed.reasons.append("row contract: " + "; ".join(found[number]))
        else:
            seed.row = row


def _row_of(recipe: ModuleType, limits: Limits, model: str, seed: _Seed, answer: Answer) -> tuple[dict | None, str]:
    if answer.trouble:
        return None, answer.trouble
    try:
        row = recipe.teacher_row(seed.values, answer.said, model)
    except ContractError as error:
        return None, str(error)
    problem = _length_problem(row, limits)
    return (None, problem) if problem else (row, "")


def _length_problem(row: dict, limits: Limits) -> str:
    chars = len(row["trace"])
    if limits.min_trace_chars <= chars <= limits.max_trace_chars:
        return ""
    return f"length: the trace has {chars:,} characters, not {limits.min_trace_chars:,} to {limits.max_trace_chars:,}"


def _broken_rules(recipe: str, limits: Limits, rows: list[dict]) -> dict[int, list[str]]:
    """Reasons by the row's number, from 1."""
    import polars as pl

    from data_contracts.contract import check_rows

    return check_rows(recipe, pl.DataFrame(rows, infer_schema_length=None), limits).reasons if rows else {}


def _refused(seed: _Seed) -> dict:
    return {"seed": seed.number, **seed.values, "reasons": seed.reasons, "answers": seed.texts}


def _kinds(refused: list[_Seed]) -> dict[str, int]:
    """Kind of the last reason -> seeds, the most frequent first."""
    return dict(Counter(seed.reasons[-1].partition(":")[0] for seed in refused).most_common())


def _refuse_too_few(teacher: TeacherSettings, job: Job, made: _Made) -> None:
    accepted, refused = made.facts["accepted_rows"], made.facts["refused_rows"]
    if accepted >= teacher.min_accepted_fraction * (accepted + refused):
        return
    kept = job.work / f"{REFUSED}.jsonl"
    write_whole(kept, made.texts[REFUSED])
    reasons = ", ".join(f"{count} {kind}" for kind, count in made.facts["reasons"].items())
    example = str(made.refused[0]["reasons"][-1])
    raise ContractError(
        f"build_dataset: {accepted} of {accepted + refused} teacher-made rows were accepted; "
        f"teacher.min_accepted_fraction is {teacher.min_accepted_fraction:g}. Refused: {reasons}; e.g. {example}. "
        f"All of them, with the answers: {kept}. Improve data_contracts/{job.recipe}/teacher.md or the seeds, take a "
        "stronger model, or lower the limit. What was answered is kept: only prompts that change are asked again."
    )


def read_split(folder: Path, name: str) -> list[dict]:
    """The rows of one split."""
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text("utf-8").splitlines()]


def verify_dataset(config: DatasetConfig, job: Job) -> list[Check]:
    """Measure the written files; see the module's docstring."""
    recipe = load_recipe(job.recipe)
    train, heldout = (read_split(job.out, name) for name in SPLITS)
    again = _Made(*_own_rows(config, job.recipe))
    if config.teacher:
        again = _with_teacher(config, config.teacher, job, source=None)
    same = sum((job.out / f"{name}.jsonl").read_text("utf-8") == text for name, text in again.texts.items())
    taught = train[config.train_rows :]
    inputs = {_input(job, row) for row in train}
    shared = [row for row in heldout if _input(job, row) in inputs]
    wordings = {recipe.wording(row) for row in train} - {None}
    known = [row for row in heldout if recipe.wording(row) in wordings]
    unread = [i for i, row in enumerate(train + heldout) if not recipe.reads_back(row)]
    wanted = config.train_rows + config.heldout_rows + len(taught if config.teacher else [])
    return [
        check(
            "rows written",
            len(train) + len(heldout),
            "==",
            wanted,
            detail=f"{len(train)} train, {len(heldout)} held out",
        ),
        check(
            "splits that a second build repeats byte for byte",
            same,
            "==",
            len(again.texts),
            fix="Something in build_rows draws from an unseeded source.",
        ),
        check(
            "held-out inputs that are also in training",
            len(shared),
            "==",
            0,
            detail=f"e.g. {_input(job, shared[0])[:80]!r}" if shared else "",
        ),
        check(
            "held-out wording combinations that are also in training",
            len(known),
            "==",
            0,
            detail=f"{len(wordings)} combinations in training",
        ),
        check(
            "rows whose rendered answer does not read back to the row",
            len(unread),
            "==",
            0,
            detail=f"e.g. rows {unread[:5]}" if unread else "",
        ),
        report("prompt contract", job.prompt.digest[:12]),
        *(_teacher_checks(config.teacher, job, taught) if config.teacher else ()),
    ]


def _teacher_checks(teacher: TeacherSettings, job: Job, taught: list[dict]) -> Iterator[Check]:
    """What became of the seeds, counted on the written files and on the log."""
    limits = load_limits(job.recipe, teacher.limits).model_copy(update={"min_rows": 1})
    refused = read_split(job.out, REFUSED)
    seeds = {_input(job, seed.values): seed.number for seed in _read_seeds(teacher, job, limits, [])}
    ends = Counter(_input(job, row) for row in taught + refused)
    astray = [number for asked, number in seeds.items() if ends[asked] != 1]
    broken = _broken_rules(job.recipe, limits, taught)
    broken |= {i: [why] for i, row in enumerate(taught, 1) if (why := _length_problem(row, limits))}
    with AnswerLog(_log_path(job)) as log:
        answered, repeated = len(log), log.repeated
    yield check(
        "seeds that are not exactly one row or one refusal",
        len(astray) + len(ends.keys() - seeds.keys()),
        "==",
        0,
        enough=bool(seeds),
        detail=f"lines {astray[:5]} of the seeds file" if astray else f"{len(seeds)} seeds",
        fix="Build again; the answers are kept",
    )
    yield check(
        "refused seeds without a reason", sum(not row["reasons"] for row in refused), "==", 0, detail=f"{len(refused)}"
    )
    yield check(
        "teacher-made rows that break the row contract or the trace length",
        len(broken),
        "==",
        0,
        enough=bool(taught) or teacher.min_accepted_fraction == 0,
        detail=f"e.g. row {min(broken)}: {broken[min(broken)][0]}" if broken else f"{len(taught)} rows",
        fix="Build again; a row was changed after it was accepted",
    )
    yield check(
        "share of the seeds that became rows",
        round(len(taught) / len(seeds), 4),
        ">=",
        teacher.min_accepted_fraction,
        fix=f"Improve data_contracts/{job.recipe}/teacher.md or the seeds, or take a stronger model",
    )
    yield check(
        "prompts that were answered more than once",
        repeated,
        "==",
        0,
        enough=answered > 0,
        detail=f"{answered} prompts in the log",
        fix=f"Two builds wrote to one {LOG_NAME}; delete the later lines of the same `asked`",
    )


def _input(job: Job, row: dict) -> str:
    """The whole rendered prompt, case and spaces folded: rendering it also proves that the row can be rendered."""
    return " ".join(job.prompt.messages(row)[-1]["content"].lower().split())


_LOCAL_STACK = ("torch", "transformers", "llama_cpp_python")

STAGE = Stage(
    name="build_dataset",
    kind="dataset",
    version=1,
    work=build_dataset,
    verify=verify_dataset,
    optional_stack=lambda config: _LOCAL_STACK if config.teacher and config.teacher.local_model else (),
    contract=(
        "prompt.md",
        "output.py",
        "rows.py",
        "limits.yaml",
        "teacher.md",
        "examples/gold.jsonl",
        "examples/heldout.jsonl",
        "examples/teacher_seeds.jsonl",
    ),
    uses_recipe=True,
    uses_hub=True,  # the child sees the teacher's key
    outside=lambda config: [
        *([config.rows_file] if config.rows_file else []),
        *(config.teacher.files if config.teacher else []),
    ],
)

if __name__ == "__main__":
    raise SystemExit(child_main(STAGE, DatasetConfig))
