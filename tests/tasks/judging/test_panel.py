"""The numbers of a panel: the story's own board, coverage, ranks, intervals, and what may be called a finding."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from tasks.judging.panel import Limits, Panel, findings, points

STORY = {  # seeds/proofkit-finetune.txt: Claude, GPT-5.5, Qwen-3B, AVG as printed
    "gpt-5.5 (frontier ceiling)": (94.6, 95.6, 90.8, 93.7),
    "gpt-oss attn (retrained teacher)": (82.0, 66.8, 81.4, 76.7),
    "qwen-0.5b distilled (served)": (79.0, 68.6, 82.2, 76.6),
    "qwen-0.5b direct 7k (served)": (78.6, 64.4, 82.0, 75.0),
    "gpt-oss experts (STALE old-data)": (67.6, 68.6, 81.8, 72.7),
    "qwen-3b base (untuned)": (62.1, 67.1, 80.5, 69.9),
    "gpt-oss base (untuned, 20B)": (55.4, 53.8, 68.2, 59.1),
    "qwen-0.5b base (untuned)": (36.5, 44.5, 67.9, 49.7),
}
JUDGES = ("claude", "gpt-5.5", "qwen-3b")
FAMILIES = ("claude", "gpt", "qwen")
CEILING, TEACHER, DISTILLED, DIRECT, EXPERTS, BASE_3B, BASE_20B, BASE_05B = STORY


def story_panel(prompts: int = 1) -> Panel:
    """The published columns as a panel of one criterion: every judge's share of the scale gives its column, on each prompt."""
    columns = np.array([numbers[:3] for numbers in STORY.values()]).T
    gates = np.full((8, prompts), 1.0)
    judged = (columns - 40) / 60 * 5  # the inverse of the formula, for gates that all pass
    roles = ("yardstick", *["competitor"] * 4, *["floor"] * 3)
    return Panel(
        JUDGES, FAMILIES, tuple(STORY), roles, np.repeat(judged[:, :, None, None], prompts, axis=2), gates, top=5.0
    )


def test_the_storys_board_gives_its_average_column_and_its_order():
    panel = story_panel()
    assert panel.averages == pytest.approx([numbers[3] for numbers in STORY.values()], abs=0.1)
    assert panel.averages[-1] == pytest.approx(49.63, abs=0.005)  # its table prints 49.7
    assert [panel.models[one] for one in panel.order()] == list(STORY)
    assert panel.ranks() == [None, 1, 2, 3, 4, 5, 6, 7]  # the ceiling is a yardstick


def test_what_every_judge_of_the_published_board_agrees_on():
    found = findings(story_panel(prompts=12))
    assert f"{CEILING} is above every other model for every judge." in {finding.sentence for finding in found}
    above = {one.models[0]: set(one.models[1:]) for one in found if one.kind in ("above", "ceiling")}
    assert above[DISTILLED] == {DIRECT, BASE_3B, BASE_20B, BASE_05B}
    split = {finding.models: finding.sentence for finding in found if finding.kind == "split"}
    assert "the judges disagree" in split[TEACHER, DISTILLED], "76.7 and 76.6, by judges that contradict each other"


def test_what_the_storys_judges_do_not_agree_on_is_no_finding():
    """The story says that every judge puts both 0.5B models above the stale experts and every untuned base. Its columns do
    not: gpt-5.5 gives direct 64.4, experts 68.6 and the 3B base 67.1, and distilled no more than experts."""
    found = findings(story_panel(prompts=12))
    above = {one.models[0]: set(one.models[1:]) for one in found if one.kind in ("above", "ceiling")}
    assert EXPERTS not in above[DISTILLED] | above[DIRECT] | above[TEACHER]
    assert BASE_3B not in above[DIRECT]
    split = {one.models for one in found if one.kind == "split"}
    assert (DIRECT, EXPERTS) in split


def test_the_formula():
    assert points(np.array(4.0 / 5), np.array(0.75)) == pytest.approx(100 * (0.6 * 4 / 5 + 0.4 * 0.75))
    assert points(np.array(0.8), None) == pytest.approx(80.0)


def panel_of(scores, gates=None, **more) -> Panel:
    """(judges, models, prompts) of scores, one criterion; gates all pass unless given."""
    scores = np.asarray(scores, dtype=float)[..., None]
    judges, models, prompts, _ = scores.shape
    gates = np.ones((models, prompts)) if gates is None else np.asarray(gates, dtype=float)
    names = tuple("abcdefgh"[:models])
    families = more.pop("families", tuple(f"family{n}" for n in range(judges)))
    roles = more.pop("roles", ("competitor",) * models)
    return Panel(tuple(f"judge{n}" for n in range(judges)), families, names, roles, scores, gates, top=5.0, **more)


def noisy(rng, *means, prompts=40) -> np.ndarray:
    return np.clip(np.round([rng.normal(mean, 0.7, prompts) for mean in means]), 1, 5)


