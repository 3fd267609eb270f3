"""One sabotage for each set-level check, and the seed story's two batches, which must be refused."""

import numpy as np
import polars as pl
import pytest

from data_contracts.audit.audit import audit_rows, audit_splits
from data_contracts.errors import ContractError
from data_contracts.limits import load_limits
from data_contracts.verdict import Verdict, failures

NOISE = pl.col("relevance") <= 0.1
SENTENCE = (
    "The headline bears on the question in some way and the odds of YES are weighed against what was known before it. "
)


@pytest.fixture
def gold(gold):
    """The well-formed rows: a malformed one has no label to spoil."""
    return gold.filter(pl.col("error_code").is_null())


@pytest.fixture
def limits(limits):
    """Most tables here repeat the gold rows, with one neutral trace: agreement, near-duplicates and the surface of texts
    have tests of their own (test_consistency, test_similarity, test_shortcuts)."""
    return limits.model_copy(
        update={
            "max_repeat_similarity_fraction": None,
            "max_text_similarity_fraction": None,
            "max_surface_advantage_fraction": None,
            "min_concluded_fraction": 0.0,
            "sizes_unsaid": True,
            "min_disagreeing_rows": None,
        }
    )


def trace_of(chars: int) -> str:
    text = (SENTENCE * 20)[:chars]
    return text.rstrip() + "." * (chars - len(text.rstrip()))


def with_lengths(frame: pl.DataFrame, lengths: list[int]) -> pl.DataFrame:
    return frame.with_columns(trace=pl.Series([trace_of(one) for one in lengths]))


def many(gold: pl.DataFrame, times: int, seed: int = 0) -> pl.DataFrame:
    """The gold rows `times` over, each with its own question, traces of random length within the default bounds."""
    frame = (
        pl.concat([gold] * times).with_row_index("n").with_columns(question=pl.format("Case {}: {}", "n", "question"))
    )
    lengths = np.random.default_rng(seed).integers(700, 1_000, frame.height)
    return with_lengths(frame.drop("n"), [int(one) for one in lengths])


def verdicts(frame, limits) -> dict[str, Verdict]:
    return {one.name: one.verdict for one in audit_rows(frame, limits)}


def only_failure(frame, limits) -> str:
    failed = failures(audit_rows(frame, limits))
    assert len(failed) == 1, [one.sentence() for one in failed]
    assert failed[0].verdict is Verdict.FAIL
    assert failed[0].fix
    return failed[0].sentence()


def test_the_story_s_two_batches_are_refused_by_name(gold, limits):
    """20 traces of 600 to 1,100 characters, highly relevant; 40 of 260 to 530, less so."""
    random = np.random.default_rng(1)
    signal, noise = gold.filter(~NOISE), gold.filter(NOISE)
    first = pl.concat([signal, signal]).head(20).with_columns(source_batch=pl.lit("first-20"), relevance=pl.lit(0.9))
    weak = pl.concat([signal, signal]).head(20).with_columns(relevance=pl.lit(0.3))
    second = pl.concat([weak, noise, noise, noise]).head(40).with_columns(source_batch=pl.lit("next-40"))
    frame = pl.concat([with_lengths(first, random.integers(600, 1_101, 20).tolist()),
                       with_lengths(second, random.integers(260, 531, 40).tolist())])  # fmt: skip
    frame = frame.with_row_index("n").with_columns(question=pl.format("Case {}: {}", "n", "question")).drop("n")
    checks = {one.name: one for one in audit_rows(frame, limits)}
    relevance = checks["|rank correlation| of trace length with relevance"]
    assert relevance.verdict is Verdict.FAIL
    assert relevance.measured > 0.6
    assert "next-40" in relevance.sentence()
    assert "first-20" in relevance.sentence()
    assert checks["balanced accuracy of guessing noise from trace length alone"].verdict is Verdict.FAIL
    assert checks["shortest trace"].verdict is Verdict.FAIL
    assert checks["longest trace"].verdict is Verdict.FAIL


