"""Agreement between judges and what sways them, on data whose answer is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from data_contracts.verdict import Verdict
from tasks.judging.agreement import (
    agreement,
    bias_check,
    first_share_check,
    own_family,
    rank_correlation_within,
    swap_check,
)
from tasks.judging.panel import Limits, Panel

NONE = np.nan
KRIPPENDORFF_2011 = [  # four observers, twelve units, values missing: the example of the paper's last sections
    [1, 2, 3, 3, 2, 1, 4, 1, 2, NONE, NONE, NONE],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NONE, 3],
    [NONE, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NONE],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NONE],
]
FOUR_FAMILIES = ("a", "b", "c", "d")


def alpha_ordinal(ratings: np.ndarray) -> float | None:
    """Alpha of (judges, units), as a board has it: one model, one prompt a unit, every judge counts."""
    every = Limits(min_coverage_fraction=1e-9, max_coverage_gap_fraction=1)
    return agreement(replace(panel_of(ratings[:, None, :], FOUR_FAMILIES), limits=every))["alpha"]["value"]


def test_alpha_gives_the_published_value():
    """K. Krippendorff, Computing Krippendorff's Alpha-Reliability (2011): nominal .743, ordinal .815, interval .849."""
    assert alpha_ordinal(np.array(KRIPPENDORFF_2011)) == pytest.approx(0.815, abs=0.0005)


def test_alpha_knows_order():
    near = np.array([[1, 2, 3, 4, 5, 1, 5], [2, 2, 3, 4, 5, 1, 4]])
    far = np.array([[1, 2, 3, 4, 5, 1, 5], [5, 2, 3, 4, 5, 1, 1]])
    assert alpha_ordinal(near) > 0.9 > 0.2 > alpha_ordinal(far)


def test_alpha_at_its_ends():
    same = np.array([[1, 2, 3, 4, 5]] * 2, dtype=float)
    assert alpha_ordinal(same) == pytest.approx(1.0)
    assert alpha_ordinal(np.array([[1, 5], [5, 1]], dtype=float)) < 0
    chance = np.random.default_rng(0).integers(1, 6, size=(3, 5000)).astype(float)
    assert abs(alpha_ordinal(chance)) < 0.03


@pytest.mark.parametrize(
    "ratings",
    [[[4, 4, 4], [4, 4, 4]], [[1, NONE, 3], [NONE, 2, NONE]], [[1, 2, 3]], [[NONE, NONE], [NONE, NONE]]],
    ids=["no variation", "no unit rated twice", "one judge", "nothing"],
)
def test_alpha_that_cannot_be_told_is_none(ratings):
    assert alpha_ordinal(np.array(ratings, dtype=float)) is None


def panel_of(scores, families=("x", "y", "z")) -> Panel:
    scores = np.asarray(scores, dtype=float)
    judges, models, prompts = scores.shape[:3]
    return Panel(
        tuple("pqrs"[:judges]), families[:judges], tuple("abcd"[:models]), ("competitor",) * models,
        scores if scores.ndim == 4 else scores[..., None], np.ones((models, prompts)), top=5.0,
    )  # fmt: skip


def test_judges_that_agree_and_one_that_does_not():
    rng = np.random.default_rng(1)
    truth = np.clip(np.round(rng.normal([[2], [3], [4], [5]], 0.6, (4, 30))), 1, 5)
    contrary = 6 - truth
    good, bad = agreement(panel_of([truth, truth])), agreement(panel_of([truth, truth, contrary]))
    assert good["alpha"]["value"] == pytest.approx(1.0) and good["kendall_tau"][0]["tau"] == pytest.approx(1.0)
    assert bad["alpha"]["value"] < 0.2
    assert [one["tau"] for one in bad["kendall_tau"]] == pytest.approx([1.0, -1.0, -1.0])
    assert bad["alpha"]["low"] < bad["alpha"]["value"] < bad["alpha"]["high"]


