"""4-bit bases: onto which one a QLoRA adapter is best merged, and what a merge into the 4-bit weights themselves loses.

The 16-bit weights are not those that a QLoRA adapter was trained beside. Merging into the 4-bit ones is refused
(tasks/merge_adapter.py), and done on purpose only to be compared (tasks/merge_into_nf4.py). What is left is a choice between
the 16-bit base, which is exact but new to the adapter, and the 4-bit base written out in 16 bits, which it knows but which
is coarse (silent-failures.md, class 6; peft issue 2105).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data_contracts.verdict import Check, check, report
from tasks.measures.bootstrap import difference_interval
from tasks.measures.parity import Parity
from tasks.runtimes import hf_model
from tasks.runtimes.nf4 import load_dequantised, load_nf4

if TYPE_CHECKING:
    import numpy as np

TRAINED, EXACT, DEQUANTISED = "its 4-bit training base", "the 16-bit base", "the dequantised base"
NEITHER = "neither"
_INTERVAL_FRACTION = 0.95
_KL_ROWS = 8


def compare_bases(
    base: Path, adapter: Path, rows: Sequence[tuple[list[int], int]], max_loss_increase_nats: float
) -> list[Check]:
    """Held-out loss on each base, and mean KL of the two candidates to the model as it was trained; all float32.

    `rows`: (token ids, length of the prompt in tokens). One model is in memory at a time. The merge is onto the 16-bit base
    whatever comes out; how much that may cost beside the training base has a limit. KL has none: it is small for the
    dequantised base by construction, as its weights are those that the adapter was trained beside.
    """
    losses: dict[str, list[tuple[float, int]]] = {}
    expected: list[np.ndarray] = []
    parities = {EXACT: Parity(), DEQUANTISED: Parity()}
    for name, load in ((TRAINED, load_nf4), (DEQUANTISED, load_dequantised), (EXACT, hf_model.load_model)):
        with hf_model.quiet():
            model = hf_model.with_adapter(load(base), adapter).eval()
        losses[name] = hf_model.completion_losses(model, rows)
        found = [hf_model.logits(model, ids).numpy() for ids, _ in rows[:_KL_ROWS]]
        expected = expected or found
        if name in parities:
            for ours, theirs in zip(expected, found, strict=True):
                parities[name].add(ours, theirs)
    means = {name: sum(nats for nats, _ in each) / sum(n for _, n in each) for name, each in losses.items()}
    told = [report(f"held-out loss on {name}", round(loss, 6), unit="nats a token") for name, loss in means.items()]
    told += [
        report(f"mean KL to the trained model on {n}", p.mean_kl, unit="nats a token") for n, p in parities.items()
    ]
    lost = check(
        "held-out loss lost by leaving the 4-bit training base",
        round(means[EXACT] - means[TRAINED], 6),
        "<=",
        max_loss_increase_nats,
        unit="nats a token",
        fix="Train with base_precision 16bit, or at a lower learning rate: the adapter repairs what 4 bits broke, "
        "and that is not broken in the 16-bit base",
    )
    return [*told, _better_base(losses), lost]


def _better_base(losses: Mapping[str, Sequence[tuple[float, int]]]) -> Check:
    """Which base has the lower loss, if the interval of the difference, paired by row, says so."""
    per_row = {name: [nats / max(tokens, 1) for nats, tokens in losses[name]] for name in (EXACT, DEQUANTISED)}
    interval = difference_interval(per_row[EXACT], per_row[DEQUANTISED], _INTERVAL_FRACTION)
    if interval is None:
        return report("better base to merge onto", None, detail="no row was measured; the 16-bit one is used")
    mean, low, high = interval
    better = DEQUANTISED if low > 0 else EXACT if high < 0 else NEITHER
    told = f"16-bit minus dequantised: {mean:+.2g} ({low:+.2g} to {high:+.2g}) nats a token, by row"
    return report("better base to merge onto", better, detail=f"{told}; the 16-bit one is used")
