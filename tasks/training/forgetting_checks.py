"""The verdicts on forgetting: a tuned model's traces beside its base's and beside those of its training rows.

No bound is tighter than what the base itself does: a base that rambles is no sign of forgetting, and one that never wrote a
trace has none to lose.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Literal

from data_contracts.verdict import Check, check, report
from tasks.measures.bootstrap import difference_interval
from tasks.recipes.interface import Trace
from tasks.training.config import ForgettingConfig

FIX = "The fine-tune is too aggressive: lower train.learning_rate or train.epochs"
LOOK = f"{FIX}. What both models answered is in forgetting.jsonl, in the stage's work folder"
FEW = "Raise train.forgetting.probe_rows"
_INTERVAL_FRACTION = 0.95
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
    median_chars: float
    """Of what stands where the trace should: a loop that never closes counts as far as it went."""
    repetition_fraction: float
    """Mean of `repetition` over the same texts."""

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
            median_chars=float(median(len(one.text) for one in traces)) if traces else 0.0,
            repetition_fraction=round(fmean(repetition(one.text) for one in traces), 4) if traces else 0.0,
        )

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


def check_general_loss(before: Sequence[float], after: Sequence[float], limit_nats: float, vocab_tokens: int) -> Check:
    """The rise of the mean loss, paired by passage; told only when its whole interval lies on one side of the limit.

    A base that reads general text no better than a uniform guess, ln(vocab_tokens) nats a token, has none to forget.
    """
    name, unit = "rise of the loss on general text", "nats a token"
    interval = difference_interval(after, before, _INTERVAL_FRACTION)
    if interval is None:
        return check(name, None, "<=", limit_nats, unit=unit, detail="no passage was read", fix=FIX)
    rise, low, high = interval
    detail = (
        f"{fmean(before):.4f} before, {fmean(after):.4f} after; 95 % interval {low:.4f} to {high:.4f} over "
        f"{len(before)} passages"
    )
    if fmean(before) >= (guess := math.log(vocab_tokens)):
        why = f"not judged: the base reads it no better than a guess among its {vocab_tokens} tokens, {guess:.4f}"
        return report(name, rise if math.isfinite(rise) else None, unit=unit, detail=f"{detail}; {why}")
    enough = not low <= limit_nats < high
    return check(name, rise, "<=", limit_nats, unit=unit, detail=detail, fix=FIX, enough=enough)


def judge(
    config: ForgettingConfig,
    before: Measured,
    after: Measured,
    rows: Measured,
    longest_tokens: int,
    limit_tokens: int,
) -> list[Check]:
    """A verdict on each number of the tuned model, beside the base's and the training rows'.

    `longest_tokens` is the longest answer of the training rows. Where the context leaves less, answers were cut at a limit
    (`limit_tokens`) that cuts off healthy answers too.
    """
    checks = [_one_trace(config, before, after), _cut_off(config, before, after, longest_tokens, limit_tokens)]
    if not _had_traces(config, before) and after.begun < config.min_probe_traces:
        why = f"length, repetition and agreement are not judged: {_counts('begun', before, after)}"
        return [*checks, report("probed answers that begin a trace", after.begun, detail=why)]
    return [
        *checks,
        _length(config, before, after, rows),
        _repetition(config, before, after, rows),
        _agreement(config, before, after, rows),
    ]


def _had_traces(config: ForgettingConfig, before: Measured) -> bool:
    return before.share(before.well_formed) > config.max_trace_loss_fraction


def _counts(name: str, before: Measured, after: Measured) -> str:
    return f"{getattr(before, name)} of {before.answers} before, {getattr(after, name)} of {after.answers} after"


def _held(
    config: ForgettingConfig,
    name: str,
    found: float | None,
    comparison: Literal["<=", ">="],
    limit: float,
    detail: str,
    told: int,
    expected: float | None = None,
) -> Check:
    """A check that needs `told` answers, or traces, to be enough. Where a healthy model would have given enough of them
    (`expected`, else `told`), the run is to blame for too few; else the probe is too small."""
    few = (told if expected is None else expected) < config.min_probe_traces
    enough = told >= config.min_probe_traces
    return check(name, found, comparison, limit, detail=detail, fix=FEW if few else LOOK, enough=enough)


def _one_trace(config: ForgettingConfig, before: Measured, after: Measured) -> Check:
    name, share = "fraction of probed answers with exactly one well-formed trace", after.share(after.well_formed)
    detail = _counts("well_formed", before, after)
    if not _had_traces(config, before):
        return report(name, share, detail=f"not judged: {detail}, so there is none to lose")
    limit = round(before.share(before.well_formed) - config.max_trace_loss_fraction, 4)
    return _held(config, name, share, ">=", limit, detail, after.answers)


def _cut_off(
    config: ForgettingConfig, before: Measured, after: Measured, longest_tokens: int, limit_tokens: int
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
    return _held(config, name, share, "<=", limit, detail, after.answers)


def _length(config: ForgettingConfig, before: Measured, after: Measured, rows: Measured) -> Check:
    """The ratio of medians, held to the side of 1 on which it lies."""
    ratio, base = (round(one.median_chars / max(rows.median_chars, 1.0), 4) for one in (after, before))
    if before.begun < config.min_probe_traces:
        base = 1.0
    shorter = ratio < 1
    widest = config.max_trace_length_ratio
    return _held(
        config,
        "median length of the traces, as a ratio of the training rows'",
        ratio,
        ">=" if shorter else "<=",
        round(min(1 / widest, base), 4) if shorter else max(widest, base),
        f"{before.median_chars:g} characters before, {after.median_chars:g} after, {rows.median_chars:g} in the training rows",
        after.answers,
    )


def _repetition(config: ForgettingConfig, before: Measured, after: Measured, rows: Measured) -> Check:
    base = before.repetition_fraction if before.begun >= config.min_probe_traces else 0.0
    return _held(
        config,
        "mean fraction of repeated 4-grams in the traces",
        after.repetition_fraction,
        "<=",
        max(config.max_repetition_fraction, base),
        f"{before.repetition_fraction:g} before, {after.repetition_fraction:g} after, "
        f"{rows.repetition_fraction:g} in the training rows",
        after.answers,
    )


def _agreement(config: ForgettingConfig, before: Measured, after: Measured, rows: Measured) -> Check:
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
    expected = after.answers * rows.share(rows.concluding)
    return _held(config, name, after.agreement_fraction, ">=", limit, detail, after.concluding, expected)
