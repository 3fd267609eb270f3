"""Near-duplicates within a table, and inputs that are answered in two ways."""

import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from data_contracts.audit import similarity
from data_contracts.audit.similarity import largest_similarity, near_pairs, normalised, repeats
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


def jaccard(texts: list[str], others: list[str], words: int) -> np.ndarray:
    """Similarity of each text with each other by scikit-learn, which knows shingles by their words and not by a hash."""
    from sklearn.feature_extraction.text import CountVectorizer

    counter = CountVectorizer(token_pattern=r"\w+", ngram_range=(words, words), binary=True).fit([*texts, *others])
    left, right = (counter.transform(lines).toarray().astype(int) for lines in (texts, others))
    shared = left @ right.T
    return shared / np.maximum(left.sum(axis=1)[:, None] + right.sum(axis=1) - shared, 1)


@pytest.fixture
def alike(view) -> pl.DataFrame:
    """Gold, parts of its rows under other rows' beginnings, a text of two words, an empty one and none."""
    mixed = view.with_columns(input=pl.col("input").str.slice(0, 60) + pl.col("input").shift(1).str.slice(20))
    odd = view.head(3).with_columns(input=pl.Series(["two words", "", None]))
    return pl.concat([view, mixed, odd]).with_row_index("row", offset=1)


@pytest.mark.parametrize("dense_cells", [0, 2**30])
@pytest.mark.parametrize("column", ["input", "trace"])
def test_similarities_are_those_of_scikit_learn(alike, gold, monkeypatch, dense_cells, column):
    monkeypatch.setattr(similarity, "DENSE_CELLS", dense_cells)
    texts = normalised(alike, column).to_list()
    expected = np.triu(jaccard(texts, texts, similarity.SHINGLE_WORDS), k=1)
    count, pairs, largest = near_pairs(alike, 0.3, column)
    assert count == (expected > 0.3).sum() > 20
    assert largest == round(expected.max(), 6)
    assert all(round(expected[pair.row - 1, pair.other - 1], 6) == round(pair.similarity, 6) for pair in pairs)
    for words in (2, 3):
        other = audited(gold.sample(fraction=1, shuffle=True, seed=1).head(20)).with_columns(
            pl.col(column).str.slice(10, 40) + pl.col(column).shift(1).str.slice(5, 40)
        )
        nearest = jaccard(texts, normalised(other, column).to_list(), words).max()
        assert 0 < nearest < 1
        assert largest_similarity(alike, other, column, words=words)[0] == round(nearest, 6)


def test_a_small_file_is_validated_without_libraries_that_cost_a_second_to_import(examples, tmp_path):
    code = (
        "import sys; from data_contracts.validation.validate import validate_file; "
        "found = validate_file('signals', sys.argv[1], out=sys.argv[2]); "
        "print(found.verdict.value, *sorted({'sklearn', 'scipy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(examples / "gold.jsonl"), str(tmp_path)],
                          capture_output=True, text=True, check=True, timeout=120)  # fmt: skip
    assert done.stdout.split() == ["pass"]
