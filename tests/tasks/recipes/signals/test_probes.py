"""Calibration, length and changed inputs: the right model passes, each known failing of a model shows as its number."""

from __future__ import annotations

import json
import re

import pytest

from data_contracts.prompting.prompt import load_prompt
from data_contracts.signals.metamorphic import KINDS
from tasks.measures.bootstrap import measure_of
from tasks.recipes.signals import nano_rows as signals_world
from tasks.recipes.signals import probes as signals_probe
from tasks.recipes.signals import recipe as signals

ROWS = signals.build_rows("nano", 1, 120, 3)[1]
MALFORMED = next(row for row in signals.build_rows("gold", 99, 1, 3)[0] if signals.malformed(row))


def answers_of(rows, **changes):
    """Every row answered rightly, but for the fields that `changes` computes from the row."""
    return [
        signals.parse_output(signals.completion({**row, **{k: f(row) for k, f in changes.items()}})) for row in rows
    ]


@pytest.mark.parametrize("more", [" I hope this helps.", "\n{}", "\n\nOn second thought, relevance is 0.", "}", "```"])
@pytest.mark.parametrize("row", [ROWS[0], MALFORMED], ids=["six fields", "error"])
def test_text_after_the_json_makes_an_answer_unreadable(row, more):
    """The program behind the model parses the whole answer: what it cannot read must not score."""
    answer = signals.completion(row)
    assert signals.parse_output(answer).answer == signals.parse_output(f"{answer}\n ").answer == signals.answer_of(row)
    found = signals.parse_output(answer + more)
    assert found.answer is None and found.problem
    assert signals.score(row, found)["valid_json_fraction"] == 0


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("row", [ROWS[0], MALFORMED], ids=["six fields", "error"])
def test_white_space_in_the_json_changes_no_answer(row, indent):
    spaced = json.dumps(signals.answer_of(row), indent=indent).replace("{", "{ ")
    found = signals.parse_output(f"<think>\n{row['trace']}\n</think>\n\n{spaced}")
    assert (found.answer, found.problem) == (signals.answer_of(row), "")
    score = signals.score(row, found)
    assert score["valid_json_fraction"] == 1 and score["error_code_accuracy_fraction"] in (None, 1)


def slope(rows, parsed):
    statistic, pairs = signals_probe.paired_measures(rows, parsed)["magnitude_calibration_slope"]
    return measure_of(pairs, statistic, 0.95)


def test_a_calibrated_model_has_slope_one_and_an_overconfident_one_shows_by_how_much():
    assert slope(ROWS, answers_of(ROWS))["value"] == 1
    loud = slope(ROWS, answers_of(ROWS, magnitude=lambda row: min(1.0, 2.5 * row["magnitude"])))
    assert loud["value"] == pytest.approx(2.5)
    assert loud["low"] > 2
    assert loud["n"] == sum(row["relevance"] > 0.1 for row in ROWS)


def test_length_that_stands_for_relevance_shows_as_a_correlation():
    def measured(parsed):
        statistic, pairs = signals_probe.paired_measures(ROWS, parsed)["trace_length_relevance_rank_correlation"]
        return measure_of(pairs, statistic, 0.95)

    assert abs(measured(answers_of(ROWS))["value"]) < 0.3
    long_is_relevant = measured(answers_of(ROWS, trace=lambda row: "word " * (10 + int(100 * row["relevance"]))))
    assert long_is_relevant["value"] > 0.99
    constant = measured(answers_of(ROWS, trace=lambda row: "word"))
    assert constant["value"] is None and constant["n"] == len(ROWS)


def test_too_few_pairs_are_unscored():
    assert measure_of([(1.0, 1.0)] * 2, "slope_through_origin", 0.95)["value"] is None
    assert measure_of([], "rank_correlation", 0.95) == {"value": None, "low": None, "high": None, "n": 0}
    assert measure_of([(0.0, 1.0)] * 9, "slope_through_origin", 0.95)["value"] is None


@pytest.mark.parametrize("row", ROWS[:24])
def test_each_variant_changes_what_it_says_and_nothing_else(row):
    found = signals_probe.variants(row)
    assert list(found) == ["negated_question", "swapped_subject", "moved_date"]
    subject, happening, form = signals_world.combination_of(row).split("|")
    needed = signals_world.QUESTION_FORMS[form]
    for kind, changed in found.items():
        other_subject, same, other_form = signals_world.combination_of(changed).split("|")
        assert same == happening
        assert (other_subject != subject) == (kind == "swapped_subject")
        assert signals_world.QUESTION_FORMS[other_form] == (-needed if kind == "negated_question" else needed)
        assert (changed["headline"], changed["question"]) != (row["headline"], row["question"])
        assert changed["direction"] == (-row["direction"] if kind == "negated_question" else row["direction"])
        assert str(changed["direction"]) != "-0.0"


