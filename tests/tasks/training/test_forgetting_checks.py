"""Forgetting: healthy answers pass, and each way of losing a trace fails the one check that guards against it."""

from __future__ import annotations

import json
import re

import pytest

from data_contracts.paths import CONTRACTS_FOLDER
from data_contracts.verdict import Verdict, failures
from tasks.recipes.signals import nano_rows as signals_world
from tasks.recipes.signals import probes as signals_probe
from tasks.recipes.signals import recipe as signals
from tasks.training.config import ForgettingConfig
from tasks.training.forgetting_checks import (
    BOARD_FILE,
    Measured,
    Remedies,
    check_general_loss,
    judge,
    more_rows_may_decide,
    repetition,
)

ONE = "fraction of probed answers with exactly one well-formed trace"
CUT = "fraction of probed answers that are cut off"
LENGTH = "median length of the traces, as a ratio of the training rows'"
LOOPS = "mean fraction of repeated 4-grams in the traces"
AGREES = "fraction of traces whose conclusion agrees with the answer"
CONFIG = ForgettingConfig()
TRAIN, HELDOUT = signals_world.nano_rows(48, CONFIG.probe_rows, 42)
LONGEST_TOKENS, LIMIT_TOKENS = 150, 300
NO_TRACE = [json.dumps(signals.answer_of(row)) for row in HELDOUT]


def healthy(rows: list[dict] = HELDOUT) -> list[str]:
    return [signals.completion(row) for row in rows]


def numbers(answers: list[str], rows: list[dict] = HELDOUT, cut_off: int = 0) -> Measured:
    return Measured.of(signals_probe.traces(answers, rows), cut_off)


def judged(after: list[str], before: list[str] | None = None, cut_off: int = 0, config: ForgettingConfig = CONFIG):
    """Name -> check of these answers, beside a base whose answers are `before` (healthy ones unless given)."""
    base = numbers(healthy() if before is None else before)
    return by_name(
        judge(
            config, base, numbers(after, cut_off=cut_off), numbers(healthy(TRAIN), TRAIN), LONGEST_TOKENS, LIMIT_TOKENS
        )
    )


def by_name(checks) -> dict:
    found = {one.name: one for one in checks}
    assert len(found) == len(checks)
    return found


def not_passed(checks: dict) -> dict[str, Verdict]:
    return {one.name: one.verdict for one in failures(checks.values())}


