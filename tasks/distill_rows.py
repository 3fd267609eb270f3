"""Put a teacher's answers in place of the rows' own, and turn away what a student must not learn.

Reads:    dataset (train.jsonl, heldout.jsonl), and each shard of the teacher's answers, as answers_000, answers_001, ...
Writes:   train.jsonl: the accepted rows, with the teacher's answer, in the dataset's order; heldout.jsonl as it was;
          rejected.jsonl: the other rows as they were, with `row` (the line in the dataset), `reason` and `teacher_text`.
Verifies: every training row is exactly one accepted row or one rejected; each prompt has one answer, given to the prompt that the
          row makes now; accepted rows keep the row contract, read back from their rendering, hold no marker of a channel and
          come out the same a second time; the held-out rows are byte for byte those of the dataset; enough were accepted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import Field

from data_contracts.limits import load_limits
from data_contracts.prompting import markers
from data_contracts.prompting.prompt import PromptSet, load_prompt
from data_contracts.verdict import Check, check
from tasks.core.artifact import Artifact, sha256_file, write_whole
from tasks.core.errors import ArtifactError, ContractError
from tasks.core.settings import Settings
from tasks.core.stage import Job, Stage
from tasks.core.stage_process import child_main
from tasks.distillation.contamination import reason_against, usable_text
from tasks.distillation.row_rules import broken_rules
from tasks.distillation.teacher_answers import ANSWERS, answer_of, kinds, prompt_digest
from tasks.formats.jsonl import as_lines, read_lines, write_lines
from tasks.recipes import keeps_trace, load_recipe

TRAIN, HELDOUT, REJECTED = "train.jsonl", "heldout.jsonl", "rejected.jsonl"


class DistillConfig(Settings):
    """Which answers become rows."""

    limits: str = "default"
    """Profile of data_contracts/<recipe>/limits.yaml that each row must keep."""
    prompt_set: PromptSet = "trained"
    """The words that the teacher was asked with; as in generate_teacher."""
    min_accepted_fraction: float = Field(default=0.8, gt=0, le=1)
    """Fewer accepted rows than this share of the dataset, and the build fails: a student of the rest would be another one."""


def named(answers: Sequence[Artifact]) -> dict[str, Artifact]:
    """The shards of a teacher's answers under the names by which this stage takes them."""
    return {f"answers_{number:03d}": one for number, one in enumerate(answers)}


@dataclass
class Distilled:
    """What became of the training rows."""

    train: list[dict] = field(default_factory=list)
    rejected: list[dict] = field(default_factory=list)

    @property
    def reasons(self) -> dict[str, int]:
        """Kind of each rejection -> rows."""
        return kinds([one["reason"] for one in self.rejected])


def distill_rows(config: DistillConfig, job: Job) -> dict:
    """Judge every answer and write what is left; returns counts.

    Raises:
        ArtifactError: a shard is missing, given twice, or answers another dataset.
        ContractError: too few answers were accepted; all rejected ones are kept.
    """
    made = _distilled(config, job)
    total = len(made.train) + len(made.rejected)
    if len(made.train) < config.min_accepted_fraction * total:
        kept = job.work / REJECTED
        write_whole(kept, as_lines(made.rejected))
        counts = ", ".join(f"{count} {kind}" for kind, count in made.reasons.items())
        raise ContractError(
            f"distill_rows: {len(made.train):,} of {total:,} answers were accepted; min_accepted_fraction is "
            f"{config.min_accepted_fraction:g}. Rejected: {counts}; e.g. {made.rejected[0]['reason']}. All of them, with "
            f"the teacher's words: {kept}. Take a better teacher, more room for its answers, or lower the limit."
        )
    write_lines(job.out / TRAIN, made.train)
    write_lines(job.out / REJECTED, made.rejected)
    (job.out / HELDOUT).write_bytes((job.inputs["dataset"] / HELDOUT).read_bytes())
    return {"accepted_rows": len(made.train), "rejected_rows": len(made.rejected), "reasons": made.reasons}


def _distilled(config: DistillConfig, job: Job) -> Distilled:
    rows, answers = _rows_and_answers(config, job)
    recipe, limits = load_recipe(job.recipe), load_limits(job.recipe, config.limits)
    keeps = keeps_trace(job.recipe)
    candidates: dict[int, dict] = {}
    reasons: dict[int, str] = {}
    for number, row in enumerate(rows, start=1):
        line = answers[number]
        if against := reason_against(answer_of(line), keeps, line["problem"]):
            reasons[number] = against
            continue
        try:
            candidates[number] = recipe.with_answer(row, usable_text(answer_of(line), keeps))
        except ContractError as error:
            reasons[number] = str(error)
    broken = broken_rules(job.recipe, limits, list(candidates.values()))
    reasons |= {number: broken[place] for place, number in enumerate(candidates, start=1) if place in broken}
    made = Distilled([row for number, row in candidates.items() if number not in reasons])
    for number, row in enumerate(rows, start=1):
        if number in reasons:
            said = answers[number]["text"]
            made.rejected.append({"row": number, "reason": reasons[number], "teacher_text": said, **row})
    return made


