"""distill_rows on proofkit: an answer must be about its own row, and thoughts in front of it are cut off."""

from __future__ import annotations

import pytest

from data_contracts.prompting.prompt import load_prompt
from data_contracts.proofkit import house_rules
from tasks.core.stage import Job
from tasks.core.stage_process import execute
from tasks.distill_rows import STAGE, DistillConfig
from tasks.distillation.teacher_answers import prompt_digest
from tasks.formats.jsonl import as_lines, read_lines
from tasks.recipes.proofkit import nano_rows as proofkit_nano

CONFIG = DistillConfig(limits="nano", min_accepted_fraction=0.1)
TASKS = 7


def distilled(tmp_path, texts_of) -> tuple[dict, list[dict], list[dict], list[dict]]:
    """(facts, rows of the dataset, accepted, rejected) where `texts_of(rows)` gives the teacher's answers."""
    train, heldout = proofkit_nano.nano_rows(4 * TASKS, 14, 3)
    for name, rows in (("train", train), ("heldout", heldout)):
        (tmp_path / "dataset").mkdir(exist_ok=True)
        (tmp_path / "dataset" / f"{name}.jsonl").write_text(as_lines(rows), "utf-8")
    contract = load_prompt("proofkit")
    kept = {"finish_reason": "stop", "refusal": "", "hidden_chars": 0, "prompt_tokens": 9, "completion_tokens": 9}
    lines = [
        {
            "row": i,
            "prompt_digest": prompt_digest(contract.messages(row)),
            "text": text,
            **kept,
            "attempts": 1,
            "problem": "",
        }
        for i, (row, text) in enumerate(zip(train, texts_of(train), strict=True), start=1)
    ]
    (tmp_path / "answers").mkdir()
    (tmp_path / "answers" / "answers.jsonl").write_text(as_lines(lines), "utf-8")
    inputs = {"dataset": tmp_path / "dataset", "answers_000": tmp_path / "answers"}
    job = Job("proofkit", tmp_path / "out", inputs=inputs, work=tmp_path / "work")
    for path in (job.out, job.work):
        path.mkdir()
    outcome = execute(STAGE, CONFIG, job)
    assert {one["verdict"] for one in outcome["checks"]} == {"pass"}
    return outcome["facts"], train, read_lines(job.out / "train.jsonl"), read_lines(job.out / "rejected.jsonl")


@pytest.mark.parametrize(
    "thoughts", ["", "<think>\nThe user wants it short.\n</think>\n\n", "Short, then.\n</think>\n\n"]
)
def test_right_answers_are_accepted_without_their_thoughts(tmp_path, thoughts):
    facts, rows, accepted, _ = distilled(tmp_path, lambda rows: [thoughts + row["target"] for row in rows])
    assert facts["rejected_rows"] == 0 and accepted == rows


def test_the_answer_to_another_row_is_rejected(tmp_path):
    """Answers that fit no row in particular teach templates: each row gets that of the row before it."""

    def shifted(rows: list[dict]) -> list[str]:
        return [rows[i - 1]["target"] if i % 2 else row["target"] for i, row in enumerate(rows)]

    facts, rows, _, rejected = distilled(tmp_path, shifted)
    assert facts["rejected_rows"] == len(rejected) == len(rows) // 2
    assert [one["row"] for one in rejected] == list(range(2, len(rows) + 1, 2))
    assert set(facts["reasons"]) <= {"house rules", "invalid JSON"}, facts["reasons"]


@pytest.mark.parametrize("prefix", ["final", "final\n", "final\n\n"])
def test_a_channel_s_name_before_an_answer_of_any_task_is_rejected(tmp_path, prefix):
    facts, rows, _, rejected = distilled(
        tmp_path, lambda rows: [(prefix if i >= TASKS else "") + row["target"] for i, row in enumerate(rows)]
    )
    leaking = list(range(TASKS + 1, len(rows) + 1))
    assert {rows[number - 1]["task"] for number in leaking} == set(house_rules.TASKS)
    assert [one["row"] for one in rejected] == leaking and facts["reasons"] == {"leaked marker": len(leaking)}
