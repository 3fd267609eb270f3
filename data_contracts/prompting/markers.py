"""Text that must never be in a row: what chat templates and reasoning channels leave behind, whole or stripped.

The patterns are Rust regular expressions (polars), and are also valid for Python's `re`.
"""

from __future__ import annotations

RAW_MARKERS = (
    r"<\||\|>|<\uff5c|\uff5c>|</?tool_(?:call|response)s?>|</?function_calls?>|</?tools>"
    r"|\[/?(?:INST|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|AVAILABLE_TOOLS|SYSTEM_PROMPT|THINK|gMASK)\]|<</?SYS>>"
    r"|<(?:start|end)_of_turn>|</?s>|<(?:bos|eos|pad|unk|mask|sop|eop)>|<(?:BOS|EOS|PAD)_TOKEN>"
)
"""Control tokens written as text (`<|im_start|>`, `<|channel|>`, `[INST]`, `</s>`; the bars may be full-width ones) and the tags
of tool calls."""

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

_HIDDEN = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\u2800\u3164\ufeff\uffa0\ufff0-\ufffd\U000e0000-\U000e0fff"
)
"""Control bytes, line breaks other than \\n, the replacement character, and all that Unicode draws nothing for: marks that turn
the direction of writing, zero-width ones, fillers, tag letters (text that only a model reads). But for U+FE00-FE0F, which
choose between two pictures of an emoji."""

CONTROL_CHARACTERS = f"[{_HIDDEN}]"
"""What no text may hold: traces of a wrong decoding, and characters that hide or reorder text."""

INVISIBLE = f"[\t\n{_HIDDEN}]"
"""The same for text of one line."""
