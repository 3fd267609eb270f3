"""Rubrics: read as data, held to their format with all problems at once; both scales; the schema that judges answer."""

from __future__ import annotations

import pytest

from data_contracts.errors import ConfigError
from data_contracts.paths import CONTRACTS_FOLDER
from data_contracts.prompting.rubric import load_rubric, parse_rubric

NUMBERS = """\
# What a judge looks for in a letter

Scale: 1 to 5

You see a request and a letter.
Length does not count.

## depth
Does it say something
that the request did not?

- 1: It repeats the request.
- 3: It adds one thing,
  and names it.
- 5: Every paragraph adds one.

## house_style
Is it written as we write?

- 1: No.
- 5: Yes.
"""


def problems_of(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_rubric(text, "letters")
    return "\n".join(caught.value.problems)


def test_a_rubric_of_numbers_is_read_whole():
    rubric = parse_rubric(NUMBERS, "letters")
    assert rubric.title == "What a judge looks for in a letter"
    assert rubric.guide == "You see a request and a letter.\nLength does not count."
    assert rubric.names == ("depth", "house_style") and rubric.criteria[1].label == "house style"
    assert rubric.levels == (1, 2, 3, 4, 5) and (rubric.bottom, rubric.top) == (1.0, 5.0)
    depth = rubric.criteria[0]
    assert depth.text == "Does it say something that the request did not?"
    assert depth.anchors["3"] == "It adds one thing, and names it."
    assert rubric.value(4) == 4.0


def test_only_levels_of_the_right_type_are_allowed():
    rubric = parse_rubric(NUMBERS, "letters")
    assert [level for level in (0, 1, 5, 6, 4.0, "4", True, None, 90) if rubric.allows(level)] == [1, 5]


def test_words_count_as_one_and_nought_and_cannot_tell_is_no_score():
    rubric = load_rubric("signals")
    assert [rubric.value(level) for level in rubric.levels] == [1.0, 0.0, None]
    assert rubric.top == 1.0 and rubric.allows("cannot tell") and not rubric.allows(1)


def test_the_schema_asks_for_a_reason_and_each_criterion_and_nothing_else():
    schema = parse_rubric(NUMBERS, "letters").verdict_schema()
    assert list(schema["properties"]) == schema["required"] == ["reason", "depth", "house_style"]
    assert schema["properties"]["depth"] == {"type": "integer", "enum": [1, 2, 3, 4, 5]}
    assert schema["additionalProperties"] is False
    assert load_rubric("signals").verdict_schema()["properties"]["noise_stays_noise"]["enum"] == [
        "yes",
        "no",
        "cannot tell",
    ]


def test_any_changed_word_is_another_rubric():
    digests = {
        parse_rubric(text, "letters").digest
        for text in (NUMBERS, NUMBERS.replace("repeats", "copies"), NUMBERS.replace("Length", "Tone"))
    }
    assert len(digests) == 3 and parse_rubric(NUMBERS, "letters").digest in digests


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("Scale: 1 to 5", "", "scale: found none"),
        ("Scale: 1 to 5", "Scale: 0 to 100", "scale: found '0 to 100'"),
        ("Scale: 1 to 5", "Scale: 1 to 5\nScale: 1 to 3", "scale: found '1 to 5', '1 to 3'"),
        ("- 1: No.\n", "", "house_style does not describe level 1"),
        ("- 5: Yes.", "- 6: Yes.", "level '6', which is not on the scale"),
        ("- 3: It adds one thing,\n  and names it.", "- 3:", "depth names level 3 without a word"),
        ("- 5: Yes.", "- 5: Yes.\n- 5: Yes!", "describes level 5 of house_style again"),
        ("- 5: Yes.", "- 5: Yes.\nAnd more.", "stands after the levels of house_style"),
        ("Is it written as we write?\n", "", "house_style does not say what it is about"),
        ("## house_style", "## depth", "criterion depth stands there twice"),
        ("## house_style", "## House style", "'House style' is no name of a criterion"),
        ("## house_style", "## reason", "'reason' is no name of a criterion"),
        ("## depth", "### depth", "line 8 is a heading of another level"),
        ("# What", "What", "0 titles"),
        ("You see a request and a letter.\nLength does not count.\n", "", "nothing stands before the first criterion"),
    ],
)  # fmt: skip
def test_each_thing_that_is_wrong_is_told(old, new, told):
    assert old in NUMBERS
    assert told in problems_of(NUMBERS.replace(old, new, 1))


def test_all_problems_are_told_at_once():
    broken = NUMBERS.replace("- 1: No.\n", "").replace("## depth", "## Depth").replace("# What", "What", 1)
    told = problems_of(broken)
    assert all(part in told for part in ("0 titles", "'Depth'", "level 1")) and len(told.splitlines()) == 3


def test_a_rubric_without_criteria_is_refused():
    assert "no criterion" in problems_of(NUMBERS.partition("## ")[0])


def test_every_shipped_rubric_can_be_read():
    found = sorted(CONTRACTS_FOLDER.glob("*/rubric.md"))
    assert len(found) >= 1
    for path in found:
        assert len(load_rubric(path.parent.name).criteria) >= 4


def test_a_missing_rubric_says_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere/rubric\.md is missing\. Every recipe needs one"):
        load_rubric("nowhere")
