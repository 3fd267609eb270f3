"""What to change after a refusal: too much training, too little, or an end that was never learned; decided by numbers.

A model whose answers run on and repeat may have been trained too hard, or hardly at all: the answers alone look the same.
Apart they are kept by the losses on rows that were trained on and rows that were not, by the probability of the end token
where gold answers end, and by what the base did before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

LEARNED_FRACTION = 1 / 3
"""Share of the base's loss on training rows that a run removes when it has learned them. Measured on SmolLM2-135M and 99 rows:
39 steps at 3e-4 left answers without an end and removed 0.21 (3.9 to 3.1); at 2e-3 over 4 epochs they ended, at 0.54 (to
1.8)."""
HELDOUT_GAIN_FRACTION = 0.5
"""Smallest share of the gain on training rows that has to show on held-out rows; below it the rows were learned by heart.
A convention, not measured."""
REBOUND_RATIO = 1.25
"""How far the training loss may end above its own best before the run counts as diverged. A convention, not measured: steps
differ from one another by less, since both are means over a tenth of the run."""
_FEWEST_STEPS = 20
"""Fewer steps have no tenth that is a mean."""
ENDS_PROBABILITY = 0.5
"""From here on no other token can be likelier, so greedy decoding ends the answer."""


@dataclass(frozen=True)
class Fit:
    """How well a model predicts gold answers, teacher-forced. Losses in nats a token."""

    train_nats: float
    heldout_nats: float
    end_probability: float
    """Mean probability of the end token where the held-out gold answers end."""


@dataclass(frozen=True)
class Signs:
    """What the advice is chosen from."""

    base: Fit
    tuned: Fit
    base_wrote_traces: bool
    """Whether there was a trace to forget."""
    logged_nats: tuple[float, ...] = ()
    """Training loss of each step, in their order; empty where there is no log."""


@dataclass(frozen=True)
class Advice:
    """What was wrong with the amount of training, why it is believed, and what to do."""

    cause: Literal["too aggressive", "under-trained", "never learned to stop"]
    because: str

    def sentence(self) -> str:
        """Cause, reason and remedy, for a message."""
        return f"The fine-tune {_CAUSES[self.cause][0]} ({self.because}): {_CAUSES[self.cause][1]}"


_CAUSES = {
    "too aggressive": ("is too aggressive", "lower train.learning_rate or train.epochs"),
    "under-trained": ("is under-trained", "raise train.epochs or train.learning_rate"),
    "never learned to stop": (
        "never learned to stop",
        "check that the rows end on the end token and that the loss mask keeps it, else raise train.epochs",
    ),
}
"""Cause -> (what is said of the fine-tune, what to do)."""


def advise(signs: Signs) -> Advice:
    """The first that holds: diverged, learned by heart, no end in what was learned, hardly moved, lost what the base had."""
    base, tuned = signs.base, signs.tuned
    gain, heldout_gain = base.train_nats - tuned.train_nats, base.heldout_nats - tuned.heldout_nats
    learned = gain >= LEARNED_FRACTION * base.train_nats
    losses = f"loss on training rows {base.train_nats:.3g} to {tuned.train_nats:.3g} nats a token"
    heldout = f"on held-out rows {base.heldout_nats:.3g} to {tuned.heldout_nats:.3g}"
    ends = f"probability of the end token at gold ends {base.end_probability:.2g} to {tuned.end_probability:.2g}"
    if not (gain > 0 and heldout_gain > 0):  # written so that NaN counts
        return Advice("too aggressive", f"{losses}, {heldout}: no lower than the base's")
    best, last = _best_and_last(signs.logged_nats)
    if not last <= REBOUND_RATIO * best:
        return Advice("too aggressive", f"the training loss ended at {last:.3g} nats a token, after {best:.3g}")
    if learned and heldout_gain < HELDOUT_GAIN_FRACTION * gain:
        return Advice("too aggressive", f"{losses}, {heldout}: learned by heart")
    unlearned_end = base.end_probability >= ENDS_PROBABILITY > tuned.end_probability
    if unlearned_end or (learned and tuned.end_probability < ENDS_PROBABILITY):
        return Advice("never learned to stop", f"{ends}; {losses}")
    if signs.base_wrote_traces:
        return Advice("too aggressive", f"the base did write traces; {losses}; {ends}")
    if not learned:
        return Advice("under-trained", f"{losses}, less than a third; {ends}")
    return Advice("under-trained", f"{losses}, and {ends}, but the base wrote no trace that could be forgotten")


def _best_and_last(logged_nats: tuple[float, ...]) -> tuple[float, float]:
    """(lowest, last) mean over a tenth of the steps; equal where there are too few steps to compare."""
    if len(logged_nats) < _FEWEST_STEPS:
        return 0.0, 0.0
    size = math.ceil(len(logged_nats) / 10)
    means = [sum(logged_nats[i : i + size]) / size for i in range(0, len(logged_nats) - size + 1)]
    return min(means), means[-1]
