"""distill_rows: which answers become rows, why the others do not, and what damage its checks see."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from data_contracts.verdict import failures
from tasks.core.errors import ArtifactError, ContractError
from tasks.core.stage import Job
from tasks.core.stage_process import execute
from tasks.distill_rows import STAGE, DistillConfig, distill_rows, named, verify_distilled
from tasks.distillation.teacher_answers import prompt_digest
from tasks.formats.jsonl import as_lines
from tasks.recipes.signals import recipe as signals
from tests.fixtures.teaching import job_in, make_dataset, rows_of, user_text
from tests.fixtures.tiny_chain import failed

CONFIG = DistillConfig(limits="nano", min_accepted_fraction=0.5)


def better(row: dict) -> str:
    """A trace in other words than the nano world's, of a length that its limits allow, which concludes what the row says."""
    verb = "rises" if row["direction"] > 0 else "falls" if row["direction"] < 0 else "stays"
    return f"The headline is set beside what YES needs. The chance of YES {verb}. {'It is weighed with care. ' * 5}"


def answer(number: int, row: dict, text: str | None = None, **more) -> dict:
    """A line of answers.jsonl; the right answer in the teacher's own words unless `text` is given."""
    text = text if text is not None else right(row)
    digest = prompt_digest([{"role": "system", "content": system()}, {"role": "user", "content": user_text(row)}])
    line = {
        "row": number,
        "prompt_digest": digest,
        "text": text,
        "finish_reason": "stop",
        "refusal": "",
        "hidden_chars": 0,
    }
    return {**line, "prompt_tokens": 9, "completion_tokens": 9, "attempts": 1, "problem": "", **more}


def system() -> str:
    from data_contracts.prompting.prompt import load_prompt

    return load_prompt("signals").system


def right(row: dict) -> str:
    return signals.completion({**row, "trace": better(row).strip() if row["relevance"] > 0.1 else row["trace"]})


@pytest.fixture
def dataset(tmp_path) -> Path:
    return make_dataset(tmp_path / "dataset")


def job_with(tmp_path: Path, dataset: Path, *shards: list[dict]) -> Job:
    folders = {}
    for number, lines in enumerate(shards):
        folder = tmp_path / f"answers{number}"
        folder.mkdir()
        (folder / "answers.jsonl").write_text(as_lines(lines), "utf-8")
        folders[f"answers_{number:03d}"] = folder
    return job_in(tmp_path, dataset, **folders)


def answers_to(dataset: Path, **changed: dict) -> list[dict]:
    """An answer to each row; `row4={"text": ...}` changes that of row 4."""
    rows = enumerate(rows_of(dataset), start=1)
    return [answer(number, row, **changed.get(f"row{number}", {})) for number, row in rows]


def signal_row(dataset: Path) -> int:
    """Number of the first row that is no noise."""
    return next(number for number, row in enumerate(rows_of(dataset), 1) if row["relevance"] > 0.1)


def test_accepted_rows_carry_the_teacher_s_words_and_the_rest_of_the_row(tmp_path, dataset):
    lines = answers_to(dataset)
    outcome = execute(STAGE, CONFIG, job_with(tmp_path, dataset, lines[:5], lines[5:]))
    assert {one["verdict"] for one in outcome["checks"]} == {"pass"} and len(outcome["checks"]) == 9
    assert outcome["facts"] == {"accepted_rows": 12, "rejected_rows": 0, "reasons": {}}
    out = tmp_path / "out"
    for before, after in zip(rows_of(dataset), rows_of(out), strict=True):
        assert {k: v for k, v in after.items() if k != "trace"} == {k: v for k, v in before.items() if k != "trace"}
        assert signals.completion(after) == right(before)
    assert (out / "heldout.jsonl").read_bytes() == (dataset / "heldout.jsonl").read_bytes()
    assert rows_of(out, "rejected") == []


