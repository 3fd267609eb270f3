"""Text that must never be in a row: what chat templates and reasoning channels leave behind, whole or stripped.

The patterns are Rust regular expressions (polars), and are also valid for Python's `re`.
"""

from __future__ import annotations

RAW_MARKERS = (
    r"<\||\|>|</?tool_(?:call|response)s?>|</?function_calls?>|\[/?(?:INST|TOOL_CALLS)\]|<(?:start|end)_of_turn>"
)
"""Control tokens written as text (`<|im_start|>`, `<|channel|>`) and the tags of tool calls."""

THINK_TAGS = r"</?think(?:ing)?>"
"""The pair that the renderer puts around a trace. One inside a trace makes a second: the answer starts too early."""

_GROWN_ONTO = r"\s*[\[{]|[ \t]*[\r\n]|[A-ZÀ-Þ#*\"“>|`]|[-–—•]\s|\d+[.)]\s"
"""How an answer goes on after "final": JSON, a line break, a capital, a heading, a quotation, a bullet, a number."""

STRIPPED_MARKERS = rf"^\s*(?:analysis|commentary)|^\s*final(?:{_GROWN_ONTO})|assistant(?:final|analysis|commentary)"
"""What remains when special tokens are dropped on decoding: the channel's name grows onto the text
(`analysisWe need to ...assistantfinal{`, `finalThe plan ...`, `final- Built ...`). Small letters only: a trace may well
begin with "Analysis of ...". "final" before a space and a word is English ("final version of ..."), as is
"final-year"."""

CHAT_CONTROL = f"{RAW_MARKERS}|{THINK_TAGS}"
"""What a user-supplied field could use to leave its place in the prompt."""

ANY_MARKER = f"{RAW_MARKERS}|{THINK_TAGS}|{STRIPPED_MARKERS}"

JSON_TEXT = r'\{\s*"|"\w+"\s*:|```'
"""A JSON object, a quoted key or a code fence: the answer, repeated inside the reasoning."""

CONTROL_CHARACTERS = "[\x00-\x08\x0b-\x1f\x7f\ufffd]"
"""Invisible bytes and the replacement character: traces of a wrong decoding."""
