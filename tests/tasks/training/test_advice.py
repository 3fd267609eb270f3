"""Which advice comes with a refusal: losses, the end token and the base decide, not the look of the answers."""

from __future__ import annotations

import math

import pytest

from tasks.training.advice import Fit, Signs, advise

MUCH, LITTLE, STOP = "too aggressive", "under-trained", "never learned to stop"
RISING = tuple([2.0] * 10 + [1.0] * 10 + [3.0] * 10)

TABLE = {
    # name: (base: train, held-out, end; tuned: the same; base wrote traces; logged losses; cause)
    "135M, 39 steps: the form, not the end": ((3.9, 3.9, 0.05), (3.1, 3.2, 0.15), False, (), LITTLE),
    "135M at 2e-3, 4 epochs: answers end": ((3.9, 3.9, 0.05), (1.8, 2.2, 0.9), False, (), LITTLE),
    "a base with traces lost them while its loss fell": ((1.6, 1.6, 0.9), (0.7, 0.8, 0.95), True, (), MUCH),
    "a base with traces, loss hardly moved": ((0.5, 0.5, 0.9), (0.4, 0.4, 0.9), True, (), MUCH),
    "held-out loss rose": ((1.6, 1.6, 0.9), (0.3, 1.9, 0.9), False, (), MUCH),
    "training loss rose": ((1.6, 1.6, 0.9), (4.0, 1.5, 0.0), False, (), MUCH),
    "training loss is not a number": ((1.6, 1.6, 0.9), (math.nan, math.nan, 0.0), False, (), MUCH),
    "learned by heart": ((3.0, 3.0, 0.1), (0.2, 2.5, 0.9), False, (), MUCH),
    "ended far above its best step": ((3.9, 3.9, 0.05), (3.1, 3.2, 0.15), False, RISING, MUCH),
    "a few steps are no curve": ((3.9, 3.9, 0.05), (3.1, 3.2, 0.15), False, (2.0, 1.0, 3.0), LITTLE),
    "learned all but the end": ((3.0, 3.0, 0.02), (1.0, 1.2, 0.03), False, (), STOP),
    "the same, on a base with traces": ((3.0, 3.0, 0.02), (1.0, 1.2, 0.03), True, (), STOP),
    "the base ended, and the fine-tune does not": ((1.0, 1.0, 0.9), (0.9, 0.9, 0.01), False, (), STOP),
}


@pytest.mark.parametrize("what", TABLE)
def test_the_advice_follows_the_numbers(what):
    base, tuned, traces, logged, cause = TABLE[what]
    assert advise(Signs(Fit(*base), Fit(*tuned), traces, logged)).cause == cause


@pytest.mark.parametrize(
    ("what", "remedy", "because"),
    [
        (
            "135M, 39 steps: the form, not the end",
            "raise train.epochs or train.learning_rate",
            "loss on training rows 3.9 to 3.1 nats a token",
        ),
        ("learned by heart", "lower train.learning_rate or train.epochs", "on held-out rows 3 to 2.5"),
        ("learned all but the end", "the loss mask keeps it", "end token at gold ends 0.02 to 0.03"),
    ],
)
def test_the_sentence_has_the_numbers_and_what_to_do(what, remedy, because):
    base, tuned, traces, logged, _ = TABLE[what]
    sentence = advise(Signs(Fit(*base), Fit(*tuned), traces, logged)).sentence()
    assert remedy in sentence and because in sentence
