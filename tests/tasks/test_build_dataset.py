"""build_dataset: each check passes on what was built, and fails when that is damaged."""

from __future__ import annotations

import json

import pytest

from data_contracts.verdict import failures
from tasks.build_dataset import STAGE, DatasetConfig, build_dataset, verify_dataset
from tasks.core.errors import ConfigError, ContractError
from tasks.core.stage import Job
from tasks.core.stage_process import execute
from tasks.recipes.proofkit import recipe as proofkit
from tasks.recipes.signals import recipe as signals

CONFIG = DatasetConfig(source="nano", train_rows=60, heldout_rows=30)


@pytest.fixture
def built(tmp_path):
    job = Job("signals", tmp_path)
    build_dataset(CONFIG, job)
    return job


def edit(job: Job, split: str, change) -> None:
    path = job.out / f"{split}.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in change(rows)))


def first_row(job: Job, split: str) -> dict:
    return json.loads((job.out / f"{split}.jsonl").read_text().splitlines()[0])


def test_a_sound_build_passes(tmp_path):
    outcome = execute(STAGE, CONFIG, Job("signals", tmp_path))
    assert len(outcome["checks"]) == 6
    assert {one["verdict"] for one in outcome["checks"]} == {"pass"}


@pytest.mark.parametrize(
    ("split", "change", "caught"),
    [
        ("train", lambda rows: rows[:-1], "rows written"),
        ("train", lambda rows: rows[::-1], "splits that a second build repeats byte for byte"),
        ("heldout", lambda rows: [{**rows[0], "trace": ""}, *rows[1:]], "splits that a second build repeats"),
        ("train", lambda rows: [{**rows[0], "direction": 7.0}, *rows[1:]], "does not read back"),
        ("train", lambda rows: [{**rows[0], "trace": "a </think> b"}, *rows[1:]], "does not read back"),
    ],
)
def test_damage_is_caught(built, split, change, caught):
    edit(built, split, change)
    assert any(caught in one.name for one in failures(verify_dataset(CONFIG, built)))


def test_a_heldout_row_in_training_is_caught(built):
    edit(built, "train", lambda rows: [*rows[:-1], first_row(built, "heldout")])
    found = {one.name for one in failures(verify_dataset(CONFIG, built))}
    assert "held-out inputs that are also in training" in found
    assert "held-out wording combinations that are also in training" in found


def test_a_second_seed_gives_other_rows(tmp_path):
    texts = []
    for seed in (1, 2):
        job = Job("signals", tmp_path / str(seed))
        job.out.mkdir()
        build_dataset(CONFIG.model_copy(update={"seed": seed}), job)
        texts.append((job.out / "train.jsonl").read_text())
    assert texts[0] != texts[1]


def test_more_rows_than_there_are_is_said_with_both_numbers(tmp_path):
    with pytest.raises(ConfigError, match=r"500 rows of gold.jsonl asked for, it holds \d+"):
        build_dataset(DatasetConfig(source="gold", train_rows=500, heldout_rows=1), Job("signals", tmp_path))


def test_own_rows_are_split_by_the_seed_and_never_both(tmp_path):
    file = tmp_path / "rows.jsonl"
    train, heldout = signals.build_rows("nano", 40, 10, 3)
    file.write_text("".join(json.dumps(row) + "\n" for row in train + heldout))
    job = Job("signals", tmp_path / "out")
    job.out.mkdir()
    build_dataset(DatasetConfig(source="file", rows_file=str(file), train_rows=40, heldout_rows=10), job)
    found = [(job.out / f"{name}.jsonl").read_text().splitlines() for name in ("train", "heldout")]
    assert [len(one) for one in found] == [40, 10]
    assert not set(found[0]) & set(found[1])


def lines_of(rows: list[dict]) -> list[str]:
    return [json.dumps(row) for row in rows]


def in_row_4(**values):
    return lambda rows: lines_of([*rows[:3], rows[3] | values, *rows[4:]])


def without(rows: list[dict], column: str) -> list[dict]:
    return [{name: value for name, value in row.items() if name != column} for row in rows]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda rows: lines_of(without(rows, "headline")), r"headline +the column is missing; add it"),
        (lambda rows: lines_of([*rows[:3], *without(rows[3:4], "headline"), *rows[4:]]), r"headline +empty .* 1 row, e\.g\. 4"),
        (in_row_4(headline=None), r"headline +empty .*; fill it in, or drop the row +1 row, e\.g\. 4"),
        (in_row_4(direction="up"), r"direction +type text, not Float64; .* 1 row, e\.g\. 4 \('up'\)"),
        (in_row_4(direction="0.5"), r"direction +type text, not Float64; .* 1 row, e\.g\. 4 \('0\.5'\)"),
        (in_row_4(direction=7.0), r"direction .* 1 row, e\.g\. 4 \(7\.0\)"),
        (in_row_4(mood="glad"), r"mood +the column is not in the contract; .* 1 row, e\.g\. 4 \('glad'\)"),
        (lambda rows: [*lines_of(rows[:3]), '{"headline": ', *lines_of(rows[4:])], r"rows\.jsonl:4: Expecting value"),
        (in_row_4(headline=["a", "b"]), r"rows\.jsonl:4: headline: nested value"),
    ],
)  # fmt: skip
def test_own_rows_that_break_the_contract_are_told_by_file_row_and_column(tmp_path, damage, said):
    file = tmp_path / "rows.jsonl"
    train, heldout = signals.build_rows("nano", 12, 3, 3)
    file.write_text("\n".join(damage(train + heldout)) + "\n")
    config = DatasetConfig(source="file", rows_file=str(file), train_rows=12, heldout_rows=3)
    with pytest.raises(ContractError, match=said) as error:
        build_dataset(config, Job("signals", tmp_path))
    assert str(file) in str(error.value)
    assert not (tmp_path / "train.jsonl").exists()


def test_own_rows_of_a_recipe_with_tasks_are_told_too(tmp_path):
    file = tmp_path / "rows.jsonl"
    train, heldout = proofkit.build_rows("nano", 12, 3, 3)
    file.write_text("\n".join(lines_of(without(train + heldout, "task"))))
    config = DatasetConfig(source="file", rows_file=str(file), train_rows=12, heldout_rows=3)
    with pytest.raises(ContractError, match=r"15 of 15 rows of .*rows\.jsonl break(.|\n)* task +the column is missing"):
        build_dataset(config, Job("proofkit", tmp_path))


@pytest.mark.parametrize("recipe", [signals, proofkit])
def test_a_broken_line_of_the_hand_written_rows_is_told_by_file_and_line(tmp_path, monkeypatch, recipe):
    train, heldout = recipe.build_rows("gold", 5, 5, 1)
    folder = tmp_path / "signals" / "examples"
    folder.mkdir(parents=True)
    monkeypatch.setattr("tasks.recipes.signals.recipe.CONTRACTS_FOLDER", tmp_path)
    monkeypatch.setattr("tasks.recipes.proofkit.recipe.EXAMPLES", folder)
    (folder / "gold.jsonl").write_text("\n".join(lines_of(train)))
    (folder / "heldout.jsonl").write_text("\n".join(lines_of(heldout)))
    assert sorted(map(str, recipe.build_rows("gold", 5, 5, 1)[0])) == sorted(map(str, train))
    (folder / "heldout.jsonl").write_text("\n".join([*lines_of(heldout[:2]), '{"task": ', *lines_of(heldout[3:])]))
    with pytest.raises(ContractError, match=r"heldout\.jsonl:3: Expecting value"):
        recipe.build_rows("gold", 5, 5, 1)
