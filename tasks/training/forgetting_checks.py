"""The verdicts on forgetting: a tuned model's traces beside its base's and beside those of its training rows.

No bound is tighter than what the base itself does: a base that rambles is no sign of forgetting, and one that never wrote a
trace has none to lose.

One rule decides each number: fewer answers than min_probe_traces cannot tell; a number within its limit passes; one beyond it
fails when its whole 95 % interval is beyond, and cannot tell otherwise. So a model that lies on a limit fails in 1 of 40
looks: at most so often by the exact interval of a share, about so often by the bootstrap of a mean or a median. What cannot
tell does not pass, and costs no training: the work is kept, to be verified again with more rows or another limit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Literal

from data_contracts.verdict import Check, Verdict, check, report
from tasks.measures.bootstrap import difference_interval, mean_interval, median_interval, share_interval
from tasks.recipes.interface import Trace
from tasks.training.config import ForgettingConfig

BOARD_FILE = "forgetting.html"
"""In the stage's work folder: what both models answered, side by side."""
LOOK = f"What both models answered is in {BOARD_FILE}, in the stage's work folder"


@dataclass(frozen=True)
class Remedies:
    """What to do about a number beyond its limit, and about one that cannot tell."""

    refused: str = "The fine-tune is too aggressive: lower train.learning_rate or train.epochs"
    """Sentence of advice.py."""
    more_rows: str = "Raise train.forgetting.probe_rows"


_INTERVAL_FRACTION = 0.95
_NOT_PROVEN = "Beyond the limit, but not beyond its own uncertainty"
_WORD = re.compile(r"\w{1,16}|[^\w\s]")
"""Words and signs; a run of letters without a space is cut, so that "hahaha..." repeats too."""


@dataclass(frozen=True)
class Measured:
    """What the answers of one model, or of the training rows, come to."""

    answers: int
    cut_off: int
    begun: int
    """Answers that begin a trace, whether they end it or not."""
    well_formed: int
    """Answers with exactly one trace."""
    concluding: int
    """Traces whose words conclude something that the answer can be compared with."""
    agreeing: int
    """Those of them whose answer says the same."""
    chars: tuple[int, ...]
    """Length of what stands where the trace should, of each answer: a loop that never closes counts as far as it went."""
    repetitions: tuple[float, ...]
    """`repetition` of the same texts."""

    @classmethod
    def of(cls, traces: Sequence[Trace], cut_off: int = 0) -> Measured:
        """The numbers of these answers."""
        told = [one.agrees for one in traces if one.agrees is not None]
        return cls(
            answers=len(traces),
            cut_off=cut_off,
            begun=sum(one.begun for one in traces),
            well_formed=sum(one.well_formed for one in traces),
            concluding=len(told),
            agreeing=sum(told),
            chars=tuple(len(one.text) for one in traces),
            repetitions=tuple(repetition(one.text) for one in traces),
        )

    @property
    def median_chars(self) -> float:
        """Median length of the traces, in characters; 0 without an answer."""
        return float(median(self.chars)) if self.chars else 0.0

    @property
    def repetition_fraction(self) -> float:
        """Mean repetition of the traces; 0 without an answer."""
        return round(fmean(self.repetitions), 4) if self.repetitions else 0.0

    @property
    def agreement_fraction(self) -> float | None:
        """Share of the concluding traces whose answer agrees; None when no trace concludes."""
        return round(self.agreeing / self.concluding, 4) if self.concluding else None

    def share(self, count: int) -> float:
        """A count as a share of the answers."""
        return round(count / self.answers, 4) if self.answers else 0.0