def test_what_the_teacher_says_within_the_tolerance_becomes_the_row_s(tmp_path, dataset):
    number = signal_row(dataset)
    row = rows_of(dataset)[number - 1]
    near = {**row, "novelty": round(row["novelty"] + 0.1, 2), "trace": better(row).strip()}
    lines = answers_to(dataset, **{f"row{number}": {"text": signals.completion(near)}})
    execute(STAGE, CONFIG, job_with(tmp_path, dataset, lines))
    assert rows_of(tmp_path / "out")[number - 1]["novelty"] == near["novelty"]


def says(row: dict, **changes) -> str:
    return signals.completion({**row, "trace": better(row).strip(), **changes})


CASES = {
    "disagrees with the label: direction": lambda row: {"text": says(row, direction=-row["direction"])},
    "disagrees with the label: magnitude": lambda row: {"text": says(row, magnitude=min(1.0, row["magnitude"] + 0.3))},
    "disagrees with the label: information_type": lambda row: {"text": says(row, information_type="opinion")},
    "disagrees with the label: relevance": lambda row: {"text": says(row, relevance=0.05)},
    "disagrees with the label: error_code": lambda row: {
        "text": f"<think>\n{better(row).strip()}\n</think>\n\n"
        '{"error_code": "truncated", "error_message": "The headline is cut off."}'
    },
    "unreadable: answer": lambda row: {"text": f"<think>\n{better(row).strip()}\n</think>\n\nYES falls."},
    "unreadable: no closing": lambda row: {"text": says(row).partition("</think>\n\n")[2]},
    "empty: no answer, only": lambda row: {"text": says(row).split("</think>")[0]},
    "length": lambda row: {"text": says(row, trace="Too short to teach.")},
    "row contract: trace": lambda row: {"text": says(row, trace=better(row) + '{"relevance": 0.9}')},
    "leaked marker": lambda row: {"text": "final" + says(row).partition("</think>\n\n")[2]},
    "leaked marker: 'assistantfinal'": lambda row: {"text": says(row, trace="We think. assistantfinal " + better(row))},
    "truncated": lambda row: {"text": says(row)[:60], "finish_reason": "length"},
    "empty": lambda row: {"text": "", "hidden_chars": 4000},
    "refusal": lambda row: {"text": "I'm sorry, but I can't help with that."},
    "harmony: 2 final messages": lambda row: {"text": says(row), "problem": "harmony: 2 final messages"},
}


@pytest.mark.parametrize("reason", CASES)
def test_a_bad_answer_is_rejected_with_its_reason(tmp_path, dataset, reason):
    number = signal_row(dataset)
    row = rows_of(dataset)[number - 1]
    lines = answers_to(dataset, **{f"row{number}": CASES[reason](row)})
    outcome = execute(STAGE, CONFIG, job_with(tmp_path, dataset, lines))
    (rejected,) = rows_of(tmp_path / "out", "rejected")
    assert rejected["reason"].startswith(reason), rejected["reason"]
    assert rejected["row"] == number and rejected["teacher_text"] == lines[number - 1]["text"]
    assert {name: rejected[name] for name in row} == row
    assert outcome["facts"]["reasons"] == {reason.partition(":")[0]: 1}
    assert len(rows_of(tmp_path / "out")) == 11


def test_malformed_rows_keep_their_error(tmp_path):
    gold = [json.loads(one) for one in signals.teacher_seeds().with_name("gold.jsonl").read_text("utf-8").splitlines()]
    row = next(one for one in gold if signals.malformed(one))
    text = signals.completion({**row, "error_message": "Another sentence about the same trouble."})
    made = signals.with_answer(row, text)
    assert made == {**row, "error_message": "Another sentence about the same trouble."}
    with pytest.raises(ContractError, match="^disagrees with the label: error_code is None"):
        signals.with_answer(row, signals.completion(next(one for one in gold if not signals.malformed(one))))


