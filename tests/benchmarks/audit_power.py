"""Measure the power of the shortcut audit: the weakest leak that it refuses in 95 of 100 sets, by the number of rows.

python tests/benchmarks/audit_power.py --draws 60     # the table in data_contracts/README.md: about a minute of one core
python tests/benchmarks/audit_power.py                # finer: 100 sets for each number

A set is drawn: two classes of equal size, and a leak that sets their means apart by some standard deviations. Of length: 850
characters, 60 of standard deviation, beside the class, by both checks that look at it (rank correlation, guess). Of surface: one
of 80 independent normal features, by the guess from all of them. The limits are those of signals, profile default. A set that
does not pass is refused, whether the verdict is *fail* or *cannot tell*.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from data_contracts.audit import shortcuts
from data_contracts.limits import Limits, load_limits
from data_contracts.verdict import Check, failures

if TYPE_CHECKING:
    import numpy as np

ROWS = (60, 100, 1_000)
POWER_FRACTION = 0.95
SHIFTS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0, 4.0)
"""Distances of the class means that are tried, in standard deviations."""
FEATURES = 80
MEAN_CHARS, SPREAD_CHARS = 850, 60


def length_checks(target: np.ndarray, shift: float, limits: Limits, random: np.random.Generator) -> list[Check]:
    """The checks on length of one drawn set; `target` holds 0 and 1, (rows,)."""
    lengths = (MEAN_CHARS + SPREAD_CHARS * (random.normal(size=len(target)) + shift * target)).round()
    rho, p_value = shortcuts.rank_correlation(lengths, target)
    return [
        shortcuts._independence("sign", rho, p_value, len(target), limits, "none"),
        shortcuts._shortcut("sign", "trace length alone", lengths.reshape(-1, 1), target, limits, []),
    ]


def surface_checks(target: np.ndarray, shift: float, limits: Limits, random: np.random.Generator) -> list[Check]:
    """The check on surface features of one drawn set."""
    features = random.normal(size=(len(target), FEATURES))
    features[:, 0] += shift * target
    names = [f"feature {number}" for number in range(FEATURES)]
    return [shortcuts._shortcut("sign", "surface features", features, target, limits, names)]


LEAKS = {"length": length_checks, "surface": surface_checks}


def is_found(leak: str, rows: int, shift: float, draws: int, limits: Limits) -> bool:
    """Whether POWER_FRACTION of the drawn sets are refused; draws no more once it is clear that they are not."""
    import numpy as np

    missed = 0
    for draw in range(draws):
        random = np.random.default_rng([draw, rows])
        target = random.permutation(np.arange(rows) % 2)
        missed += not failures(LEAKS[leak](target, shift, limits, random))
        if missed > draws * (1 - POWER_FRACTION) + 1e-9:
            return False
    return True


def weakest(leak: str, rows: int, draws: int, limits: Limits) -> float | None:
    """The smallest of SHIFTS that is found, by bisection; None when the largest is not."""
    low, high = -1, len(SHIFTS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_found(leak, rows, SHIFTS[middle], draws, limits) else (middle, high)
    return SHIFTS[high] if high < len(SHIFTS) else None


def table(leaks: list[str], draws: int) -> list[str]:
    """Lines of a Markdown table."""
    limits = load_limits("signals")
    lines = [
        "| leak | rows | weakest that is found, standard deviations | accuracy of the best guess from it |",
        "| --- | --- | --- | --- |",
    ]
    for leak in leaks:
        for rows in ROWS:
            shift = weakest(leak, rows, draws, limits)
            guess = f"{NormalDist().cdf(shift / 2):.2f}" if shift else "-"
            lines.append(f"| {leak} | {rows:,} | {shift or 'none'} | {guess} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=100, help="sets drawn for each number")
    parser.add_argument("--leak", choices=list(LEAKS), help="one leak alone")
    chosen = parser.parse_args()
    print("\n".join(table([chosen.leak] if chosen.leak else list(LEAKS), chosen.draws)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
