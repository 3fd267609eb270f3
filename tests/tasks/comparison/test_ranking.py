"""Ranks: only what is better beyond interval, noise and chance counts; the rest shares a rank, or cannot be told."""

from __future__ import annotations

import pytest

from data_contracts.gates import RankedBy, load_gates
from tasks.comparison.ranking import Ranked, compare, fewest_rows_apart, rank
from tasks.evaluation.survey import Survey
from tasks.recipes import RECIPES, load_recipe

BY_SIGN = [RankedBy(metric="sign")]
BY_BOTH = [RankedBy(metric="hard"), RankedBy(metric="sign")]
FRACTION = 0.95


def model(name: str, right: int, of: int = 100, floor: float | None = 0.0, **further) -> Ranked:
    """A model that is right on the first `right` rows."""
    scores = {"sign": [1.0] * right + [0.0] * (of - right), **further}
    return Ranked(name, scores, {} if floor is None else dict.fromkeys(scores, floor))


def read(one: Ranked, other: Ranked, by=BY_SIGN):
    return compare(one, other, by, FRACTION)


def test_a_clear_difference_differs_either_way_round():
    found = read(model("a", 90), model("b", 50))
    assert (found.reading, found.better, found.metric) == ("differ", "a", "sign")
    assert found.difference == 0.4 and found.low >= 0.3 and (found.rows, found.rows_apart) == (100, 40)
    turned = read(model("b", 50), model("a", 90))
    assert turned.better == "a" and turned.turned() == found


def test_equal_answers_are_all_but_tied():
    found = read(model("a", 90), model("b", 90))
    assert (found.reading, found.better, found.rows_apart) == ("all but tied", None, 0)


def test_a_difference_within_the_noise_of_asking_again_is_none():
    assert read(model("a", 90), model("b", 70)).reading == "differ"
    assert read(model("a", 90, floor=0.1), model("b", 70)).reading == "differ"
    assert read(model("a", 90, floor=0.1), model("b", 70, floor=0.1)).reading == "all but tied"


def test_without_a_noise_floor_nothing_can_be_told():
    found = read(model("a", 90, floor=None), model("b", 10))
    assert (found.reading, found.better, found.noise_floor) == ("cannot tell", None, None)


def test_a_few_rows_that_differ_alike_prove_nothing():
    """Their bootstrap interval has no width: three coins that fall alike are no proof."""
    assert fewest_rows_apart(0.95) == 6 and fewest_rows_apart(0.99) == 8 and fewest_rows_apart(0.75) == 3
    few = read(model("a", 5, of=5), model("b", 0, of=5))
    assert (few.low, few.high) == (1.0, 1.0) and few.reading == "cannot tell"
    assert read(model("a", 5, of=100), model("b", 0)).reading == "all but tied"
    assert read(model("a", 6, of=6), model("b", 0, of=6)).reading == "differ"


def test_the_next_metric_is_asked_where_the_first_tells_nothing():
    hard = [1.0] * 20 + [None] * 80
    a, b = model("a", 90, hard=hard), model("b", 50, hard=hard)
    found = read(a, b, BY_BOTH)
    assert (found.metric, found.better) == ("sign", "a")
    other = model("c", 50, hard=[0.0] * 20 + [None] * 80)
    assert read(a, other, BY_BOTH).metric == "hard"
    unmeasured = read(model("a", 50, hard=[None] * 100), model("b", 50, hard=[None] * 100), BY_BOTH)
    assert (unmeasured.reading, unmeasured.metric) == ("all but tied", "sign")


def test_the_lower_end_can_be_the_better_one():
    error = [RankedBy(metric="sign", best="lowest")]
    assert read(model("a", 90), model("b", 50), error).better == "b"
    assert rank([model("a", 90), model("b", 50)], error, FRACTION).order == ["b", "a"]


def test_models_that_cannot_be_told_apart_share_a_rank():
    found = rank([model("base", 50), model("q4", 97), model("tuned", 99), model("merged", 99)], BY_SIGN, FRACTION)
    assert found.ranks == {"tuned": 1, "merged": 1, "q4": 1, "base": 4}
    assert found.order == ["tuned", "merged", "q4", "base"]
    assert [one.reading for one in found.neighbours] == ["all but tied", "all but tied", "differ"]
    assert len(found.pairs) == 6
    last = found.neighbours[-1]
    assert (last.first, last.second) == ("q4", "base") and last.low > 0, (
        "each beside the next, whichever was compared first"
    )


def test_being_tied_does_not_carry_over():
    found = rank([model("a", 60), model("b", 56), model("c", 52)], BY_SIGN, FRACTION)
    assert found.pair("a", "b").reading == found.pair("b", "c").reading == "all but tied"
    assert found.pair("a", "c").better == "a"
    assert found.ranks == {"a": 1, "b": 1, "c": 2}


def test_what_was_not_scored_has_no_rank_and_stands_last():
    lost = Ranked("lost", {"sign": [None] * 100}, {"sign": 0.0})
    found = rank([lost, model("a", 90), model("b", 50)], BY_SIGN, FRACTION)
    assert found.ranks == {"lost": None, "a": 1, "b": 2}
    assert found.order == ["a", "b", "lost"]
    assert found.pair("lost", "a").reading == "cannot tell"


def test_one_model_alone_is_first():
    assert rank([model("a", 1)], BY_SIGN, FRACTION).ranks == {"a": 1}


def test_the_shipped_ranking_is_the_hard_rows_first():
    assert [(one.metric, one.best) for one in load_gates("signals").ranking] == [
        ("disagreeing_sign_accuracy_fraction", "highest"),
        ("sign_accuracy_fraction", "highest"),
    ]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_ranked_by_what_it_measures(name):
    recipe = load_recipe(name)
    survey = Survey.of(recipe, recipe.build_rows("nano", 8, 8, 0)[1], 0)
    known = survey.scores(survey.ceiling("ceiling"))
    assert {one.metric for one in load_gates(name).ranking} <= known.keys() and load_gates(name).ranking


@pytest.mark.parametrize("broken", [{"metric": ""}, {"metric": "a", "best": "middle"}, {"metrik": "a"}])
def test_a_broken_ranking_is_refused(broken):
    with pytest.raises(ValueError):
        RankedBy.model_validate(broken)