def test_alpha_of_the_whole_is_that_of_the_pooled_ratings():
    rng = np.random.default_rng(2)
    scores = rng.integers(1, 6, size=(2, 3, 8, 2)).astype(float)
    found = agreement(panel_of(scores))
    assert found["alpha"]["value"] == pytest.approx(alpha_ordinal(scores.reshape(2, -1)))
    for number in (0, 1):
        assert found["alpha_by_criterion"][number]["value"] == pytest.approx(
            alpha_ordinal(scores[..., number].reshape(2, -1))
        )


def test_alpha_of_too_few_prompts_has_no_interval():
    rng = np.random.default_rng(2)
    for prompts in (1, 5, 6):
        found = agreement(panel_of(rng.integers(1, 6, size=(2, 4, prompts, 2)).astype(float)))["alpha"]
        assert found["value"] is not None and (found["low"] is not None) == (prompts == 6)


def test_leaving_a_judge_out_tells_what_moves():
    level = np.ones(20)
    scores = [[4 * level, 3 * level, 2 * level], [4 * level, 3 * level, 2 * level], [level, 5 * level, 2 * level]]
    without = {one["judge"]: one for one in agreement(panel_of(scores))["without"]}
    assert without["r"]["first"] == "a" and without["r"]["moved"] == {"a": [2, 1], "b": [1, 2]}
    assert without["p"]["first"] == "b" and without["p"]["moved"] == {}


def test_one_judge_cannot_agree_with_anybody():
    found = agreement(panel_of(np.full((1, 3, 10), 3.0)))
    assert found["alpha"]["value"] is None and found["kendall_tau"] == [] and found["without"] == []