def repetition(text: str, n: int = 4) -> float:
    """seq-rep-n: 1 - distinct n-grams / n-grams; 0 where there is no n-gram.

    Source: Welleck et al. 2019, "Neural Text Generation with Unlikelihood Training" (arXiv:1908.04319), there over the
    tokens of a model; here over words and signs, so that two tokenizers give one number.
    """
    words = _WORD.findall(text.lower())
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def check_general_loss(
    before: Sequence[float],
    after: Sequence[float],
    limit_nats: float,
    vocab_tokens: int,
    refused: str = Remedies.refused,
) -> Check:
    """The rise of the mean loss, paired by passage.

    A base that reads general text no better than a uniform guess, ln(vocab_tokens) nats a token, has none to forget.
    """
    name, unit = "rise of the loss on general text", "nats a token"
    interval = difference_interval(after, before, _INTERVAL_FRACTION)
    if interval is None:
        return check(name, None, "<=", limit_nats, unit=unit, detail="no passage was read", fix=refused)
    rise, low, high = interval
    detail = (
        f"{fmean(before):.4f} before, {fmean(after):.4f} after; 95 % interval {low:.4f} to {high:.4f} over "
        f"{len(before)} passages"
    )
    if fmean(before) >= (guess := math.log(vocab_tokens)):
        why = f"not judged: the base reads it no better than a guess among its {vocab_tokens} tokens, {guess:.4f}"
        return report(name, rise if math.isfinite(rise) else None, unit=unit, detail=f"{detail}; {why}")
    enough = rise <= limit_nats or low > limit_nats
    fix = (
        refused
        if enough
        else f"{_NOT_PROVEN}; decide by it with train.forgetting.max_general_loss_increase_nats, or train less"
    )
    return check(name, rise, "<=", limit_nats, unit=unit, detail=detail, fix=fix, enough=enough)


def judge(
    config: ForgettingConfig,
    before: Measured,
    after: Measured,
    rows: Measured,
    longest_tokens: int,
    limit_tokens: int,
    remedies: Remedies = Remedies(),
) -> list[Check]:
    """A verdict on each number of the tuned model, beside the base's and the training rows'.

    `longest_tokens` is the longest answer of the training rows. Where the context leaves less, answers were cut at a limit
    (`limit_tokens`) that cuts off healthy answers too.
    """
    decide = _Decider(config.min_probe_traces, remedies)
    checks = [
        _one_trace(config, decide, before, after),
        _cut_off(config, decide, before, after, longest_tokens, limit_tokens),
    ]
    if not had_traces(config, before) and after.begun < config.min_probe_traces:
        why = f"length, repetition and agreement are not judged: {_counts('begun', before, after)}"
        return [*checks, report("probed answers that begin a trace", after.begun, detail=why)]
    return [
        *checks,
        _length(config, decide, before, after, rows),
        _repetition(config, decide, before, after, rows),
        _agreement(config, decide, before, after, rows),
    ]


def more_rows_may_decide(checks: Sequence[Check], longest_tokens: int, limit_tokens: int) -> bool:
    """Whether further prompts are worth their time: nothing has failed, something cannot tell, and answers had space to end."""
    verdicts = {one.verdict for one in checks}
    return Verdict.FAIL not in verdicts and Verdict.CANNOT_TELL in verdicts and longest_tokens < limit_tokens


def had_traces(config: ForgettingConfig, before: Measured) -> bool:
    """Whether the base wrote traces that a run could lose."""
    return before.share(before.well_formed) > config.max_trace_loss_fraction


def _counts(name: str, before: Measured, after: Measured) -> str:
    return f"{getattr(before, name)} of {before.answers} before, {getattr(after, name)} of {after.answers} after"


@dataclass(frozen=True)
class _Estimate:
    """A number from answers, and how far it may lie from that of all answers the model would give."""

    value: float | None
    interval: tuple[float, float]
    answers: int
    """Answers, or concluding traces, that it was taken from."""

    @classmethod
    def share(cls, count: int, of: int) -> _Estimate:
        if not of:
            return cls(None, (0.0, 1.0), 0)
        return cls(round(count / of, 4), share_interval(count, of, _INTERVAL_FRACTION), of)


@dataclass(frozen=True)
class _Decider:
    """The rule of the module's docstring."""

    fewest: int
    remedies: Remedies

    def __call__(
        self, name: str, estimate: _Estimate, comparison: Literal["<=", ">="], limit: float, detail: str
    ) -> Check:
        value, (low, high) = estimate.value, estimate.interval
        if value is None or estimate.answers < self.fewest:
            few = f"cannot tell: {estimate.answers} to judge by, at least {self.fewest} needed"
            fix = f"{self.remedies.more_rows}. {LOOK}"
            return check(name, value, comparison, limit, detail=f"{detail}; {few}", fix=fix, enough=False)
        within = value <= limit if comparison == "<=" else value >= limit
        beyond = low > limit if comparison == "<=" else high < limit
        fix = self.remedies.refused if beyond else f"{_NOT_PROVEN}: {self.remedies.more_rows}"
        return check(
            name,
            value,
            comparison,
            limit,
            detail=f"{detail}; 95 % interval {low:.4g} to {high:.4g}",
            fix=f"{fix}. {LOOK}",
            enough=within or beyond,
        )


