"""validate_dataset: sound rows pass, broken rows are told in one table, and every check on what is trained on can fail."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.core.errors import ConfigError, ContractError
from tasks.core.stage import Job
from tasks.core.stage_process import execute
from tasks.formats.token_rows import read_token_rows, write_token_rows
from tasks.recipes import load_recipe
from tasks.recipes.signals import nano_rows as signals_world
from tasks.runtimes import hf_model
from tasks.validate_dataset import STAGE, ValidateConfig, token_checks, validate_dataset, verify_rows
from tests.fixtures.tiny_chain import Made, copy_of, failed

CONFIG = ValidateConfig(limits="nano", max_length_tokens=640)
SPAN = "{} rows whose supervised span is not exactly the answer"
NO_END = "{} rows that do not end on the end-of-turn token"
TOO_LONG = "{} rows longer than max_length_tokens"
WRITTEN = "{} rows written as token ids"


def write_rows(path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


@pytest.fixture(scope="module")
def splits() -> tuple[list[dict], list[dict]]:
    return signals_world.nano_rows(192, 120, 42)


def make_job(folder, base, splits) -> Job:
    for name in ("dataset", "out", "work"):
        (folder / name).mkdir(parents=True)
    for split, rows in zip(("train", "heldout"), splits, strict=True):
        write_rows(folder / "dataset" / f"{split}.jsonl", rows)
    inputs = {"dataset": folder / "dataset", "base": base}
    return Job("signals", folder / "out", inputs=inputs, work=folder / "work")


@pytest.fixture(scope="module")
def validated(tmp_path_factory, tiny_base, splits) -> Made:
    job = make_job(tmp_path_factory.mktemp("validated"), tiny_base, splits)
    return Made(job, execute(STAGE, CONFIG, job))


def test_sound_rows_pass_and_are_written_as_the_trainer_sees_them(validated, splits, tiny_base):
    assert validated.outcome["facts"] == {"train_rows": 192, "heldout_rows": 120, "context_labels": {}}
    assert {path.name for path in validated.out.iterdir()} == {
        "train.jsonl", "heldout.jsonl", "train.parquet", "heldout.parquet", "contract.json",
    }  # fmt: skip
    tokenizer, recipe = hf_model.load_tokenizer(tiny_base), load_recipe("signals")
    ids = read_token_rows(validated.out / "train.parquet")
    assert len(ids) == 192
    for row, (token_ids, start) in zip(splits[0], ids, strict=True):
        prompt, answer = tokenizer.decode(token_ids[:start]), tokenizer.decode(token_ids[start:])
        assert prompt.endswith(f"{row['question']}<|im_end|>\n<|im_start|>assistant\n")
        assert answer == recipe.completion(row) + "<|im_end|>"
        assert "metric_direction" not in prompt + answer


def test_the_same_rows_give_the_same_bytes(validated, tiny_base, splits, tmp_path):
    job = make_job(tmp_path, tiny_base, splits)
    validate_dataset(CONFIG, job)
    names = sorted(path.name for path in validated.out.iterdir())
    assert len(names) == 5
    for name in names:
        assert (job.out / name).read_bytes() == (validated.out / name).read_bytes(), name


def test_rows_that_carry_another_prompt_contract_fail(validated, tmp_path):
    out = Path(shutil.copytree(validated.out, tmp_path / "copy"))
    (out / "contract.json").write_text(json.dumps({"digest": "e" * 64}))
    with pytest.raises(ContractError, match="prompt contract that the rows carry"):
        verify_rows(CONFIG, replace(validated.job, out=out))


def test_broken_rows_are_told_in_one_table_and_written_with_their_reasons(tiny_base, splits, tmp_path):
    train = [dict(row) for row in splits[0]]
    train[0]["direction"] = 1.5
    train[1]["information_type"] = "gossip"
    train[2]["headline"] = ""
    heldout = [dict(row) for row in splits[1]]
    heldout[4]["relevance"] = -0.1
    job = make_job(tmp_path, tiny_base, (train, heldout))
    with pytest.raises(ContractError) as error:
        validate_dataset(CONFIG, job)
    table = str(error.value)
    for said in ("3 of 192 rows", "direction", "information_type", "headline", "1 of 120 rows", "relevance"):
        assert said in table, table
    assert str(tmp_path) in table or "rejected-train.jsonl" in table
    rejected = [json.loads(line) for line in (job.work / "rejected-train.jsonl").read_text().splitlines()]
    assert len(rejected) == 3
    assert "gossip" in json.dumps(rejected)
    assert len((job.work / "rejected-heldout.jsonl").read_text().splitlines()) == 1
    assert list(job.out.iterdir()) == []


@pytest.fixture
def corrections(tmp_path, monkeypatch):
    """Writes one entry that drops the row with this trace, of the batch that both splits hold."""
    monkeypatch.setattr("data_contracts.rows.corrections.CONTRACTS_FOLDER", tmp_path / "contracts")
    (tmp_path / "contracts" / "signals").mkdir(parents=True)

    def write(row: dict, trace: str, **changes: object) -> None:
        entry = {"source_batch": row["source_batch"], "match": {"headline": row["headline"], "trace": trace}}
        entry |= {"action": "drop", "reason": "the label was wrong"} | changes
        path = tmp_path / "contracts" / "signals" / "corrections.yaml"
        path.write_text(json.dumps({"corrections": [entry]}), "utf-8")

    return write


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_a_correction_of_a_row_in_one_split_passes_though_its_batch_is_in_both(
    tiny_base, splits, tmp_path, corrections, split
):
    both = [(one["headline"], one["trace"]) for rows in splits for one in rows]
    row = next(one for one in splits[split == "heldout"] if both.count((one["headline"], one["trace"])) == 1)
    assert all(row["source_batch"] in {one["source_batch"] for one in rows} for rows in splits)
    corrections(row, row["trace"])
    job = make_job(tmp_path, tiny_base, splits)
    facts = validate_dataset(CONFIG, job)
    counts = {"train": 192, "heldout": 120}
    assert {name: facts[f"{name}_rows"] for name in counts} == counts | {split: counts[split] - 1}
    left = [json.loads(line)["trace"] for line in (job.out / f"{split}.jsonl").read_text("utf-8").splitlines()]
    assert left == [one["trace"] for one in splits[split == "heldout"] if one is not row]


def test_a_correction_of_a_row_in_neither_split_fails_and_names_the_file(tiny_base, splits, tmp_path, corrections):
    corrections(splits[0][3], "this trace was mended at its source")
    job = make_job(tmp_path, tiny_base, splits)
    with pytest.raises(ContractError, match=r"fits 0 rows .* in data_contracts/signals/corrections\.yaml"):
        validate_dataset(CONFIG, job)
    assert list(job.out.iterdir()) == []


def test_a_correction_of_a_batch_in_neither_split_fails_unless_it_is_of_some_builds_only(
    tiny_base, splits, tmp_path, corrections
):
    corrections(splits[0][3], splits[0][3]["trace"], source_batch="teacher-x")
    with pytest.raises(ContractError, match=r"no batch 'teacher-x' \(it has nano-a, nano-b\)"):
        validate_dataset(CONFIG, make_job(tmp_path / "one", tiny_base, splits))
    corrections(splits[0][3], splits[0][3]["trace"], source_batch="teacher-x", in_some_builds=True)
    facts = validate_dataset(CONFIG, make_job(tmp_path / "other", tiny_base, splits))
    assert facts["corrections"] == "1 not looked at here: the rows hold none of their batches"


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_an_empty_split_is_no_pass(tiny_base, splits, tmp_path, split):
    rows = {"train": splits[0], "heldout": splits[1]} | {split: []}
    job = make_job(tmp_path, tiny_base, (rows["train"], rows["heldout"]))
    with pytest.raises(ContractError):
        validate_dataset(CONFIG, job)


def test_an_unknown_limits_profile_is_a_config_error(validated):
    with pytest.raises(ConfigError, match="no profile 'loose'"):
        validate_dataset(ValidateConfig(limits="loose"), validated.job)


def test_a_row_in_both_splits_fails(tiny_base, splits, tmp_path):
    job = make_job(tmp_path, tiny_base, (splits[0], [splits[0][7], *splits[1]]))
    validate_dataset(CONFIG, job)
    with pytest.raises(ContractError, match="held-out inputs that are also in training: 1 rows"):
        verify_rows(CONFIG, job)


def test_trace_length_that_tells_the_label_fails(tiny_base, splits, tmp_path):
    """The story's shortcut: long traces for signals, short ones for noise."""
    train = [row | {"trace": row["trace"][: 130 if row["relevance"] == 0 else 400].strip()} for row in splits[0]]
    job = make_job(tmp_path, tiny_base, (train, splits[1]))
    validate_dataset(CONFIG, job)
    with pytest.raises(ContractError, match="guessing noise from trace length alone"):
        verify_rows(CONFIG, job)


