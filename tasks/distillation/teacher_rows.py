"""Rows whose traces a teacher writes: seeds are asked, answers judged, refusals kept with their reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from data_contracts.limits import Limits, load_limits
from data_contracts.prompting.prompt import load_prompt
from data_contracts.verdict import Check, check
from tasks.clients.local_model import local_identity
from tasks.clients.requests import Answer, Ask, Source
from tasks.clients.response_log import AnswerLog, answer_in_rounds
from tasks.core.artifact import write_whole
from tasks.core.errors import ConfigError, ContractError
from tasks.core.stage import Job
from tasks.distillation.row_rules import broken_rules
from tasks.distillation.teacher_settings import TeacherSettings
from tasks.formats.jsonl import as_lines, read_lines
from tasks.recipes import load_recipe
from tasks.recipes.interface import Teaching

REFUSED = "refused"
LOG_NAME = "teacher-answers.jsonl"


@dataclass
class TeacherRows:
    """What became of a teacher's seeds."""

    rows: list[dict]
    """The accepted ones, in the order of the seeds."""
    refused: list[dict]
    """The others, with the reasons and the answers."""
    facts: dict
    """For the manifest: counts, reasons, tokens."""


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
    no_room: bool = False
    """It does not fit the teacher's context, and a prompt that tells of it is no shorter: it is not asked again."""
    row: dict | None = None


def ask_teacher(teacher: TeacherSettings, job: Job, own: list[dict], source: Source | None) -> TeacherRows:
    """Every seed asked until it is a row or out of attempts. `own` are the dataset's rows: no seed may ask what they ask.

    `source` None asks nobody: the log must do.

    Raises:
        ContractError: the seeds break the row contract.
        ConfigError, TransientError: the teacher's endpoint refuses, or gives no answer.
    """
    recipe = _teaching_recipe(job.recipe)
    limits = load_limits(job.recipe, teacher.limits).model_copy(update={"min_rows": 1})
    seeds = _read_seeds(teacher, job, limits, own)
    where = teacher.base_url.rstrip("/") if teacher.base_url else local_identity(Path(str(teacher.local_model)))

    def unfinished(sent: list[_Seed], _asks: list[Ask], answers: list[Answer]) -> list[_Seed]:
        _judge(recipe, job.recipe, limits, teacher.served_as, sent, answers)
        return [seed for seed in sent if seed.row is None and not seed.no_room]

    with AnswerLog(_log_path(job), _earlier_logs(job)) as log:
        spent = answer_in_rounds(
            seeds, teacher.attempts, lambda seed: _ask(teacher, where, recipe, seed), unfinished, log, source, job.beat
        )
    rows = [seed.row for seed in seeds if seed.row is not None]
    refused = [seed for seed in seeds if seed.row is None]
    facts = {"model": teacher.served_as, "accepted_rows": len(rows), "refused_rows": len(refused)}
    facts |= {
        "reasons": _kinds(refused),
        "prompts": spent["requests"],
        **{name: spent[name] for name in ("prompt_tokens", "completion_tokens")},
    }
    return TeacherRows(rows, [_refused(seed) for seed in refused], facts)


def _teaching_recipe(name: str) -> Teaching:
    recipe = load_recipe(name)
    if not isinstance(recipe, Teaching):
        missing = [
            one
            for one in ("SEED_FIELDS", "teacher_seeds", "teacher_messages", "teacher_row")
            if not hasattr(recipe, one)
        ]
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

    from data_contracts.rows.contract import check_rows
    from data_contracts.rows.findings import format_table
    from data_contracts.rows.rows_file import read_rows

    recipe = _teaching_recipe(job.recipe)
    path = Path(teacher.seeds_file) if teacher.seeds_file else recipe.teacher_seeds()
    frame = read_rows(path)
    made_here = {"trace": "A seed has no trace of its own.", "source_batch": "teacher"}
    if frame.height == 0 or (given := [name for name in made_here if name in frame.columns]):
        wrong = (
            "holds no seeds" if frame.height == 0 else f"gives {' and '.join(given)}, which the teacher's rows get here"
        )
        raise ContractError(
            f"build_dataset: {path} {wrong}. Give {', '.join(recipe.SEED_FIELDS)} and the expected fields alone."
        )
    findings = check_rows(job.recipe, frame.with_columns(**{k: pl.lit(v) for k, v in made_here.items()}), limits)
    if findings.broken:
        raise ContractError(
            f"build_dataset: the teacher's seeds break the row contract.\n{format_table(findings, path)}"
        )
    seeds = [
        _Seed(number, values, max_tokens=teacher.max_tokens)
        for number, values in enumerate(findings.frame.drop(*made_here).to_dicts(), start=1)
    ]
    places: dict[str, str] = {asked_of(job, row): "a row of the dataset" for row in own}
    known = []
    for seed in seeds:
        if (asked := asked_of(job, seed.values)) in places:
            known.append(f"line {seed.number} is {places[asked]}")
        places.setdefault(asked, f"line {seed.number} again")
    if known:
        shown = "; ".join(known[:5])
        raise ContractError(
            f"build_dataset: {len(known)} of {len(seeds)} seeds in {path} ask what is asked already: {shown}. Remove them."
        )
    return seeds