def _one_trace(config: ForgettingConfig, decide: _Decider, before: Measured, after: Measured) -> Check:
    name, detail = (
        "fraction of probed answers with exactly one well-formed trace",
        _counts("well_formed", before, after),
    )
    if not had_traces(config, before):
        share = after.share(after.well_formed)
        return report(name, share, detail=f"not judged: {detail}, so there is none to lose")
    limit = round(before.share(before.well_formed) - config.max_trace_loss_fraction, 4)
    return decide(name, _Estimate.share(after.well_formed, after.answers), ">=", limit, detail)


def _cut_off(
    config: ForgettingConfig,
    decide: _Decider,
    before: Measured,
    after: Measured,
    longest_tokens: int,
    limit_tokens: int,
) -> Check:
    name, share = "fraction of probed answers that are cut off", after.share(after.cut_off)
    detail = f"{_counts('cut_off', before, after)}, at {limit_tokens} tokens"
    if before.cut_off == before.answers:
        return report(name, share, detail=f"not judged: {detail}")
    limit = max(config.max_cut_off_fraction, before.share(before.cut_off))
    if longest_tokens >= limit_tokens:
        fix = (
            f"The probed prompts leave {limit_tokens} tokens of the base's context, and answers of the training rows reach "
            f"{longest_tokens}: shorten the prompts, or take a base with a longer context"
        )
        return check(name, share, "<=", limit, detail=detail, fix=fix, enough=False)
    return decide(name, _Estimate.share(after.cut_off, after.answers), "<=", limit, detail)


def _length(config: ForgettingConfig, decide: _Decider, before: Measured, after: Measured, rows: Measured) -> Check:
    """The ratio of medians, held to the side of 1 on which it lies."""
    taught = max(rows.median_chars, 1.0)
    ratio, base = (round(one.median_chars / taught, 4) for one in (after, before))
    if before.begun < config.min_probe_traces:
        base = 1.0
    low, high = median_interval(after.chars, _INTERVAL_FRACTION) if after.chars else (0.0, 0.0)
    shorter = ratio < 1
    widest = config.max_trace_length_ratio
    return decide(
        "median length of the traces, as a ratio of the training rows'",
        _Estimate(ratio, (low / taught, high / taught), after.answers),
        ">=" if shorter else "<=",
        round(min(1 / widest, base), 4) if shorter else max(widest, base),
        f"{before.median_chars:g} characters before, {after.median_chars:g} after, {rows.median_chars:g} in the training rows",
    )


def _repetition(config: ForgettingConfig, decide: _Decider, before: Measured, after: Measured, rows: Measured) -> Check:
    base = before.repetition_fraction if before.begun >= config.min_probe_traces else 0.0
    interval = mean_interval(after.repetitions, _INTERVAL_FRACTION) if after.repetitions else (0.0, 1.0)
    return decide(
        "mean fraction of repeated 4-grams in the traces",
        _Estimate(after.repetition_fraction, interval, after.answers),
        "<=",
        max(config.max_repetition_fraction, base),
        f"{before.repetition_fraction:g} before, {after.repetition_fraction:g} after, "
        f"{rows.repetition_fraction:g} in the training rows",
    )


def _agreement(config: ForgettingConfig, decide: _Decider, before: Measured, after: Measured, rows: Measured) -> Check:
    name = "fraction of traces whose conclusion agrees with the answer"
    shown = ", ".join(
        f"{one.agreeing} of {one.concluding} {where}"
        for one, where in ((before, "before"), (after, "after"), (rows, "in the training rows"))
    )
    if not rows.concluding:
        return report(
            name, after.agreement_fraction or 0.0, detail=f"not judged: {shown}, whose words conclude nothing"
        )
    base = before.agreement_fraction if before.concluding >= config.min_probe_traces else None
    limit = config.min_agreement_fraction if base is None else min(config.min_agreement_fraction, base)
    detail = f"{shown}, of the traces whose words conclude"
    return decide(name, _Estimate.share(after.agreeing, after.concluding), ">=", limit, detail)
