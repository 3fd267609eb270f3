"""Target = f(input), never target = template: the story's template world is refused by name, a varied set passes, and each
check of the writing audit fails when the thing it guards is broken."""

import json
import sys
from pathlib import Path

import polars as pl
import pytest

from data_contracts.audit import writing
from data_contracts.audit.audit import SetTally, audit_rows, view_of
from data_contracts.limits import load_limits
from data_contracts.paths import CONTRACTS_FOLDER
from data_contracts.proofkit.rows import ROWS
from data_contracts.rows.contract import check_batch
from data_contracts.rows.rows_file import read_rows
from data_contracts.verdict import Verdict, failures

sys.path.insert(0, str(Path(__file__).parents[2] / "fixtures"))
from template_world import template_rows

BARE = "targets that do not use every anchor of their input"
FEW = "rows with fewer than 2 anchors"
SWAPPED = "share of targets that still pass after their answers were swapped with another row's"
REASONING = "share of distinct reasoning strings in up to 125 rows"
TRIGRAMS = "share of distinct three-word runs of a task's targets"
ALIKE = "mean similarity of a target with the most similar of its task"
SKELETON = "share of own words that a task's skeleton predicts"
EVERY = {BARE, FEW, SWAPPED, REASONING, TRIGRAMS, ALIKE, SKELETON}


def table(rows: list[dict]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=dict.fromkeys(ROWS.to_schema().columns, pl.String))


@pytest.fixture(scope="module")
def gold() -> pl.DataFrame:
    return read_rows(CONTRACTS_FOLDER / "proofkit" / "examples" / "gold.jsonl")


@pytest.fixture(scope="module")
def limits():
    return load_limits("proofkit")


def audit(frame: pl.DataFrame, limits) -> dict:
    """The checks of the writing family, by name."""
    view = view_of(frame, limits).with_row_index("row", offset=1)
    tally = writing.WritingTally(limits)
    tally.add(view)
    return {one.name: one for one in tally.checks(view)}


def failed(frame: pl.DataFrame, limits) -> set[str]:
    return {name for name, one in audit(frame, limits).items() if one.verdict is Verdict.FAIL}


def test_the_story_s_template_world_is_refused_by_what_happened(limits):
    frame = table(template_rows(375, pasted=False))
    assert failed(frame, limits) == {BARE, REASONING, TRIGRAMS, ALIKE, SKELETON}
    found = audit(frame, limits)
    assert "4 distinct of 125" in found[REASONING].sentence()
    assert "lacks the anchor" in found[BARE].sentence() and found[BARE].measured == 375
    said = found[SKELETON].sentence()
    assert found[SKELETON].measured == 1.0 and "target = template" in said
    assert "this section shows how a § would apply" in said and "stands in 125 of 125 targets" in said


def test_anchors_pasted_into_a_template_please_every_gate_and_are_refused_all_the_same(limits):
    frame = table(template_rows(375, pasted=True))
    assert check_batch("proofkit", frame).passed, "the rules on rows cannot see a template"
    assert failed(frame, limits) == {REASONING, TRIGRAMS, ALIKE, SKELETON}


def test_a_small_varied_set_passes(gold, limits):
    found = audit(gold, limits)
    assert set(found) == EVERY
    assert not failures(found.values()), "\n".join(one.sentence() for one in failures(found.values()))
    assert found[SKELETON].measured == 0.0 and found[REASONING].measured == 1.0


def test_one_target_without_its_anchor_fails_and_names_the_row(gold, limits):
    cut = (
        pl.when(pl.int_range(pl.len()) == 4)
        .then(pl.col("target").str.replace("Anneke", "the teacher"))
        .otherwise("target")
    )
    found = audit(gold.with_columns(target=cut), limits)
    assert {name for name, one in found.items() if one.verdict is Verdict.FAIL} == {BARE}
    assert found[BARE].detail == "row 5 lacks the anchor 'Anneke'"


def test_one_row_with_one_anchor_fails_by_default_and_passes_in_nano(gold, limits):
    one = pl.when(pl.int_range(pl.len()) == 2).then(pl.lit("Mondays")).otherwise("anchors")
    frame = gold.with_columns(anchors=one)
    assert failed(frame, limits) == {FEW}
    assert "rows 3" in audit(frame, limits)[FEW].detail
    names = audit(frame, load_limits("proofkit", "nano"))
    assert names["rows with fewer than 1 anchors"].verdict is Verdict.PASS


def test_anchors_that_every_target_holds_do_not_survive_the_swap(gold, limits):
    """Words that any applicant types, and every target of the task has: the answers of another row would pass as well."""
    drafts = gold.filter(pl.col("task") == "draft").with_row_index("n")
    said = " Then the manager asked about the team, and the customer was glad."
    pairs = pl.Series(["manager | team", "customer | team", "manager | customer", "team | customer", "manager | team"])
    frame = drafts.with_columns(target=pl.col("target") + said, anchors=pairs).drop("n")
    found = audit(frame, limits)[SWAPPED]
    assert (found.verdict, found.measured) == (Verdict.FAIL, 1.0)
    assert "row 1 with the answers of row 2 (customer, team)" in found.detail