def _shards(job: Job) -> list[list[dict]]:
    names = sorted(name for name in job.inputs if name.startswith("answers"))
    return [read_lines(job.inputs[name] / ANSWERS) for name in names]


def _rows_and_answers(config: DistillConfig, job: Job) -> tuple[list[dict], dict[int, dict]]:
    """The dataset's rows, and the line of answers.jsonl for each row's number.

    Raises:
        ArtifactError: the shards do not answer these rows, each once.
    """
    rows = read_lines(job.inputs["dataset"] / TRAIN)
    lines = [line for shard in _shards(job) for line in shard]
    answers = {line["row"]: line for line in lines}
    contract = load_prompt(job.recipe, config.prompt_set)
    without = [number for number in range(1, len(rows) + 1) if number not in answers]
    beyond = [number for number in answers if not 1 <= number <= len(rows)]
    stale = [
        number
        for number, row in enumerate(rows, start=1)
        if number in answers and answers[number]["prompt_digest"] != prompt_digest(contract.messages(row))
    ]
    troubles = {
        "rows have no answer": (without, "hand over every shard"),
        "answers belong to no row": (beyond, "hand over the dataset that they were made from"),
        "rows are answered more than once": (list(range(len(lines) - len(answers))), "hand over each shard once"),
        "answers were given to another prompt than the row makes": (
            stale,
            "generate them anew, or set prompt_set as it was in generate_teacher",
        ),
    }
    if told := [f"{len(found):,} {what}: {advice}" for what, (found, advice) in troubles.items() if found]:
        raise ArtifactError(
            f"distill_rows: the teacher's answers do not fit the {len(rows):,} rows of the dataset. {'; '.join(told)}."
        )
    return rows, answers


def verify_distilled(config: DistillConfig, job: Job) -> list[Check]:
    """Measure the written files; see the module's docstring."""
    recipe, prompt = load_recipe(job.recipe), load_prompt(job.recipe)
    rows, answers = _rows_and_answers(config, job)
    train, rejected = read_lines(job.out / TRAIN), read_lines(job.out / REJECTED)
    again = _distilled(config, job)
    turned_away = Counter(one["row"] for one in rejected)
    left = [row for number, row in enumerate(rows, start=1) if number not in turned_away]
    astray = abs(len(left) - len(train)) + sum(
        prompt.messages(one) != prompt.messages(row) for one, row in zip(train, left, strict=False)
    )
    leaking = [i for i, (one, row) in enumerate(zip(train, left, strict=False), 1) if _leaks(recipe, one, row)]
    broken = broken_rules(job.recipe, load_limits(job.recipe, config.limits), train)
    unread = [i for i, row in enumerate(train, start=1) if not recipe.reads_back(row)]
    made = {TRAIN: again.train, REJECTED: again.rejected}
    same = sum((job.out / name).read_text("utf-8") == as_lines(lines) for name, lines in made.items())
    heldout = [sha256_file(folder / HELDOUT) for folder in (job.out, job.inputs["dataset"])]
    some = bool(train)
    return [
        check(
            "training rows that are not exactly one accepted or one rejected row",
            astray
            + sum(count > 1 for count in turned_away.values())
            + sum(not 1 <= n <= len(rows) for n in turned_away),
            "==",
            0,
            enough=bool(rows),
            detail=f"{len(rows)} rows, {len(train)} accepted, {len(rejected)} rejected",
        ),
        check("answers of the teacher", len(answers), "==", len(rows)),
        check("files that a second pass repeats byte for byte", same, "==", 2),
        check("accepted rows with a leaked marker", len(leaking), "==", 0, enough=some, detail=_e_g(leaking)),
        check(
            "accepted rows that break the row contract", len(broken), "==", 0, enough=some, detail=_e_g(list(broken))
        ),
        check("accepted rows whose answer does not read back", len(unread), "==", 0, enough=some, detail=_e_g(unread)),
        check("rejected rows without a reason", sum(not one["reason"] for one in rejected), "==", 0),
        check("digest of the held-out rows", heldout[0][:16], "==", heldout[1][:16]),
        check(
            "share of the rows that were accepted",
            round(len(train) / max(1, len(rows)), 4),
            ">=",
            config.min_accepted_fraction,
            detail=str(again.reasons or ""),
        ),
    ]


def _leaks(recipe, row: dict, before: dict) -> bool:
    """Whether what the teacher wrote holds a marker, raw or stripped."""
    written = [value for name, value in row.items() if isinstance(value, str) and value != before.get(name)]
    return any(re.search(markers.ANY_MARKER, text) for text in written) or bool(
        re.search(f"{markers.RAW_MARKERS}|{markers.STRIPPED_MARKERS}", recipe.completion(row))
    )


def _e_g(rows: list[int]) -> str:
    return f"e.g. rows {rows[:5]}" if rows else ""


STAGE = Stage(
    name="distill_rows",
    kind="dataset",
    version=1,
    work=distill_rows,
    verify=verify_distilled,
    stack=("pandera", "polars"),
    contract=("prompt.md", "prompt_rich.md", "output.py", "rows.py", "limits.yaml"),
)

if __name__ == "__main__":
    raise SystemExit(child_main(STAGE, DistillConfig))
