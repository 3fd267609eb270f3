"""The contamination pass, case by case: each bad answer has its reason, and no good one has any."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from data_contracts.prompting import markers
from tasks.clients.requests import Answer
from tasks.distillation.contamination import needs_more_room, reason_against, usable_text
from tasks.recipes import keeps_trace, load_recipe

JSON = '{"relevance": 0.9}'
THOUGHT = f"<think>\nRates rise, YES falls.\n</think>\n\n{JSON}"


def reason(text: str, finish: str = "stop", *, keeps_trace: bool = False, problem: str = "", **more) -> str:
    return reason_against(Answer(text, finish, **more), keeps_trace, problem)


@pytest.mark.parametrize(
    "text",
    [
        JSON,
        "## Risks\nThe final {draft} went to analysis.",
        "Analysis of the queue: it is long.",
        "Final thoughts: keep the rabbits.",
        "I cannot tell which of the two is right; the market leans to NO.",
        "I'm sorry to hear that the shelter closed. Here is the plan.".replace("I'm sorry", "We are sorry"),
        "The assistant finalised the memo.",
        "commenting on the memo",
        "final version of the memo, as sent on Monday.",
        "final-year students run the desk.",
        "final: the plan is to move the rabbits.",
        "finally, the rabbits moved.",
        "finals are in May - two weeks.",
        "finalists\n- Ada\n- Ben",
        "The plan is\nfinal\n- and signed.",
    ],
)
def test_a_good_answer_has_no_reason_against_it(text):
    assert reason(text) == ""
    assert usable_text(Answer(text, "stop"), keeps_trace=False) == text


@pytest.mark.parametrize(
    "text",
    [
        'final{"talking_points": []}',
        'final {"a": 1}',
        "final[1]",
        "finalThe plan is to move the rabbits.",
        "final## Risks\nMany.",
        "final- Built a rabbit house.",
        "final• Built a rabbit house.",
        "final\n- Built a rabbit house.",
        " final \r\n- Built a rabbit house.",
        "final\nI moved the rabbits.",
        "final\n\nI moved the rabbits.",
        "final1. Move the rabbits.",
        "final“Rabbits” is the word.",
        "finalÉmile moved the rabbits.",
        "analysisWe need to answer.assistantfinal{}",
        "analysis\nThe user wants a memo.",
        "commentaryI will call a tool",
        "Good text.assistantfinalMore text",
        "<|channel|>final<|message|>Good text",
        "Good text<|return|>",
        "Good text<|im_end|>",
        "<tool_call>{}</tool_call>",
        "[INST] again [/INST]",
    ],
)
def test_a_marker_raw_or_stripped_is_a_leak(text):
    assert reason(text).startswith("leaked marker: ")
    if not text.strip().startswith(("final", "analysis", "commentary")):
        return
    assert reason(text, keeps_trace=True).startswith("leaked marker: ")


@pytest.mark.parametrize(
    ("answer", "kind", "again"),
    [
        (Answer("", "stop"), "empty", False),
        (Answer(" \n", "stop"), "empty", False),
        (Answer("", "stop", hidden_chars=900), "empty", True),
        (Answer("", "length", hidden_chars=900), "empty", True),
        (Answer("<think>\nhm, hm", "length"), "empty", True),
        (Answer("<think>\nhm, hm\n</think>\n", "stop"), "empty", True),
        (Answer("hm, hm\n</think>\n", "stop"), "empty", True),
        (Answer("A good begin", "length"), "truncated", True),
        (Answer("I'm sorry, but I can't help with that.", "stop"), "refusal", False),
        (Answer("I cannot assist with this request.", "stop"), "refusal", False),
        (Answer("As an AI language model, I have no opinion.", "stop"), "refusal", False),
        (Answer("", "stop", refusal="not allowed here"), "refusal", False),
        (Answer("", "content_filter"), "refusal", False),
        (Answer("Half <think> of it", "stop"), "leaked marker", False),
        (Answer("a</think>b</think>c", "stop"), "leaked marker", False),
    ],
)
def test_kinds_and_what_is_asked_again(answer, kind, again):
    found = reason_against(answer, keeps_trace=False)
    assert found.partition(":")[0] == kind, found
    assert needs_more_room(answer) == again


def test_hidden_reasoning_is_counted_and_not_taken_for_depth():
    assert "only 900 characters of hidden reasoning and no room was left" in reason("", "length", hidden_chars=900)
    answer = Answer(THOUGHT, "stop")
    assert usable_text(answer, keeps_trace=False) == JSON
    assert usable_text(answer, keeps_trace=True) == THOUGHT
    opened_by_the_template = Answer("Rates rise.\n</think>\n\nGood text", "stop")
    assert usable_text(opened_by_the_template, keeps_trace=False) == "Good text"


def test_a_trace_that_belongs_to_the_answer_may_hold_think_tags_and_no_channel():
    assert reason(THOUGHT, keeps_trace=True) == ""
    assert reason(THOUGHT.replace("Rates", "assistantfinal Rates"), keeps_trace=True).startswith("leaked marker")
    assert reason("<think>\nRates rise", "length", keeps_trace=True).startswith("truncated")


def test_what_a_channel_parser_found_is_the_reason():
    assert reason("<|channel|>x", problem="harmony: no header") == "harmony: no header"
    assert reason("", hidden_chars=5, problem="harmony: no header").startswith("empty")


@pytest.mark.parametrize("recipe", ["proofkit", "signals"])
@pytest.mark.parametrize("name", ["gold", "heldout"])
def test_no_answer_written_by_hand_is_taken_for_a_leak(recipe, name):
    lines = (Path("data_contracts") / recipe / "examples" / f"{name}.jsonl").read_text("utf-8").splitlines()
    answers = [load_recipe(recipe).completion(json.loads(line)) for line in lines]
    assert len(answers) >= 15
    assert {reason(text, keeps_trace=keeps_trace(recipe)) for text in answers} == {""}
    assert [text for text in answers if re.search(markers.STRIPPED_MARKERS, text)] == []
    written = [value for line in lines for key, value in json.loads(line).items() if key in ("trace", "target")]
    assert [text for text in written if re.search(markers.STRIPPED_MARKERS, text)] == []