def test_equal_anchors_everywhere_leave_nothing_to_swap(gold, limits):
    frame = gold.with_columns(anchors=pl.lit("the | a"))
    assert audit(frame, limits)[SWAPPED].verdict is Verdict.CANNOT_TELL


def test_reasonings_that_differ_in_names_and_numbers_only_count_once(gold, limits):
    review = gold.filter(pl.col("task") == "review")

    def canned(row: dict) -> str:
        value = json.loads(row["target"])
        value["reasoning"] = (
            f"{row['company']} is fictional, and the {row['role']} shows {len(row['draft'])} good points."
        )
        return json.dumps(value, ensure_ascii=False)

    frame = review.with_columns(target=pl.Series([canned(row) for row in review.iter_rows(named=True)]))
    found = audit(frame, limits)[REASONING]
    assert (found.verdict, found.measured) == (Verdict.FAIL, 0.25)
    assert "'§ is fictional and the § shows 0 good points'" in found.detail


def test_one_shared_paragraph_of_a_task_is_found_by_its_words(gold, limits):
    """Much of every post is the same: the other tasks stay as they are."""
    same = " Every step was planned with care, the result was checked twice, and the lesson I take from it will stay with me."
    longer = pl.when(pl.col("task") == "post").then(pl.col("target") + same * 4).otherwise("target")
    found = audit(gold.with_columns(target=longer), limits)[SKELETON]
    assert found.verdict is Verdict.FAIL
    assert found.detail.startswith("worst: post; 'every step was planned with care") and "draft 0.000" in found.detail


def test_what_comes_from_the_input_is_masked():
    given = "Harbor Lane\nWe count 31 vials every Thursday before noon, said Ada.\ncareful checks"
    some = writing.own_words(
        "At Harbor Lane, Ada counts 31 vials; we count 31 vials every Thursday before noon. So 7 careful checks, Adam.",
        ["Ada"], ["Harbor Lane", "careful checks", "A constraint that is not there."], given,
    )  # fmt: skip
    assert " ".join(some) == "at § counts 0 vials § so 0 § adam"


def test_a_target_of_nothing_but_input_is_all_skeleton(limits):
    rows = [{**row, "target": row["answers"]} for row in template_rows(30, pasted=False) if row["task"] == "draft"]
    assert audit(table(rows), limits)[SKELETON].measured == 1.0


def test_each_limit_is_read(gold, limits):
    """Each number of the family at an impossible value turns its check, and no other of the family."""
    strict = {
        "min_row_anchors": (13, "rows with fewer than 13 anchors"),
        "min_distinct_trigram_fraction": (1.0, TRIGRAMS),
        "max_self_similarity_fraction": (0.0, ALIKE),
    }
    for name, (value, check) in strict.items():
        assert failed(gold, limits.model_copy(update={name: value})) == {check}
    template = table(template_rows(375, pasted=True))
    for name, check in (("min_distinct_reasoning_fraction", REASONING), ("max_skeleton_fraction", SKELETON)):
        assert check not in failed(template, limits.model_copy(update={name: 0.0 if name.startswith("min") else 1.0}))
    few = audit(gold, limits.model_copy(update={"min_task_rows": 6}))
    assert {few[name].verdict for name in (REASONING, TRIGRAMS, ALIKE, SKELETON)} == {Verdict.CANNOT_TELL}
    assert "too few rows (min_task_rows 6): draft (5)" in few[SKELETON].detail
    for name in ("min_target_chars", "max_target_chars"):
        turned = audit_rows(gold, limits.model_copy(update={name: 700}))
        assert [one.name for one in turned if one.verdict is Verdict.FAIL] == [
            "shortest target" if name.startswith("min") else "longest target"
        ]


def test_a_null_limit_reports_the_number(limits):
    nano = load_limits("proofkit", "nano")
    found = audit(table(template_rows(375, pasted=True)), nano)
    reported = [one for one in found.values() if one.name in (REASONING, TRIGRAMS, ALIKE, SKELETON)]
    assert [(one.comparison, one.verdict) for one in reported] == [("report", Verdict.PASS)] * 4
    assert all("templates by design" in one.detail for one in reported)


def test_a_set_in_parts_gives_the_checks_of_the_whole(limits):
    frame = table(template_rows(90, pasted=False))
    view = view_of(frame, limits).with_row_index("row", offset=1)
    whole, parts = SetTally(limits), SetTally(limits)
    whole.add(view)
    for first in range(0, view.height, 7):
        parts.add(view[first : first + 7])
    assert parts.checks() == whole.checks()


def test_an_empty_set_passes_nothing(gold, limits):
    assert Verdict.PASS not in {one.verdict for one in audit(gold.head(0), limits).values()}
