"""Signals' family of limits: an assessment whose sign is about YES, in the words that its messages use."""

from __future__ import annotations

from typing import ClassVar

from data_contracts.limits import AssessmentLimits, SignWords


class SignalsLimits(AssessmentLimits):
    """Limits of a headline's assessment; limits.yaml beside this file holds the numbers."""

    words: ClassVar[SignWords] = SignWords(
        more="YES more likely",
        less="YES less likely",
        more_fraction="YES-more-likely fraction",
        balance="Ask some of the questions the other way round, or add rows of the rarer sign",
        apart="metric and YES move apart",
        add_apart="Add rows such as 'Fed cuts rates' with 'Will the Fed cut?': only they show the sign flip",
        concludes=("that YES is more likely", "that YES is less likely", "that YES stays where it is"),
        conclude="State in each trace what happens to YES",
        target="YES",
        signed_rows="rows with a direction",
        size="magnitude",
        apart_shown="Which way the metric in the headline moves, and which way YES moves. In the outlined cells they move apart: "
        "only such rows can show a model that learned “the number went up” instead of “YES got more likely”.",
    )
    split_labels: ClassVar[tuple[str, ...]] = ("relevance", "source_credibility", "novelty")