def _ask(teacher: TeacherSettings, where: str, recipe: Teaching, seed: _Seed) -> Ask:
    """The prompt of a seed; after a refusal with its reasons, in the same message: some templates take no second one."""
    *before, last = recipe.teacher_messages(seed.values)
    if seed.reasons:
        told = "\n".join(f"- {reason}" for reason in seed.reasons)
        last = {**last, "content": f"{last['content']}\n\nEarlier answers were refused:\n{told}\nWrite it anew."}
    return Ask(where, teacher.served_as, (*before, last), seed.max_tokens, teacher.sent_temperature)


def _judge(
    recipe: Teaching, recipe_name: str, limits: Limits, model: str, seeds: list[_Seed], answers: list[Answer]
) -> None:
    """Give each seed its row, or one more reason."""
    candidates: list[tuple[_Seed, dict]] = []
    for seed, answer in zip(seeds, answers, strict=True):
        seed.no_room = answer.no_room
        if seed.no_room and seed.reasons:  # the prompt grew, or its room did: what was wrong before is the reason
            continue
        seed.texts.append(answer.text)
        row, reason = _row_of(recipe, model, seed, answer)
        if answer.finish_reason == "length":
            seed.max_tokens *= 2
        if row is None:
            seed.reasons.append(reason)
        else:
            candidates.append((seed, row))
    found = broken_rules(recipe_name, limits, [row for _, row in candidates])
    for number, (seed, row) in enumerate(candidates, start=1):
        if number in found:
            seed.reasons.append(found[number])
        else:
            seed.row = row


def _row_of(recipe: Teaching, model: str, seed: _Seed, answer: Answer) -> tuple[dict | None, str]:
    if answer.trouble:
        return None, answer.trouble
    try:
        return recipe.teacher_row(seed.values, answer.said, model), ""
    except ContractError as error:
        return None, str(error)


def _refused(seed: _Seed) -> dict:
    return {"seed": seed.number, **seed.values, "reasons": seed.reasons, "answers": seed.texts}


def _kinds(refused: list[_Seed]) -> dict[str, int]:
    """Kind of the last reason -> seeds, the most frequent first."""
    return dict(Counter(seed.reasons[-1].partition(":")[0] for seed in refused).most_common())


def refuse_too_few(teacher: TeacherSettings, job: Job, made: TeacherRows) -> None:
    """Raises ContractError when fewer rows than dataset.teacher.min_accepted_fraction were accepted; keeps the refused ones."""
    accepted, refused = made.facts["accepted_rows"], made.facts["refused_rows"]
    if accepted >= teacher.min_accepted_fraction * (accepted + refused):
        return
    kept = job.work / f"{REFUSED}.jsonl"
    write_whole(kept, as_lines(made.refused))
    reasons = ", ".join(f"{count} {kind}" for kind, count in made.facts["reasons"].items())
    example = str(made.refused[0]["reasons"][-1])
    raise ContractError(
        f"build_dataset: {accepted} of {accepted + refused} teacher-made rows were accepted; "
        f"dataset.teacher.min_accepted_fraction is {teacher.min_accepted_fraction:g}. Refused: {reasons}; e.g. {example}. "
        f"All of them, with the answers: {kept}. Improve data_contracts/{job.recipe}/teacher.md or the seeds, take a "
        "stronger model, or lower the limit. What was answered is kept: only prompts that change are asked again."
    )


def teacher_checks(teacher: TeacherSettings, job: Job, taught: list[dict]) -> Iterator[Check]:
    """What became of the seeds, counted on the written files and on the log."""
    limits = load_limits(job.recipe, teacher.limits).model_copy(update={"min_rows": 1})
    refused = read_lines(job.out / f"{REFUSED}.jsonl")
    seeds = {asked_of(job, seed.values): seed.number for seed in _read_seeds(teacher, job, limits, [])}
    ends = Counter(asked_of(job, row) for row in taught + refused)
    astray = [number for asked, number in seeds.items() if ends[asked] != 1]
    broken = broken_rules(job.recipe, limits, taught)
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
        detail=f"e.g. row {min(broken)}: {broken[min(broken)]}" if broken else f"{len(taught)} rows",
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


def asked_of(job: Job, row: dict) -> str:
    """The whole rendered prompt, case and spaces folded: rendering it also proves that the row can be rendered."""
    return " ".join(load_prompt(job.recipe).messages(row)[-1]["content"].lower().split())