def test_unscored_is_left_out_and_never_low():
    rng = np.random.default_rng(0)
    scores = np.array([noisy(rng, 4, 3), noisy(rng, 4, 3)])
    holes = scores.copy()
    holes[0, 0, :4] = np.nan
    assert panel_of(holes).judge_means[0, 0] == pytest.approx(scores[0, 0, 4:].mean())
    assert panel_of(holes).ranks() == [1, 2]


def test_a_model_with_too_little_coverage_gets_no_rank():
    rng = np.random.default_rng(1)
    scores = np.array([noisy(rng, 4, 3, 2), noisy(rng, 4, 3, 2)])
    scores[0, 0, :9] = np.nan  # 31 of 40 is below 0.8
    panel = panel_of(scores)
    assert panel.ranks() == [None, 1, 2] and np.isnan(panel.averages[0])
    assert panel.interval(0) is None and panel.counting == (0, 1)


def test_a_model_covered_much_less_than_another_gets_no_rank():
    """What fails is rarely a random sample: 85 % may be enough, but not beside 100 %."""
    rng = np.random.default_rng(1)
    scores = np.array([noisy(rng, 4, 3), noisy(rng, 4, 3)])
    scores[1, 1, :6] = np.nan
    assert panel_of(scores).ranks() == [1, None]
    assert panel_of(scores, limits=Limits(max_coverage_gap_fraction=0.2)).ranks() == [1, 2]
    scores[1, 0, 6:12] = np.nan  # both equally little
    assert panel_of(scores).ranks() == [1, 2]


def test_of_two_models_the_one_that_a_judge_lacks_gets_no_rank_as_of_three():
    rng = np.random.default_rng(1)
    for count in (2, 3):
        scores = np.array([noisy(rng, 4, 4, 2)[:count], noisy(rng, 4, 4, 2)[:count]])
        scores[1, 1] = np.nan
        panel = panel_of(scores)
        assert panel.counting == (0, 1) and panel.ranks() == [1, None, 2][:count] and np.isnan(panel.averages[1])


def test_equal_averages_share_a_rank_whatever_the_order_of_the_table():
    level = np.ones(10)
    panel = panel_of([[3 * level, 4 * level, 4 * level, 2 * level]] * 2)
    assert panel.ranks() == [3, 1, 1, 4] and panel.firsts(0) == [1, 2]
    thirds = np.array([[1 / 3, 2 / 3, 4 / 3], [4 / 3, 2 / 3, 1 / 3]])  # added up in another order, not the same float
    assert thirds[0].sum() != thirds[1].sum() and panel_of([thirds] * 2).ranks() == [1, 1]


def test_a_judge_puts_nothing_first_that_it_hardly_scored():
    scores = np.array([[[3.0] * 10, [4.0] * 10, [5.0] * 10]] * 2)
    scores[0, 2, 1:] = np.nan
    assert panel_of(scores).firsts(0) == [1] and panel_of(scores).firsts(1) == [2]
    assert panel_of(np.full((2, 3, 10), np.nan)).firsts(0) == []


def test_a_judge_that_said_little_counts_for_nobody_and_the_others_stand():
    rng = np.random.default_rng(2)
    scores = np.array([noisy(rng, 4, 3), noisy(rng, 4, 3), noisy(rng, 1, 5)])
    scores[2, :, 15:] = np.nan
    panel = panel_of(scores)
    assert panel.counting == (0, 1) and panel.ranks() == [1, 2]
    assert panel.averages[0] == pytest.approx(panel.columns[:2, 0].mean())
    assert [one.kind for one in findings(panel)] == ["above"]


def test_no_verdict_at_all_gives_no_rank_and_no_number():
    panel = panel_of(np.full((2, 3, 10), np.nan))
    assert panel.counting == () and panel.ranked == () and panel.ranks() == [None] * 3
    assert np.isnan(panel.averages).all() and findings(panel)[0].kind == "nothing"


def test_no_judge_at_all_is_no_error():
    panel = panel_of(np.zeros((0, 2, 10)))
    assert panel.ranks() == [None, None] and panel.gate_rates == pytest.approx([1.0, 1.0])
    assert findings(panel)[0].kind == "nothing"


def test_a_difference_within_the_noise_of_the_prompts_is_no_finding():
    rng = np.random.default_rng(3)
    clear = panel_of([noisy(rng, 4, 2.5), noisy(rng, 4, 2.5)])
    assert findings(clear)[0].sentence == "a is above b for every judge."
    close = panel_of([noisy(rng, 3.55, 3.5), noisy(rng, 3.55, 3.5)])
    assert all(one.kind in ("tied", "split") for one in findings(close))


def test_equal_models_make_a_finding_in_one_board_of_twenty_at_most():
    """Two judges of one mind, five models alike: pair by pair, one board in four had a finding."""
    rng = np.random.default_rng(9)
    boards = [panel_of([noisy(rng, 3, 3, 3, 3, 3, prompts=24)] * 2) for _ in range(100)]
    assert sum(any(one.kind in ("above", "ceiling") for one in findings(board)) for board in boards) <= 10


def test_a_difference_of_one_and_a_half_levels_is_found_on_24_prompts():
    rng = np.random.default_rng(10)
    boards = [panel_of([noisy(rng, 4.2, 2.7, 2.7, 2.7, prompts=24) for _ in range(3)]) for _ in range(30)]
    assert sum(findings(board)[0].kind == "ceiling" for board in boards) >= 28