def test_right_answers_hold_under_every_change_and_the_sign_flip_does_not():
    signed = [row for row in ROWS if row["metric_direction"]]
    assert len(signed) > 60
    for row in signed:
        before = signals.parse_output(signals.completion(row))
        for kind, changed in signals_probe.variants(row).items():
            assert signals_probe.holds(kind, before, signals.parse_output(signals.completion(changed)))
    row = signed[0]
    metric = {"direction": 0.9 * row["metric_direction"]}
    says_metric = signals.parse_output(signals.completion(row | metric))
    assert not signals_probe.holds("negated_question", says_metric, says_metric)
    louder = signals.parse_output(signals.completion(row | {"magnitude": 0.9}))
    assert not signals_probe.holds("moved_date", signals.parse_output(signals.completion(row)), louder)
    turned = signals.parse_output(
        signals.completion(signals_probe.variants(row)["negated_question"] | {"magnitude": 0.9})
    )
    assert not signals_probe.holds("negated_question", signals.parse_output(signals.completion(row)), turned)
    unreadable = signals.parse_output("{}")
    assert not signals_probe.holds("moved_date", unreadable, unreadable)


@pytest.mark.parametrize("source", ["nano", "gold"])
def test_a_model_that_never_has_a_direction_turns_no_sign(source):
    """0 is its own negative: such a model must not hold wherever the label has a direction."""
    rows = ROWS if source == "nano" else signals.build_rows("gold", 1, 51, 1)[1]
    held = {True: [], False: []}
    for row in rows:
        changed = signals_probe.variants(row).get("negated_question")
        if changed is not None:
            before, after = (said(one, direction=0.0) for one in (row, changed))
            held[row["direction"] != 0].append(signals_probe.holds("negated_question", before, after))
    assert len(held[True]) >= 10 and not any(held[True])
    assert all(held[False]) and (held[False] or source == "gold"), "noise has no direction, asked either way"
    unknown = signals.parse_output(signals.completion(ROWS[0] | {"direction": 0.0}))
    assert not signals_probe.holds("negated_question", unknown, unknown), "nobody knows that 0 is right"


@pytest.fixture(scope="module")
def gold():
    return signals.build_rows("gold", 99, 51, 1)


def said(row, **changes):
    return signals.parse_output(signals.completion({**row, **changes}), row)


def test_hand_written_rows_are_changed_as_the_file_says(gold):
    train, heldout = gold
    assert not any(signals_probe.variants(row) for row in train)
    found = [(row, kind, changed) for row in heldout for kind, changed in signals_probe.variants(row).items()]
    assert len(found) >= 40 and {kind for _, kind, _ in found} == set(KINDS)
    for row, kind, changed in found:
        turned = -1 if kind == "negated_question" else 1
        assert row["direction"] is None or changed["direction"] == turned * row["direction"]
        shown = {"headline", "question", "context"} | ({"direction"} if turned < 0 else set())
        assert {name for name in row | changed if row.get(name) != changed.get(name)} <= shown
        assert load_prompt("signals").messages(changed) != load_prompt("signals").messages(row)
        assert signals_probe.holds(kind, said(row), said(changed)), (kind, row["headline"])


def test_a_model_that_reads_names_dates_or_order_is_seen(gold):
    row = next(row for row in gold[1] if row["headline"].startswith("Norges Bank"))
    before = said(row)
    for kind, tolerance in signals_probe.TOLERANCE.items():
        turned = {"direction": -row["direction"]} if kind == "negated_question" else {}
        assert signals_probe.holds(kind, before, said(row, **turned))
        for field in ("magnitude",) if turned else signals_probe.NUMBERS:
            sign = turned.get("direction", 1) / abs(turned.get("direction", 1)) if field == "direction" else 1
            near, far = (round(row[field] - step, 6) for step in (tolerance, tolerance + 0.01))
            assert signals_probe.holds(kind, before, said(row, **turned | {field: sign * near})), (kind, field)
            assert not signals_probe.holds(kind, before, said(row, **turned | {field: sign * far})), (kind, field)
        assert not signals_probe.holds(
            kind, before, said(row, direction=-1 * turned.get("direction", row["direction"]))
        )
    assert not signals_probe.holds("swapped_names", before, said(row, information_type="report"))
    edge = said(row, relevance=0.09, direction=0.0, magnitude=0.0, information_type="unrelated")
    over = said(row, relevance=0.12, direction=0.0, magnitude=0.0, information_type="unrelated")
    assert not signals_probe.holds("moved_date", edge, over), "one calls it noise, the other does not"


