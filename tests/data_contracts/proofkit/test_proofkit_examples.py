"""The shipped proofkit rows are what they say: good rows pass, each bad row fails for its reason alone, gold is clean."""

import json
from collections import Counter

import polars as pl
import pytest

from data_contracts.audit.audit import audit_rows, audit_splits
from data_contracts.limits import load_limits
from data_contracts.paths import CONTRACTS_FOLDER
from data_contracts.prompting.prompt import load_prompt
from data_contracts.proofkit import house_rules
from data_contracts.proofkit.output import SCHEMAS
from data_contracts.proofkit.rows import ROWS
from data_contracts.rows.contract import check_batch, check_rows
from data_contracts.rows.findings import format_table
from data_contracts.rows.rows_file import read_rows
from data_contracts.verdict import Verdict, failures

EXAMPLES = CONTRACTS_FOLDER / "proofkit" / "examples"
EIGHT_NAMES = (
    "README.md", "rows.py", "limits.yaml", "prompt.md", "output.py", "rubric.md", "gates.yaml", "corrections.yaml",
)  # fmt: skip


def rows_of(name: str) -> pl.DataFrame:
    frame = read_rows(EXAMPLES / f"{name}.jsonl")
    return frame.drop(one for one in ("reference", "expected_reason") if one in frame.columns)


@pytest.fixture(scope="module")
def gold() -> pl.DataFrame:
    return rows_of("gold")


def test_every_contract_folder_has_the_same_eight_names_and_three_example_files():
    folders = [path.parent for path in CONTRACTS_FOLDER.glob("*/rows.py")]
    assert len(folders) == 2
    for folder in folders:
        wanted = [*EIGHT_NAMES, *(f"examples/{name}.jsonl" for name in ("good", "bad", "gold"))]
        assert not [name for name in wanted if not (folder / name).is_file()], folder.name


def test_every_good_row_passes():
    good = rows_of("good")
    assert set(good["task"]) == set(house_rules.TASKS)
    findings = check_batch("proofkit", good)
    assert findings.passed, format_table(findings)
    assert findings.accepted.height == good.height


def test_every_bad_row_is_rejected_for_its_stated_reason_and_no_other():
    bad = read_rows(EXAMPLES / "bad.jsonl")
    findings = check_batch("proofkit", bad.drop("expected_reason"))
    for number, expected in enumerate(bad["expected_reason"], start=1):
        found = findings.reasons.get(number, [])
        assert len(found) == 1, f"row {number}: expected only '{expected}', found {found}"
        assert found[0].startswith(expected), f"row {number}: expected '{expected}', found {found}"
    assert findings.accepted.height == 0


def test_every_rule_of_the_contract_has_a_bad_row():
    told = {(rule.column, rule.rule) for rule in check_batch("proofkit", rows_of("bad")).broken}
    schema = ROWS.to_schema()
    rules = {one.error for column in schema.columns.values() for one in column.checks}
    rules |= {one.error for one in schema.checks}
    assert len(rules) >= 25
    assert rules <= {rule for _, rule in told}
    assert {column for column, _ in told} == set(schema.columns)
    assert all("; " in rule for rule in rules)


def test_gold_covers_the_tasks_and_is_written_by_hand(gold):
    assert gold.height >= 28
    assert min(Counter(gold["task"]).values()) >= 4 and set(gold["task"]) == set(house_rules.TASKS)
    assert gold["role"].n_unique() >= 8 and gold["company"].n_unique() == gold.height
    anchors = [one for row in gold.iter_rows(named=True) for one in house_rules.anchors_of(row)]
    assert len(anchors) == len(set(anchors))
    readiness = {json.loads(one)["readiness"] for one in gold.filter(pl.col("task") == "review")["target"]}
    assert readiness == {"ready", "almost ready", "not ready"}
    assert set(gold["voice"].drop_nulls()) == set(house_rules.VOICES)


@pytest.mark.parametrize("name", ["gold", "heldout", "reference"])
def test_no_two_targets_share_a_sentence_or_an_opening(name):
    targets = rows_of(name)["target"].to_list()
    texts = [one if one.startswith(("##", "-")) or not one.startswith("{") else one[12:] for one in targets]
    sentences = Counter(
        one.strip().lower() for text in texts for part in text.split("\n") for one in part.split(". ") if len(one) > 12
    )
    assert [one for one, count in sentences.items() if count > 1] == []


def test_gold_keeps_rows_and_audit_and_only_its_few_reviews_cannot_be_told(gold):
    findings = check_rows("proofkit", gold)
    assert findings.passed, format_table(findings)
    bad = failures(audit_rows(gold, load_limits("proofkit")))
    assert {one.verdict for one in bad} == {Verdict.CANNOT_TELL}, "\n".join(one.sentence() for one in bad)
    labels = ("specificity", "evidence", "honesty", "readiness")
    assert all(any(label in one.name for label in labels) for one in bad)


def test_heldout_and_reference_rows_pass_and_are_new(gold):
    heldout, reference = rows_of("heldout"), rows_of("reference")
    assert heldout.height >= 15 and set(heldout["task"]) == set(house_rules.TASKS)
    for rows, known in ((heldout, gold), (reference, pl.concat([gold, heldout]))):
        findings = check_batch("proofkit", rows)
        assert findings.passed, format_table(findings)
        assert not failures(audit_splits(known, rows, load_limits("proofkit")))
    assert "rabbits" in reference["anchors"][0]
    assert heldout["role"].is_in(gold["role"].to_list()).mean() < 0.5


@pytest.mark.parametrize("prompt_set", ["trained", "rich"])
def test_a_prompt_shows_exactly_the_columns_of_its_task(gold, prompt_set):
    prompt = load_prompt("proofkit", prompt_set)
    assert set(prompt.users) == set(house_rules.TASKS)
    for row in gold.iter_rows(named=True):
        shown = {name: f"<{name}>" for name in house_rules.PROMPT_COLUMNS}
        text = prompt.messages({**row, **shown})[1]["content"]
        assert {name for name in shown if f"<{name}>" in text} == house_rules.COLUMNS[row["task"]]
        assert row["answers"] in prompt.messages(row)[1]["content"]


def test_the_trained_prompt_is_short_and_names_its_task_first():
    prompt = load_prompt("proofkit")
    assert len(prompt.system.split()) <= 45
    for task, words in prompt.users.items():
        assert words.splitlines()[0] == f"Task: {task}"
        assert all(": {" in line for line in words.splitlines()[1:])


def test_the_schema_of_both_json_tasks_is_part_of_the_prompt_s_digest():
    schema = load_prompt("proofkit").output_schema
    assert all(word in schema for model in SCHEMAS.values() for word in model.model_fields)