def test_rows_longer_than_the_limit_fail_and_are_not_cut(tiny_base, splits, tmp_path):
    job = make_job(tmp_path, tiny_base, splits)
    config = CONFIG.model_copy(update={"max_length_tokens": 400})
    validate_dataset(config, job)
    assert max(len(ids) for ids, _ in read_token_rows(job.out / "train.parquet")) > 400
    with pytest.raises(
        ContractError, match=r"train rows longer than max_length_tokens: \d+ \(expected == 0\)\. longest"
    ):
        verify_rows(config, job)


def lose_end(ids, start):
    return ids[:-1], start


def wrong_end(ids, start):
    return [*ids[:-1], ids[-1] - 1], start


def supervise_the_prompt(ids, start):
    return ids, 0


def supervise_one_token_less(ids, start):
    return ids, start + 1


def supervise_nothing(ids, start):
    return ids, len(ids)


def change_a_token(ids, start):
    return [*ids[: start + 5], ids[start + 5] + 1, *ids[start + 6 :]], start


def empty(ids, start):
    return [], 0


@pytest.mark.parametrize("split", ["train", "heldout"])
@pytest.mark.parametrize(
    ("damage", "name"),
    [
        (lose_end, NO_END),
        (wrong_end, NO_END),
        (supervise_the_prompt, SPAN),
        (supervise_one_token_less, SPAN),
        (supervise_nothing, SPAN),
        (change_a_token, SPAN),
        (empty, NO_END),
    ],
)
def test_one_wrong_row_of_token_ids_fails_by_name(validated, tmp_path, split, damage, name):
    job = copy_of(validated, tmp_path)
    rows = read_token_rows(job.out / f"{split}.parquet")
    rows[3] = damage(*rows[3])
    write_token_rows(job.out / f"{split}.parquet", rows)
    with pytest.raises(ContractError, match=rf"{name.format(split)}: 1 .*rows \[3\]"):
        verify_rows(CONFIG, job)