def test_an_error_must_stay_the_same_error(gold):
    row = next(row for row in gold[1] if row.get("error_code") == "missing_question")
    assert {"swapped_names", "reordered_context"} <= signals_probe.variants(row).keys()
    other = said(row, error_code="truncated")
    assert signals_probe.holds(
        "reordered_context", said(row), said(row, error_message="Where is the question, please?")
    )
    assert not signals_probe.holds("reordered_context", said(row), other)
    assert not signals_probe.holds("negated_question", said(row), said(row))
    assert not signals_probe.holds("swapped_names", said(row), said(ROWS[0]))


def test_malformed_rows_are_scored_by_the_error_schema():
    bad = next(row for row in signals.build_rows("gold", 99, 51, 1)[0] if signals.malformed(row))
    right = signals.score(bad, signals.parse_output(signals.completion(bad)))
    assert right["error_code_accuracy_fraction"] == right["error_schema_fraction"] == right["valid_json_fraction"] == 1
    assert right["sign_accuracy_fraction"] is None
    fluent = signals.parse_output(signals.completion(ROWS[0]))
    wrong = signals.score(bad, fluent)
    assert wrong["error_schema_fraction"] == 0 and wrong["valid_json_fraction"] == 1
    assert not signals.all_right(bad, fluent)
    refused = signals.score(ROWS[0], signals.parse_output(signals.completion(bad)))
    assert refused["refused_good_input_fraction"] == 1
    assert set(right) == set(wrong) == set(refused) == set(signals.METRICS)


MOVED = next(row for row in ROWS if row["relevance"] > 0.1)
WORDS = "It moves. The chance of YES rises."
ANSWER = signals.completion({**MOVED, "trace": WORDS, "direction": 0.9, "magnitude": 0.1})
TURNED = ANSWER.replace('"direction": 0.9', '"direction": -0.9')
REFUSED = (
    '<think>\nNothing to read.\n</think>\n\n{"error_code": "empty_input", "error_message": "There is no headline."}'
)


@pytest.mark.parametrize(
    ("answer", "text", "begun", "well_formed", "agrees"),
    [
        (ANSWER, WORDS, True, True, True),
        (TURNED, WORDS, True, True, False),
        (ANSWER.replace("rises", "is unclear"), "It moves. The chance of YES is unclear.", True, True, None),
        (ANSWER.removeprefix("<think>\n"), WORDS, True, True, True),  # the template opened it
        (ANSWER.split("</think>")[0], WORDS, True, False, None),
        (ANSWER.split("</think>")[1], "", False, False, None),
        (ANSWER + "\n<think>\nAgain.\n</think>", WORDS, True, False, None),
        ("<think>\n" + ANSWER, f"<think>\n{WORDS}", True, False, None),
        ("<think>\n\n</think>\n\n{}", "", True, False, None),
        (ANSWER[:-1], WORDS, True, True, None),
        (REFUSED, "Nothing to read.", True, True, None),
        ("rates rates rates", "rates rates rates", False, False, None),
        ("", "", False, False, None),
    ],
)
def test_the_trace_of_an_answer_is_read_as_it_is(answer, text, begun, well_formed, agrees):
    (found,) = signals_probe.traces([answer], ROWS[:1])
    assert (found.text, found.begun, found.well_formed, found.agrees) == (text, begun, well_formed, agrees)


def test_a_size_that_the_trace_counts_otherwise_is_no_agreement():
    counted = ANSWER.replace("The chance of YES rises", "YES goes up from 40% to 50%")
    far = counted.replace('"magnitude": 0.1', '"magnitude": 0.6')
    assert [one.agrees for one in signals_probe.traces([counted, far], ROWS[:2])] == [True, False]


def test_an_answer_that_calls_its_own_headline_unrelated_agrees_with_nothing():
    both = re.sub(r'"information_type": "\w+"', '"information_type": "unrelated"', ANSWER)
    no_news = re.sub(r'"relevance": [\d.]+', '"relevance": 0.0', ANSWER)
    moved = re.sub(r'"relevance": [\d.]+', '"relevance": 0.0', both)
    assert [one.agrees for one in signals_probe.traces([both, no_news, moved], ROWS[:3])] == [False] * 3


def test_every_expected_answer_agrees_with_its_own_trace():
    found = signals_probe.traces([signals.completion(row) for row in ROWS], ROWS)
    assert [one.agrees for one in found] == [True] * len(ROWS)
    assert all(one.well_formed for one in found)


def test_a_teacher_reads_the_lines_of_a_seed_and_its_row_keeps_them(gold):
    seed = next(row for row in gold[0] if row.get("context") and not signals.malformed(row))
    asked = signals.teacher_messages(seed)[-1]["content"]
    assert asked.endswith("\n" + seed["context"]) and "Assessment: " in asked
    row = signals.teacher_row(seed, f"<trace>{seed['trace']}</trace>", "big")
    assert row == {**seed, "source_batch": "teacher-big"}
    assert "context" not in signals.teacher_row({**seed, "context": None}, f"<trace>{seed['trace']}</trace>", "big")