def test_five_prompts_tell_nothing():
    few, enough = (panel_of([np.repeat([[5.0], [1.0]], n, axis=1)] * 2) for n in (5, 6))
    assert findings(few)[0].kind == "split" and findings(enough)[0].kind == "above"


def test_nothing_is_above_a_model_of_which_too_little_is_known():
    rng = np.random.default_rng(10)
    scores = np.array([noisy(rng, 4.5, 2.5, 2.5, 4.5) for _ in range(2)])
    scores[1, 3, 5:] = np.nan
    panel = panel_of(scores)
    assert panel.ranks()[3] is None
    assert findings(panel)[0].sentence in ("a is above b and c for every judge.", "a is above c and b for every judge.")
    assert findings(panel_of(scores[:, :3]))[0].sentence == "a is above every other model for every judge."


def test_one_judge_or_one_family_is_one_opinion():
    rng = np.random.default_rng(4)
    scores = [noisy(rng, 5, 1), noisy(rng, 5, 1)]
    for panel in (panel_of(scores[:1]), panel_of(scores, families=("gpt", "gpt"))):
        (only,) = findings(panel)
        assert only.kind == "nothing" and "One judge is one opinion" in only.sentence
        assert panel.ranks() == [1, 2]
    assert findings(panel_of(scores))[0].kind == "above"


def test_judges_that_disagree_make_no_finding():
    rng = np.random.default_rng(5)
    (found,) = findings(panel_of([noisy(rng, 4.5, 2), noisy(rng, 3, 4)]))
    assert found.kind == "split" and "the judges disagree (1 to 1 of 2)" in found.sentence


def test_judges_that_contradict_each_other_are_no_tie_however_near_the_averages():
    level = np.ones(24)
    panel = panel_of([[5 * level, 3 * level], [3 * level, 5 * level]])
    assert panel.columns.tolist() == [[100.0, 76.0], [76.0, 100.0]]
    (found,) = findings(panel)
    assert found.kind == "split" and found.sentence.endswith("no finding, the judges disagree (1 to 1 of 2).")
    (agreed,) = findings(panel_of([[5 * level, 5 * level]] * 2))
    assert agreed.kind == "tied"


def test_equal_averages_on_too_few_prompts_are_no_tie():
    few, enough = (panel_of([np.full((2, n), 4.0)] * 2) for n in (5, 6))
    assert [one.kind for one in findings(enough)] == ["tied"]
    (found,) = findings(few)
    assert found.kind == "split" and found.sentence.endswith("no finding, too few prompts to tell.")


def test_too_few_prompts_give_no_interval():
    """Prompts drawn again from one give an interval of no width: as if nothing could be surer."""
    few, enough = (panel_of([np.tile([[5.0], [3.0]], n)] * 2) for n in (5, 6))
    assert few.interval(0) is None and few.interval(0, judge=1) is None and few.ranks() == [1, 2]
    assert enough.interval(0) is not None and enough.interval(0, judge=1) is not None
    holes = np.tile([[5.0], [3.0]], 7)
    holes[0, 5:] = np.nan
    assert panel_of([holes] * 2).interval(0, judge=1) is None


def test_intervals_hold_the_number_and_shrink_with_prompts():
    rng = np.random.default_rng(6)
    few, many = (panel_of([noisy(rng, 3, 3, prompts=n)] * 2) for n in (10, 200))
    for panel in (few, many):
        low, high = panel.interval(0)
        assert low < panel.averages[0] < high
        assert panel.interval(0, judge=0) == pytest.approx((low, high))  # both judges said the same
    assert np.diff(many.interval(0)) < np.diff(few.interval(0)) / 2


def test_gates_that_say_nothing_leave_the_final_score_untold_and_the_judges_ranks_standing():
    rng = np.random.default_rng(7)
    panel = panel_of([noisy(rng, 4, 2)] * 2, gates=np.full((2, 40), np.nan))
    assert not panel.gated and panel.ranks() == [1, 2]
    assert panel.averages[0] == pytest.approx(100 * panel.judge_means[0, 0] / 5)


def test_a_model_whose_gates_say_nothing_has_no_rank_beside_one_whose_do():
    gates = np.ones((2, 40))
    gates[1] = np.nan
    panel = panel_of([noisy(np.random.default_rng(8), 4, 2)] * 2, gates=gates)
    assert panel.ranks() == [1, None]


def test_gates_count_for_two_fifths():
    gates = np.ones((2, 40))
    gates[0] = 0.0
    panel = panel_of([np.full((2, 40), 4.0)] * 2, gates=gates)
    assert panel.averages == pytest.approx([48.0, 88.0])
    assert panel.leads(0) == {(0, 1): pytest.approx(-40.0)}


def test_no_number_warns():
    scores = np.full((2, 2, 6), np.nan)
    scores[0, 0] = 3.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        panel = panel_of(scores)
        assert findings(panel) and panel.columns.shape == (2, 2) and panel.interval(0, 0) is not None