def test_token_rows_that_lost_a_row_fail_by_their_number(validated, tmp_path):
    job = copy_of(validated, tmp_path)
    rows = read_token_rows(job.out / "train.parquet")
    write_token_rows(job.out / "train.parquet", rows[:-1])
    with pytest.raises(ContractError, match=WRITTEN.format("train") + r": 191 \(expected == 192\)"):
        verify_rows(CONFIG, job)


def test_no_rows_at_all_cannot_tell(tiny_base):
    tokenizer = hf_model.load_tokenizer(tiny_base)
    checks = token_checks(CONFIG, tokenizer, load_recipe("signals"), [], [], "train")
    assert {SPAN.format("train"), NO_END.format("train"), WRITTEN.format("train")} <= set(failed(checks))


def test_a_base_whose_tokenizer_loses_text_fails(validated, tiny_base, tmp_path):
    """A tokenizer that lowercases: the model would learn another answer than the one that was checked."""
    base = shutil.copytree(tiny_base, tmp_path / "base")
    path = base / "tokenizer.json"
    tokenizer = json.loads(path.read_text("utf-8"))
    tokenizer["normalizer"] = {"type": "Lowercase"}
    path.write_text(json.dumps(tokenizer), "utf-8")
    job = replace(copy_of(validated, tmp_path), inputs=validated.job.inputs | {"base": base})
    validate_dataset(CONFIG, job)
    with pytest.raises(ContractError, match=SPAN.format("train") + ": 192"):
        verify_rows(CONFIG, job)