def bias(slope: float, *, between: float = 0.0, n: int = 60) -> dict:
    """Scores that follow length inside each model by `slope`, and between the models by `between`."""
    rng = np.random.default_rng(3)
    groups = np.repeat([0, 1, 2], n // 3)
    length = rng.normal(100, 20, n) + 100 * groups
    scores = slope * (length - 100 * groups) / 20 + between * groups + rng.normal(0, 1, n)
    return rank_correlation_within(scores, length, groups)


def test_a_bias_inside_the_models_is_seen():
    found = bias(1.0)
    assert found["value"] > 0.4 and bias_check("length", found, "look").verdict is Verdict.FAIL
    assert bias_check("length", bias(-1.0), "look").verdict is Verdict.FAIL


def test_a_model_that_is_both_better_and_longer_shows_no_bias():
    found = bias(0.0, between=5.0)
    assert abs(found["value"]) < 0.25 and bias_check("length", found, "look").verdict is Verdict.PASS


def test_too_few_answers_or_scores_that_never_vary_cannot_tell():
    assert bias_check("length", bias(1.0, n=15), "look").verdict is Verdict.CANNOT_TELL
    flat = rank_correlation_within(np.full(60, 3.0), np.arange(60.0), np.repeat([0, 1], 30))
    assert bias_check("length", flat, "look").verdict is Verdict.CANNOT_TELL


def test_the_intervals_of_no_bias_hold_nought_nineteen_times_in_twenty():
    rng = np.random.default_rng(4)
    held = 0
    for _ in range(300):
        found = rank_correlation_within(rng.normal(size=80), rng.normal(size=80), np.repeat(np.arange(4), 20))
        held += found["low"] <= 0 <= found["high"]
    assert 0.91 <= held / 300 <= 0.99


@pytest.mark.parametrize(
    ("shares", "verdict"),
    [
        ([0.5] * 8, Verdict.PASS),
        ([1.0, 0.0] * 6, Verdict.PASS),
        ([1.0] * 12, Verdict.FAIL),
        ([0.0] * 12, Verdict.FAIL),
        ([0.5] * 7, Verdict.CANNOT_TELL),
        ([], Verdict.CANNOT_TELL),
    ],
)
def test_an_answer_against_itself_must_come_near_one_half(shares, verdict):
    assert first_share_check(shares).verdict is verdict


def test_comparisons_that_turn_with_the_order_are_seen():
    steady, turning = [(1.0, 1.0), (0.0, 0.0)] * 5, [(1.0, 0.0)] * 10
    assert swap_check(steady).verdict is Verdict.PASS
    found = swap_check(turning)
    assert found.verdict is Verdict.FAIL and "took the first 1.00 of the time" in found.detail
    assert swap_check(steady[:4]).verdict is Verdict.CANNOT_TELL


def test_a_judge_that_prefers_its_own_family_is_seen_by_the_points_it_adds():
    level = np.ones(20)
    fair = [[4 * level, 3 * level, 2 * level]] * 2
    fond = [5 * level, 3 * level, 2 * level]
    panel = panel_of([*fair, fond], families=("x", "y", "gpt"))
    found = own_family(panel, 2, ["gpt", "other", None])
    assert found["ranks_own_family_first"] and found["first"] == "a" and found["own_family_models"] == ["a"]
    assert found["excess_points"] == pytest.approx(12.0)  # one level of five, at 60 points
    assert own_family(panel, 0, ["gpt", "other", None])["ranks_own_family_first"] is False
    assert own_family(panel, 2, [None, "other", None])["ranks_own_family_first"] is None


def test_models_that_share_the_first_place_are_no_preference_for_one_of_them():
    """Equal scores for all: whichever model stands first in the table, nobody was preferred."""
    panel = panel_of(np.full((2, 3, 20), 4.0), families=("gpt", "y", "z"))
    found = own_family(panel, 0, ["gpt", "other", None])
    assert found["ranks_own_family_first"] is False and found["first"] == "a and b and c"
    assert own_family(panel, 0, ["gpt", "gpt", "gpt"])["ranks_own_family_first"] is True
    assert own_family(panel, 0, ["gpt", None, "gpt"])["ranks_own_family_first"] is None


def test_a_model_of_the_own_family_that_was_hardly_scored_is_not_ranked_first():
    scores = np.array([[[5.0] * 20, [4.0] * 20, [3.0] * 20]] * 2)
    scores[0, 0, 1:] = np.nan
    found = own_family(panel_of(scores, families=("gpt", "y", "z")), 0, ["gpt", "other", "other"])
    assert found["ranks_own_family_first"] is False and found["first"] == "b" and found["own_family_models"] == []


def test_a_second_judge_of_the_family_hides_no_preference():
    level = np.ones(20)
    fair, fond = [4 * level, 3 * level, 2 * level], [5 * level, 3 * level, 2 * level]
    panel = panel_of([fair, fond, fond], families=("x", "gpt", "gpt"))
    assert own_family(panel, 2, ["gpt", "other", "other"])["excess_points"] == pytest.approx(12.0)
    alone = panel_of([fond, fond], families=("gpt", "gpt"))
    assert own_family(alone, 0, ["gpt", "other", "other"])["excess_points"] is None


def test_equal_places_do_not_move_when_a_judge_is_left_out():
    level = np.ones(20)
    scores = [[4 * level, 3 * level, 3 * level], [4 * level, 3 * level, 3 * level], [4 * level, 2 * level, 3 * level]]
    without = {one["judge"]: one for one in agreement(panel_of(scores))["without"]}
    assert without["r"]["moved"] == {"b": [3, 2]} and without["p"]["moved"] == {}
    equal = agreement(panel_of(np.full((2, 3, 20), 4.0)))["without"]
    assert [one["moved"] for one in equal] == [{}, {}] and equal[0]["first"] == "a and b and c"


def test_tau_takes_equal_points_for_equal():
    """The same scores added up in another order differ in the last bit: that is no order of models."""
    thirds = np.array([[4, 13, 15, 12], [15, 4, 12, 13], [15, 12, 4, 13]]) / 3
    panel = panel_of([thirds, thirds])
    assert len(set(panel.columns[0])) == 3 and agreement(panel)["kendall_tau"][0]["tau"] is None