@pytest.mark.parametrize(("chars", "name"), [(699, "shortest trace"), (1_001, "longest trace")])
def test_one_trace_outside_the_bounds_fails_and_is_named(gold, limits, chars, name):
    lengths = gold["trace"].str.len_chars().to_list()
    lengths[7] = chars
    said = only_failure(with_lengths(gold, lengths), limits)
    assert said.startswith(f"{name}: {chars} characters")
    assert "1 of 89 rows outside: rows 8" in said


def test_many_clean_rows_pass(gold, limits):
    assert not failures(audit_rows(many(gold, 12), limits))


@pytest.mark.parametrize("label", ["relevance", "magnitude"])
def test_length_that_follows_a_label_fails(gold, limits, label):
    frame = many(gold, 4)
    lengths = sorted(frame["trace"].str.len_chars())
    ranks = frame[label].rank("ordinal").to_list()
    frame = with_lengths(frame, [lengths[rank - 1] for rank in ranks])
    assert verdicts(frame, limits)[f"|rank correlation| of trace length with {label}"] is Verdict.FAIL


def test_falling_length_is_found_as_rising_length_is(gold, limits):
    frame = many(gold, 4)
    frame = with_lengths(frame, [int(990 - 250 * one) for one in frame["relevance"]])
    found = {one.name: one for one in audit_rows(frame, limits)}["|rank correlation| of trace length with relevance"]
    assert (found.verdict, found.measured) == (Verdict.FAIL, pytest.approx(1, abs=0.05))


def test_correlation_that_chance_explains_cannot_be_told(gold, limits):
    strict = limits.model_copy(update={"max_length_rank_correlation": 0.01})
    found = {one.name: one for one in audit_rows(gold, strict)}["|rank correlation| of trace length with relevance"]
    assert found.verdict is Verdict.CANNOT_TELL
    assert "chance may give as much" in found.detail


def test_too_few_rows_or_a_constant_label_cannot_be_told(gold, small):
    few = verdicts(gold.head(9), small)
    assert few["|rank correlation| of trace length with relevance"] is Verdict.CANNOT_TELL
    assert few["balanced accuracy of guessing noise from trace length alone"] is Verdict.CANNOT_TELL
    flat = verdicts(gold.with_columns(magnitude=pl.lit(0.2)), small)
    assert flat["|rank correlation| of trace length with magnitude"] is Verdict.CANNOT_TELL


def test_texts_of_one_length_give_no_label_away(gold, limits):
    """A small model writes every review alike: found in a distillation, where it was refused as not measured."""
    found = {one.name: one for one in audit_rows(with_lengths(gold, [850] * gold.height), limits)}
    for label in ("relevance", "sign", "kind", "source batch"):
        measured = found[f"|rank correlation| of trace length with {label}"]
        assert (measured.verdict, measured.measured) == (Verdict.PASS, 0.0), label


def test_noise_in_the_middle_of_the_lengths_is_found_without_any_correlation(gold, limits):
    """Noise of 840 to 860 characters between short and long signal traces: rank correlation sees nothing."""
    frame = many(gold, 8)
    random = np.random.default_rng(3)
    lengths = [int(random.choice([720, 980])) if one > 0.1 else 850 for one in frame["relevance"]]
    found = verdicts(with_lengths(frame, lengths), limits)
    assert found["balanced accuracy of guessing noise from trace length alone"] is Verdict.FAIL


def test_sign_that_length_gives_away_is_found(gold, limits):
    frame = many(gold, 8)
    frame = with_lengths(frame, [int(850 + 100 * np.sign(one)) for one in frame["direction"]])
    found = verdicts(frame, limits)
    assert found["balanced accuracy of guessing sign from trace length alone"] is Verdict.FAIL


@pytest.mark.parametrize(("noise_rows", "name"), [(60, "noise fraction (at least)"), (160, "noise fraction (at most)")])
def test_noise_fraction_has_two_bounds(gold, limits, noise_rows, name):
    frame = many(gold, 20)
    frame = pl.concat([frame.filter(NOISE).head(noise_rows), frame.filter(~NOISE).head(200)])
    assert only_failure(frame, limits).startswith(name)


