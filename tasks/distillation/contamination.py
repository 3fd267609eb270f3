"""What makes a model's answer unfit to learn from: cut off, refused, spent on thoughts, or with a channel's name grown onto it.

Every reason reads `kind: detail`; the kinds are counted, so they are few and never vary: truncated, empty, refusal, no room,
harmony, leaked marker. A repair is never tried: a text whose markers were stripped may have lost more than their names.
"""

from __future__ import annotations

import re

from data_contracts.prompting import markers
from tasks.clients.requests import Answer

_CHANNEL_NAMES = re.compile(f"{markers.RAW_MARKERS}|{markers.STRIPPED_MARKERS}")
_ANY = re.compile(markers.ANY_MARKER)
_ONLY_THOUGHTS = re.compile(r"\s*<think(?:ing)?>(?:(?!</think(?:ing)?>).)*", re.DOTALL)
_SHOWN_CHARS = 80


def thought_only(answer: Answer) -> bool:
    """Everything that came was hidden reasoning, or a block of thoughts that was never closed."""
    return bool(answer.text.strip() or answer.hidden_chars) and (
        not answer.said or bool(_ONLY_THOUGHTS.fullmatch(answer.text))
    )


def needs_more_room(answer: Answer) -> bool:
    """Whether the same prompt, asked with more tokens, may be answered."""
    return answer.finish_reason == "length" or (thought_only(answer) and not answer.refusal)


def usable_text(answer: Answer, keeps_trace: bool) -> str:
    """What a row would learn: the whole text where the trace belongs to the answer, else what comes after the thoughts."""
    return answer.text.strip() if keeps_trace else answer.said


def reason_against(answer: Answer, keeps_trace: bool, problem: str = "") -> str:
    """Why the answer is not used; empty when nothing speaks against it. `problem`: what a channel parser found."""
    cut_in_trace = keeps_trace and answer.finish_reason == "length" and answer.text.strip()
    if thought_only(answer) and not answer.refusal and not cut_in_trace:
        chars = answer.hidden_chars or len(answer.text.strip())
        spent = " and no room was left" if answer.finish_reason == "length" else ""
        return f"empty: no answer, only {chars:,} characters of hidden reasoning{spent}"
    if answer.trouble:
        return answer.trouble
    if problem:
        return problem
    text = usable_text(answer, keeps_trace)
    if leak := (_CHANNEL_NAMES if keeps_trace else _ANY).search(text):
        around = text[max(0, leak.start() - 20) : leak.end() + 20]
        return f"leaked marker: {leak.group().strip()!r} in {around[:_SHOWN_CHARS]!r}"
    return ""
