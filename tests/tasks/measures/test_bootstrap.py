"""Intervals of shares, means and medians: known values, and coverage."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.measures.bootstrap import mean_interval, median_interval, share_interval


@pytest.mark.parametrize(
    ("count", "of", "low", "high"),
    [(3, 6, 0.1181, 0.8819), (2, 24, 0.0103, 0.27), (0, 24, 0.0, 0.1425), (24, 24, 0.8575, 1.0)],
)
def test_the_exact_interval_of_a_share_has_its_published_values(count, of, low, high):
    assert share_interval(count, of, 0.95) == pytest.approx((low, high), abs=1e-4)


def test_the_interval_of_a_share_holds_the_truth_as_often_as_it_claims():
    draws = np.random.default_rng(0).binomial(24, 0.1, size=2000)
    ends = {count: share_interval(int(count), 24, 0.95) for count in set(draws.tolist())}
    assert np.mean([ends[count][0] <= 0.1 <= ends[count][1] for count in draws.tolist()]) >= 0.95


def test_means_and_medians_of_like_values_have_no_width_and_loops_have_one():
    assert mean_interval([0.3] * 24, 0.95) == median_interval([0.3] * 24, 0.95) == (0.3, 0.3)
    low, high = mean_interval([1.0, 1.0, *[0.0] * 22], 0.95)
    assert low == 0 and 0.15 < high < 0.25
    low, high = median_interval(range(101), 0.95)
    assert 35 < low < 50 < high < 65