def test_too_few_accepted_answers_fail_and_are_all_kept(tmp_path, dataset):
    bad = {f"row{number}": {"text": ""} for number in range(1, 8)}
    job = job_with(tmp_path, dataset, answers_to(dataset, **bad))
    with pytest.raises(ContractError, match=r"5 of 12 answers were accepted; .* is 0.5. Rejected: 7 empty; e.g. empty"):
        distill_rows(CONFIG, job)
    assert len(rows_of(job.work, "rejected")) == 7 and not list(job.out.iterdir())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda lines: lines[:-2], "2 rows have no answer: hand over every shard"),
        (lambda lines: [*lines, lines[0]], "1 rows are answered more than once"),
        (lambda lines: [*lines, {**lines[0], "row": 13}], "1 answers belong to no row"),
        (lambda lines: [{**lines[0], "prompt_digest": "0" * 64}, *lines[1:]], "1 answers were given to another prompt"),
    ],
)
def test_answers_that_do_not_fit_the_rows_are_refused(tmp_path, dataset, change, told):
    job = job_with(tmp_path, dataset, change(answers_to(dataset)))
    with pytest.raises(ArtifactError, match=told):
        distill_rows(CONFIG, job)


def test_shards_have_names_that_the_stage_knows():
    class One:
        pass

    first, second = One(), One()
    assert named([first, second]) == {"answers_000": first, "answers_001": second}


# --- damage


def edit(path: Path, change) -> None:
    path.write_text(as_lines(change([json.loads(line) for line in path.read_text("utf-8").splitlines()])), "utf-8")


@pytest.mark.parametrize(
    ("file", "change", "caught"),
    [
        ("train", lambda rows: rows[:-1], "not exactly one accepted or one rejected"),
        ("train", lambda rows: [*rows, rows[-1]], "not exactly one accepted or one rejected"),
        ("train", lambda rows: [*rows[:-1], {**rows[-1], "headline": "Of no row"}], "not exactly one accepted"),
        ("rejected", lambda _rows: [], "not exactly one accepted or one rejected"),
        ("rejected", lambda rows: [*rows, rows[0]], "not exactly one accepted or one rejected"),
        ("rejected", lambda rows: [{**rows[0], "reason": ""}], "rejected rows without a reason"),
        ("train", lambda rows: [{**rows[0], "trace": f"{better(rows[0])}assistantfinal"}, *rows[1:]], "leaked marker"),
        ("train", lambda rows: [{**rows[0], "direction": 7.0}, *rows[1:]], "break the row contract"),
        ("train", lambda rows: [{**rows[0], "trace": "a </think> b"}, *rows[1:]], "does not read back"),
        ("train", lambda rows: [{**rows[0], "novelty": 0.123}, *rows[1:]], "second pass repeats byte for byte"),
        ("heldout", lambda rows: rows[::-1], "digest of the held-out rows"),
        ("train", lambda rows: rows[:3], "share of the rows that were accepted"),
    ],
)
def test_damage_is_caught(tmp_path, dataset, file, change, caught):
    job = job_with(tmp_path, dataset, answers_to(dataset, row3={"text": ""}))
    distill_rows(CONFIG, job)
    assert not failures(verify_distilled(CONFIG, job))
    edit(job.out / f"{file}.jsonl", change)
    found = failed(verify_distilled(CONFIG, job))
    assert any(caught in name for name in found), found


def test_validate_dataset_takes_what_was_distilled(tmp_path, tiny_base):
    from tasks.validate_dataset import ValidateConfig, validate_dataset

    dataset = make_dataset(tmp_path / "dataset", 120, 100)
    job = job_with(tmp_path, dataset, answers_to(dataset))
    execute(STAGE, CONFIG, job)
    out = tmp_path / "rows"
    out.mkdir()
    again = replace(job, inputs={"dataset": job.out, "base": tiny_base}, out=out)
    facts = validate_dataset(ValidateConfig(limits="nano"), again)
    assert (facts["train_rows"], facts["heldout_rows"]) == (120, 100)
