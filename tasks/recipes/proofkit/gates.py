"""The deterministic gates of proofkit as numbers: the house rules of its contract, asked of a model's answer.

The rules themselves stand in data_contracts/proofkit/house_rules.py, because a training target must pass them too.
"""

from __future__ import annotations

from collections.abc import Mapping

from data_contracts.proofkit.house_rules import GATES, judge

PASS_METRIC = "gate_pass_fraction"
"""Share of the gates of a row's task that its answer passes: the 40 % of the final score that no judge decides."""
GATE_METRICS = tuple(f"{name}_fraction" for name in GATES)


def gate_scores(row: Mapping[str, object], text: str) -> dict[str, float | None]:
    """Metric -> 1.0 or 0.0, None for a gate that the row's task does not have; and the share of gates passed, 0..1."""
    found = judge(row, text)
    numbers = {f"{name}_fraction": float(not found[name]) if name in found else None for name in GATES}
    return {PASS_METRIC: sum(not problem for problem in found.values()) / len(found), **numbers}


def problems(row: Mapping[str, object], text: str) -> dict[str, str]:
    """Gate -> what is wrong, for the gates that the answer does not pass."""
    return {name: problem for name, problem in judge(row, text).items() if problem}