@pytest.mark.parametrize(("sign", "name"), [(1, "(at most)"), (-1, "(at least)")])
def test_one_sided_directions_fail(gold, limits, sign, name):
    # Metric and YES turn together, so that the disagreeing share stays as it is.
    flip = pl.col("direction").sign() * sign
    frame = many(gold, 12).with_columns(
        direction=pl.col("direction") * flip, metric_direction=(pl.col("metric_direction") * flip).cast(pl.Int64)
    )
    failed = {one.name for one in failures(audit_rows(frame, limits))}
    assert f"YES-more-likely fraction {name}" in failed


def test_rows_that_all_follow_the_metric_fail(gold, limits):
    frame = many(gold, 12).with_columns(metric_direction=pl.col("direction").sign().cast(pl.Int64))
    assert only_failure(frame, limits).startswith("fraction of rows where metric and YES move apart")


@pytest.mark.parametrize(
    ("leak", "name"),
    [
        ("{} <|channel|>final", "traces with a raw marker"),
        ("<|im_start|>assistant {}", "traces with a raw marker"),
        ("{} <tool_call>lookup", "traces with a raw marker"),
        ("analysis{}", "traces with a stripped marker"),
        ("final{{{}", "traces with a stripped marker"),
        ("{}assistantfinal", "traces with a stripped marker"),
        ("{}</think> So YES.", "traces with a second think tag"),
    ],
)
def test_one_leaked_marker_fails_and_is_named(gold, limits, leak, name):
    traces = gold["trace"].to_list()
    traces[4] = leak.format(traces[4][:800])
    said = only_failure(gold.with_columns(trace=pl.Series(traces)), limits)
    assert said.startswith(name)
    assert "rows 5" in said


def test_an_input_that_occurs_twice_fails(gold, limits):
    frame = pl.concat([gold, gold.head(1).with_columns(pl.col("headline").str.to_uppercase())])
    assert only_failure(frame, limits).startswith("inputs that occur before in the same table: 1 rows")


def test_an_empty_table_passes_nothing(gold, limits):
    found = verdicts(gold.head(0), limits)
    assert found.pop("rows") is Verdict.FAIL
    assert set(found.values()) == {Verdict.CANNOT_TELL}


def test_missing_columns_are_an_error_with_the_next_step(gold, limits):
    with pytest.raises(ContractError, match="Run the row contract first"):
        audit_rows(gold.drop("trace"), limits)


def test_a_row_of_training_in_heldout_fails_in_any_profile(gold):
    heldout = pl.concat([gold.tail(3), gold.head(1).with_columns(pl.col("question").str.to_uppercase())])
    for profile in ("default", "nano"):
        same, _, _ = audit_splits(gold.head(20), heldout, load_limits("signals", profile))
        assert (same.verdict, same.measured) == (Verdict.FAIL, 1)
        assert "held-out rows 4" in same.detail


def test_a_reworded_row_fails_by_default_and_is_reported_for_templates(gold, limits):
    reworded = gold.head(1).with_columns(pl.col("headline").str.replace(r"\S+$", "today"))
    same, near, _ = audit_splits(gold, reworded, limits)
    assert same.verdict is Verdict.PASS
    assert near.verdict is Verdict.FAIL
    assert "training row 1" in near.detail
    same, near, _ = audit_splits(gold, reworded, load_limits("signals", "nano"))
    assert (same.verdict, near.verdict, near.comparison) == (Verdict.PASS, Verdict.PASS, "report")
    assert near.measured > limits.max_input_similarity_fraction


def test_the_nearest_row_is_found_beyond_the_first_chunk(gold, limits, monkeypatch):
    monkeypatch.setattr("data_contracts.audit.similarity.CHUNK_ROWS", 4)
    _, near, _ = audit_splits(gold, gold[21:22].with_columns(headline=pl.col("headline") + " again"), limits)
    assert near.verdict is Verdict.FAIL
    assert "training row 22" in near.detail


@pytest.mark.parametrize("empty", ["train", "heldout"])
def test_nothing_to_compare_cannot_be_told(gold, limits, empty):
    train, heldout = (gold.head(0), gold) if empty == "train" else (gold, gold.head(0))
    assert {one.verdict for one in audit_splits(train, heldout, limits)} == {Verdict.CANNOT_TELL}
