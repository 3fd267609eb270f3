"""The gates of proofkit on answers that must pass and must fail, most of which try to please them by keywords alone."""

import json
from collections import Counter
from itertools import pairwise

import pytest

from data_contracts.audit import anchoring
from data_contracts.audit import sentences as prose
from data_contracts.paths import CONTRACTS_FOLDER
from data_contracts.proofkit import house_rules
from data_contracts.proofkit.output import SCHEMAS
from data_contracts.rows.rows_file import read_rows

EXAMPLES = CONTRACTS_FOLDER / "proofkit" / "examples"
CASES = read_rows(EXAMPLES / "gates.jsonl").to_dicts()
GOLD = read_rows(EXAMPLES / "gold.jsonl").to_dicts()
KEYWORDS = (
    "fictional invented simulated practice work sample not real client work employment assumption assume trade-off in "
    "exchange for at the cost of hypothetical disclosure"
)
"""Every word that a gate looks for, in one heap."""


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['gate']}: {case['why']}")
def test_each_answer_passes_or_fails_its_gate(case):
    problem = house_rules.judge(case, case["target"])[case["gate"]]
    assert (not problem) == case["passes"], problem or "no problem was found"


def test_every_gate_has_four_examples_each_way():
    counts = Counter((case["gate"], case["passes"]) for case in CASES)
    assert len(CASES) >= 2 * 4 * len(house_rules.GATES)
    for gate in house_rules.GATES:
        assert counts[gate, True] >= 4 and counts[gate, False] >= 4, gate


@pytest.mark.parametrize("row", GOLD, ids=lambda row: f"{row['task']} {row['role']}")
def test_a_heap_of_keywords_pleases_no_gate_that_asks_for_words(row):
    """In place of the answer, as its heading, and as its last line."""
    asked = set(house_rules.judge(row, row["target"])) & {
        "fictional_context",
        "assumptions",
        "tradeoff",
        "disclosure",
        "anchors",
    }
    heap = f"{KEYWORDS} {row['company']} {' '.join(house_rules.anchors_of(row))}"
    for text in (heap, f"## {heap}\nThe queue grows in the rain.", f"**{heap}**\nThe queue grows in the rain."):
        found = house_rules.judge(row, text)
        assert asked and all(found[gate] for gate in asked), {gate: found[gate] for gate in asked}


@pytest.mark.parametrize("row", GOLD, ids=lambda row: f"{row['task']} {row['role']}")
def test_each_gold_answer_passes_and_fails_without_any_one_of_its_anchors(row):
    assert not any(house_rules.judge(row, row["target"]).values())
    for anchor in house_rules.anchors_of(row):
        cut = prose.replaced(row["target"], anchor, "something")
        assert house_rules.judge(row, cut)["anchors"] == f"lacks the anchor {anchor!r}"


def test_the_answer_to_another_row_never_passes():
    """Input ablation on the hand-written rows: each answer beside the input of the next row of its task."""
    swapped = 0
    for task in house_rules.TASKS:
        for one, other in pairwise([row for row in GOLD if row["task"] == task]):
            found = house_rules.judge(other, one["target"])
            assert found["anchors"] and found["fictional_context"]
            swapped += 1
    assert swapped >= 20


@pytest.mark.parametrize("task", sorted(SCHEMAS))
def test_unreadable_json_fails_every_gate_of_its_task(task):
    row = next(row for row in GOLD if row["task"] == task)
    found = house_rules.judge(row, row["target"][:-5])
    assert set(found) == {gate for gate, (tasks, _) in house_rules.GATES.items() if task in tasks}
    assert all(problem.startswith("no valid JSON") for problem in found.values())


def test_a_gate_applies_only_to_its_tasks():
    applying = {task: set() for task in house_rules.TASKS}
    for gate, (tasks, _) in house_rules.GATES.items():
        for task in tasks:
            applying[task].add(gate)
    assert applying["draft"] == applying["revise"] == set(house_rules.GATES) - {"valid_json"}
    assert applying["scenario"] == applying["draft"] - {"tradeoff"}
    assert applying["review"] == {"fictional_context", "no_false_claims", "length", "valid_json", "anchors"}
    assert applying["bullets"] == applying["post"] == applying["review"] - {"valid_json"} | {"disclosure"}


def test_the_prompt_s_own_numbers_are_not_free_for_other_units():
    row = {
        **GOLD[0],
        "answers": "It took 12 minutes and $40, and 1,200 people came at 14:20. blue ink",
        "anchors": "blue ink",
    }
    for text, allowed in (
        ("It took 12 minutes.", True), ("1200 people came.", True), ("It cost $40.", True), ("It began at 14:20.", True),
        ("It fell by 12 percent.", False), ("It cost $12.", False), ("It began at 14:30.", False), ("120 people came.", False),
    ):  # fmt: skip
        assert (not house_rules.judge(row, text)["no_false_claims"]) == allowed, text


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Dr. Okafor came at 3 p.m. on Monday. She left.", 2),
        ("It cost 3.5 hours, e.g. for tea. Then rain.", 2),
        ("## A heading. With a stop.\n- one\n- two", 2),
        ("**Bold line**\n*Stress.* Then more!", 2),
        ("One line\nanother line", 2),
        ("", 0),
    ],
)
def test_sentences_are_told_apart(text, sentences):
    assert len(prose.sentences(text)) == sentences, prose.sentences(text)


@pytest.mark.parametrize(
    ("phrase", "text", "there"),
    [
        ("bus 31", "Bus 31 has gone.", True),
        ("bus 31", "bus 310", False),
        ("bus 31", "omnibus 31", False),
        ("$40", "It is $40, no more", True),
        ("Ötzi", "ötzi's shoe", True),
        ("İzmir", "to İzmir by boat", True),
        ("a.b", "axb", False),
        ("", "anything", False),
    ],
)
def test_a_phrase_stands_as_whole_tokens(phrase, text, there):
    assert prose.stands(phrase, text) is there
    assert ("X" in prose.replaced(text, phrase, "X")) is there


def test_an_anchor_may_hold_a_full_stop_and_is_found_before_its_parts():
    assert anchoring.problem(["We asked Dr. Okafor. Lind about the tray that beeps."], ["Dr. Okafor. Lind"]) == ""
    assert "lacks" in anchoring.problem(
        ["The red bottle cap lay on the ward in the sun."], ["red bottle cap", "bottle"]
    )
    assert anchoring.problem(["Nothing of it."], []) == "the row names no anchor"


def test_examples_are_readable_rows():
    for case in CASES:
        assert case["task"] in house_rules.TASKS and case["gate"] in house_rules.GATES
        assert json.dumps(case) and len(case["why"]) > 5
