"""Near-duplicates within a table, and inputs that are answered in two ways."""

import polars as pl
import pytest

from data_contracts.audit import similarity
from data_contracts.audit.similarity import repeats
from data_contracts.limits import load_limits
from data_contracts.signals.rows import audited
from data_contracts.verdict import Verdict


@pytest.fixture
def view(gold):
    return audited(gold)


def with_copy(view: pl.DataFrame, row: int, **columns) -> pl.DataFrame:
    return pl.concat([view, view[row - 1 : row].with_columns(**columns)])


def test_gold_repeats_nothing(view, limits):
    near, text, two_answers = repeats(view, limits)
    assert {near.verdict, text.verdict, two_answers.verdict} == {Verdict.PASS}
    assert near.measured < 0.2 and text.measured < 0.05


def test_a_reworded_input_is_found_with_its_pair(view, limits):
    copied = with_copy(view, 6, input=pl.col("input").str.replace("1,000", "1,100"))
    near, _, two_answers = repeats(copied, limits)
    assert near.verdict is Verdict.FAIL
    assert f"rows 6 and {view.height + 1} (" in near.detail
    assert "1 pairs above the limit" in near.detail
    assert two_answers.verdict is Verdict.PASS


@pytest.mark.parametrize("columns", [{"sign": -pl.col("sign")}, {"noise": ~pl.col("noise")}])
@pytest.mark.parametrize("profile", ["default", "nano"])
def test_one_input_with_two_answers_fails_in_any_profile(view, columns, profile):
    said_again = pl.col("input").str.to_uppercase().str.replace("IN ", "In the ")
    _, _, two_answers = repeats(with_copy(view, 1, input=said_again, **columns), load_limits("signals", profile))
    assert (two_answers.verdict, two_answers.measured) == (Verdict.FAIL, 1)
    assert f"rows 1 and {view.height + 1}" in two_answers.detail


def test_a_word_of_denial_makes_another_question(view, limits):
    denied = pl.col("input").str.replace("leave", "not leave")
    _, _, two_answers = repeats(with_copy(view, 1, input=denied, sign=-pl.col("sign")), limits)
    assert two_answers.verdict is Verdict.PASS


def test_templates_are_reported_without_a_limit(view):
    near, _, _ = repeats(with_copy(view, 6), load_limits("signals", "nano"))
    assert (near.comparison, near.measured) == ("report", 1.0)


def test_pairs_are_found_across_chunks(view, limits, monkeypatch):
    monkeypatch.setattr(similarity, "REPEAT_CHUNK_ROWS", 7)
    near, _, _ = repeats(with_copy(view, 1), limits)
    assert near.measured == 1.0
    assert f"rows 1 and {view.height + 1} (1.00)" in near.detail


def test_malformed_inputs_may_repeat(view, limits):
    row = int(view["malformed"].arg_true()[0]) + 1
    near, _, two_answers = repeats(with_copy(view, row), limits)
    assert (near.verdict, two_answers.verdict) == (Verdict.PASS, Verdict.PASS)


def test_too_few_rows_cannot_be_told(view, limits):
    for rows in (0, 1):
        assert {one.verdict for one in repeats(view.head(rows), limits)} == {Verdict.CANNOT_TELL}