def examples(split: str) -> list[dict]:
    lines = (CONTRACTS_FOLDER / "signals" / "examples" / f"{split}.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_healthy_answers_pass_every_check():
    found = judged(healthy())
    assert set(found) == {ONE, CUT, LENGTH, LOOPS, AGREES}
    assert not not_passed(found)
    assert found[ONE].measured == found[AGREES].measured == 1
    assert found[LOOPS].measured == found[CUT].measured == 0


def test_the_hand_written_examples_pass_too():
    """Answers as good as gold, beside a base as good: no false alarm on long traces, malformed inputs included."""
    heldout, gold = examples("heldout"), examples("gold")
    some = heldout[: CONFIG.probe_rows]
    told = numbers(healthy(some), some)
    checks = judge(CONFIG, told, told, numbers(healthy(gold), gold), LONGEST_TOKENS, LIMIT_TOKENS)
    assert len(checks) == 5
    assert not failures(checks)
    assert told.concluding >= CONFIG.min_probe_traces


# Each sabotage spoils a third or a half of the answers, or all where the measure is a mean or a median over them.


def second_trace(answer: str) -> str:
    return answer.replace("</think>\n", "</think>\n<think>\nOn second thought.\n</think>\n")


def never_closed(answer: str) -> str:
    return answer.split("</think>")[0]


def no_trace(answer: str) -> str:
    return answer.split("</think>")[1].strip()


def empty_trace(answer: str) -> str:
    return f"<think>\n\n</think>{answer.split('</think>')[1]}"


def turned_sign(answer: str) -> str:
    fields = json.loads(answer.split("</think>")[1])
    turned = {**fields, "direction": -fields["direction"] or 0.5}
    return f"{answer.split('</think>')[0]}</think>\n\n{json.dumps(turned)}"


def called_noise(answer: str) -> str:
    """What nano answers after lr 2e-2: a move of YES by a headline that is called unrelated."""
    return re.sub(r'"information_type": "\w+"', '"information_type": "unrelated"', answer)


def in_the_trace(change):
    def changed(answer: str) -> str:
        trace, rest = answer.removeprefix("<think>\n").split("\n</think>")
        return f"<think>\n{change(trace)}\n</think>{rest}"

    return changed


def loop(trace: str) -> str:
    """The last three words of its first half again and again, to the same length."""
    words = trace.split()
    half = words[: len(words) // 2]
    return " ".join([*half, *(half[-3:] * len(words))])[: len(trace)]


def first_sentences(trace: str) -> str:
    return re.match(r".*?The chance of YES \w+\.", trace)[0]


def rambling(trace: str) -> str:
    return f"{trace} {' '.join(f'aside{i}' for i in range(40))}"


SABOTAGE = {
    "two traces": (second_trace, 3, ONE, "16 of 24 after; 95 % interval 0.4468 to 0.8437"),
    "a trace that is never closed": (never_closed, 3, ONE, "24 of 24 before, 16 of 24 after"),
    "no trace at all": (no_trace, 3, ONE, "16 of 24 after"),
    "an empty trace": (empty_trace, 3, ONE, "16 of 24 after"),
    "an answer against its trace": (
        turned_sign,
        2,
        AGREES,
        "24 of 24 before, 12 of 24 after, 48 of 48 in the training rows",
    ),
    "an answer that is two answers": (called_noise, 1, AGREES, "24 of 24 before, 8 of 24 after"),
    "loops": (in_the_trace(loop), 1, LOOPS, "0 before, 0.4"),
    "one sentence": (in_the_trace(first_sentences), 1, LENGTH, "172 characters before, 71 after, "),
    "rambling": (in_the_trace(rambling), 1, LENGTH, "(expected <= 1.5). 172 characters before"),
}


@pytest.mark.parametrize("what", SABOTAGE)
def test_each_loss_fails_its_check_and_no_other(what):
    spoil, every, broken, said = SABOTAGE[what]
    after = [spoil(one) if i % every == 0 else one for i, one in enumerate(healthy())]
    assert after != healthy()
    found = judged(after)
    assert [name for name, verdict in not_passed(found).items() if verdict is Verdict.FAIL] == [broken]
    sentence = found[broken].sentence()
    assert said in sentence
    assert "lower train.learning_rate or train.epochs" in sentence and BOARD_FILE in sentence


@pytest.mark.parametrize(
    ("knob", "value", "what"),
    [
        ("max_trace_loss_fraction", 0.6, "two traces"),
        ("min_agreement_fraction", 0.5, "an answer against its trace"),
        ("max_repetition_fraction", 0.6, "loops"),
        ("max_trace_length_ratio", 3.0, "one sentence"),
        ("max_trace_length_ratio", 4.0, "rambling"),
    ],
)
def test_each_limit_is_read(knob, value, what):
    spoil, every, _, _ = SABOTAGE[what]
    after = [spoil(one) if i % every == 0 else one for i, one in enumerate(healthy())]
    assert not not_passed(judged(after, config=ForgettingConfig(**{knob: value})))


def test_answers_that_never_end_fail():
    found = judged(healthy(), cut_off=8)
    assert not_passed(found) == {CUT: Verdict.FAIL}
    assert "0 of 24 before, 8 of 24 after, at 300 tokens" in found[CUT].sentence()
    assert not not_passed(judged(healthy(), cut_off=8, config=ForgettingConfig(max_cut_off_fraction=0.34)))


def test_a_model_that_lost_everything_fails_by_every_number_it_still_has():
    """What nano answers after lr 3e-2: no tag, no word, a quotation mark again and again."""
    found = judged(['" ' * 192] * len(HELDOUT), cut_off=len(HELDOUT))
    told = not_passed(found)
    assert told.pop(AGREES) is Verdict.CANNOT_TELL
    assert told == dict.fromkeys((ONE, CUT, LENGTH, LOOPS), Verdict.FAIL)
    assert "0 before, 0.9947 after, 0 in the training rows" in found[LOOPS].sentence()


def test_traces_that_conclude_nothing_cannot_tell():
    vague = in_the_trace(lambda trace: trace.replace("The chance of YES", "The picture"))
    found = judged([vague(one) for one in healthy()])
    assert not_passed(found) == {AGREES: Verdict.CANNOT_TELL}
    assert "24 of 24 before, 0 of 0 after" in found[AGREES].sentence()


def test_too_few_prompts_cannot_tell_and_say_what_to_raise():
    few = HELDOUT[: CONFIG.min_probe_traces - 1]
    told = numbers(healthy(few), few)
    found = by_name(judge(CONFIG, told, told, numbers(healthy(TRAIN), TRAIN), LONGEST_TOKENS, LIMIT_TOKENS))
    assert set(not_passed(found).values()) == {Verdict.CANNOT_TELL}
    assert len(not_passed(found)) == 5
    assert all("Raise train.forgetting.probe_rows" in one.sentence() for one in found.values())


def test_a_limit_that_cuts_off_healthy_answers_cannot_tell():
    told = numbers(healthy())
    found = by_name(judge(CONFIG, told, told, told, LIMIT_TOKENS, LIMIT_TOKENS))
    assert not_passed(found) == {CUT: Verdict.CANNOT_TELL}
    assert "leave 300 tokens of the base's context, and answers of the training rows reach 300" in found[CUT].sentence()


def test_a_base_that_wrote_no_trace_has_none_to_lose():
    """Neither model shows reasoning: the numbers are reported, with the reason why they are not judged."""
    found = judged(NO_TRACE, before=NO_TRACE)
    assert set(found) == {ONE, CUT, "probed answers that begin a trace"}
    assert not not_passed(found)
    assert found[ONE].comparison == "report"
    assert "not judged: 0 of 24 before, 0 of 24 after, so there is none to lose" in found[ONE].sentence()
    assert "length, repetition and agreement are not judged" in found["probed answers that begin a trace"].sentence()


def test_what_a_traceless_base_learned_is_judged_all_the_same():
    assert not not_passed(judged(healthy(), before=NO_TRACE))
    looping = [in_the_trace(loop)(one) for one in healthy()]
    assert not_passed(judged(looping, before=NO_TRACE)) == {LOOPS: Verdict.FAIL}


def test_no_bound_is_tighter_than_what_the_base_does():
    """A base that rambles and loops: half the way from there to the rows is no forgetting, and worse than the base is."""
    far, half = (in_the_trace(lambda trace, n=n: f"{trace} {'And so on it goes. ' * n}".strip()) for n in (60, 30))
    base, moved = [far(one) for one in healthy()], [half(one) for one in healthy()]
    assert set(not_passed(judged(base))) == {LENGTH, LOOPS}
    assert not not_passed(judged(moved, before=base))
    assert set(not_passed(judged(base, before=moved))) == {LENGTH, LOOPS}
    short = [in_the_trace(first_sentences)(one) for one in healthy()]
    assert set(not_passed(judged(short, before=base))) == {LENGTH}, "a long base is no leave to be short"


def test_a_base_that_contradicts_itself_sets_the_bound():
    base = [turned_sign(one) if i % 2 == 0 else one for i, one in enumerate(healthy())]
    assert not not_passed(judged(base, before=base))
    assert not_passed(judged(base)) == {AGREES: Verdict.FAIL}


# What lies within its own uncertainty of a limit.


def two_loop(n_rows: int, looping: int) -> list[str]:
    """Answers of which some loop all the way, as a nano model of another seed did."""
    rows = signals_world.nano_rows(n_rows, n_rows, 42)[1]
    endless = in_the_trace(lambda trace: "YES or NO " * 60)
    return [endless(one) if i < looping else one for i, one in enumerate(healthy(rows))]


def test_two_looping_answers_of_24_are_no_proof_and_more_rows_decide_both_ways():
    """Seen: 0.0846 over 24 answers, limit 0.05, refused as too aggressive."""
    found = judged(two_loop(24, 2))
    assert found[LOOPS].measured == pytest.approx(0.083, abs=0.003)
    assert found[LOOPS].verdict is Verdict.CANNOT_TELL
    assert "95 % interval 0 to " in found[LOOPS].sentence()
    assert "aggressive" not in found[LOOPS].sentence() and "Raise train.forgetting.probe_rows" in found[LOOPS].fix

    def at(n_rows: int, looping: int) -> Verdict:
        rows = signals_world.nano_rows(n_rows, n_rows, 42)[1]
        base, tuned = numbers(healthy(rows), rows), numbers(two_loop(n_rows, looping), rows)
        checks = judge(CONFIG, base, tuned, base, LONGEST_TOKENS, LIMIT_TOKENS)
        return by_name(checks)[LOOPS].verdict

    assert (at(96, 2), at(96, 6), at(96, 14)) == (Verdict.PASS, Verdict.CANNOT_TELL, Verdict.FAIL)


@pytest.mark.parametrize(
    ("agreeing", "concluding", "verdict"),
    [
        (3, 6, Verdict.CANNOT_TELL),  # seen: refused, though six cannot tell
        (0, 7, Verdict.CANNOT_TELL),  # beyond the limit with its whole interval, and still too few
        (7, 7, Verdict.CANNOT_TELL),
        (5, 8, Verdict.CANNOT_TELL),  # enough, interval 0.24 to 0.91
        (3, 8, Verdict.FAIL),  # 0.09 to 0.76
        (7, 8, Verdict.PASS),
        (18, 24, Verdict.CANNOT_TELL),
        (12, 24, Verdict.FAIL),
    ],
)
def test_the_traces_that_conclude_decide_when_there_are_enough_of_them(agreeing, concluding, verdict):
    vague = in_the_trace(lambda trace: trace.replace("The chance of YES", "The picture"))
    answers = [
        one if i < agreeing else turned_sign(one) if i < concluding else vague(one) for i, one in enumerate(healthy())
    ]
    found = judged(answers)
    assert found[AGREES].verdict is verdict
    sentence = found[AGREES].sentence()
    few = f"cannot tell: {concluding} to judge by, at least 8 needed"
    assert (few in sentence) == (concluding < CONFIG.min_probe_traces)
    assert ("too aggressive" in sentence) == (verdict is Verdict.FAIL)


def test_a_refusal_carries_the_advice_it_is_given_and_a_doubt_the_way_to_more_rows():
    remedies = Remedies(refused="ADVICE", more_rows="ROWS")
    base = numbers(healthy())
    spoiled = [second_trace(one) if i % 2 == 0 else one for i, one in enumerate(healthy())]
    checks = by_name(judge(CONFIG, base, numbers(spoiled, cut_off=4), base, LONGEST_TOKENS, LIMIT_TOKENS, remedies))
    assert checks[ONE].fix.startswith("ADVICE. What both") and checks[CUT].fix.endswith(f"ROWS. {checks[ONE].fix[8:]}")


def test_further_rows_are_worth_their_time_only_where_they_may_decide():
    undecided, refused, passed = judged(healthy(), cut_off=4), judged(healthy(), cut_off=24), judged(healthy())
    assert more_rows_may_decide(list(undecided.values()), LONGEST_TOKENS, LIMIT_TOKENS)
    assert not more_rows_may_decide(list(passed.values()), LONGEST_TOKENS, LIMIT_TOKENS)
    assert not more_rows_may_decide([*undecided.values(), *refused.values()], LONGEST_TOKENS, LIMIT_TOKENS)
    assert not more_rows_may_decide(list(undecided.values()), LIMIT_TOKENS, LIMIT_TOKENS), "no answer had space to end"


@pytest.mark.parametrize(
    ("after", "verdict"),
    [
        ([3.5, 3.4, 3.5, 3.4], Verdict.PASS),
        ([3.1, 3.0, 3.1, 4.0], Verdict.PASS),  # within the limit, though its interval is not
        ([3.1, 3.2, 3.1, 3.2], Verdict.PASS),
        ([5.1, 5.2, 5.1, 5.2], Verdict.FAIL),
        ([3.1, 3.0, 3.1, 5.0], Verdict.CANNOT_TELL),  # one passage alone: 0.55 in the mean
        ([3.1, float("nan"), 3.1, 3.0], Verdict.CANNOT_TELL),
    ],
)
def test_the_loss_on_general_text_is_told_by_its_interval(after, verdict):
    found = check_general_loss([3.0, 3.0, 3.0, 3.0], after, 0.5, vocab_tokens=1000)
    assert found.verdict is verdict
    assert "over 4 passages" in found.sentence()


def test_a_base_that_never_knew_general_text_has_none_to_forget():
    found = check_general_loss([7.0, 7.2], [9.0, 9.1], 0.5, vocab_tokens=1000)
    assert (found.measured, found.comparison) == (pytest.approx(1.95), "report")
    assert "no better than a guess among its 1000 tokens, 6.9078" in found.sentence()
    broken = check_general_loss([7.0, 7.2], [float("nan"), 7.0], 0.5, vocab_tokens=1000)
    assert (broken.measured, broken.verdict) == (None, Verdict.CANNOT_TELL)


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("YES needs a rise, and the headline says a fall.", 0, 0),
        ("", 0, 0),
        ("the " * 100, 0.98, 1),
        ("ha" * 400, 0.8, 1),  # no space: one word to a split on spaces
        ("!" * 100, 0.98, 1),
        ("a b c d e f g h " * 2, 0.3, 0.4),
    ],
)
def test_repetition_of_known_texts(text, low, high):
    assert low <= repetition(text) <= high


def test_repetition_tells_loops_from_every_healthy_trace():
    """Where the limit of 0.05 comes from: 150 hand-written traces and the nano world's, beside the same with a loop."""
    traces = [row["trace"] for row in (*examples("gold"), *examples("heldout"), *TRAIN)]
    assert len(traces) >= 190
    assert max(map(repetition, traces)) <= 0.011
    assert min(repetition(loop(trace)) for trace in traces) >= 0.2
