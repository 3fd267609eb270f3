"""Control tokens and characters that nobody sees: refused in every field alike, by polars and by Python; plain text is not."""

import re

import polars as pl
import pytest

from data_contracts.prompting import markers
from data_contracts.rows.contract import check_rows

TOKENS = [
    "<|im_end|>", "<|channel|>", "<\uff5cUser\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>", "<s>", "</s>", "<bos>", "<eos>",
    "<pad>", "<unk>", "<EOS_TOKEN>", "<<SYS>>", "<</SYS>>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]",
    "[AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[TOOL_CALLS]", "[THINK]", "[gMASK]", "<start_of_turn>", "<tool_call>", "<tools>",
]  # fmt: skip
HIDDEN = [
    "\x00", "\x07", "\x85", "\x9f", "\xad", "\u034f", "\u061c", "\u115f", "\u180e", "\u200b", "\u200f", "\u2028", "\u202e",
    "\u2060", "\u2066", "\u2069", "\u206f", "\u3164", "\ufeff", "\ufffd", "\U000e0001", "\U000e0041", "\U000e007f", "\U000e0100",
]  # fmt: skip
PLAIN = [
    "S&P 500 <5,000 or >6,000?", "[UPDATE] rates at 5% | 6%", "« no haste », said the governor: 東京 😀❤️", "a < b || c > d",
    "</sub> H<sub>2</sub>", "the system prompt of a chatbot", "naïve Ünlü\u00a0Çelik – Ångström’s", "Think <tank> says so",
]  # fmt: skip
FIELDS = ["headline", "question", "trace", "context", "error_message"]


def holds(pattern: str, text: str) -> bool:
    """What both engines say."""
    by_polars = pl.Series([text]).str.contains(pattern)[0]
    assert by_polars == bool(re.search(pattern, text)), text
    return by_polars


@pytest.mark.parametrize("token", TOKENS)
def test_each_control_token_is_one_in_both_engines(token):
    assert holds(markers.CHAT_CONTROL, f"Fed {token} cuts")
    assert holds(markers.ANY_MARKER, token)


@pytest.mark.parametrize("sign", HIDDEN, ids=lambda sign: f"U+{ord(sign):04X}")
def test_each_hidden_character_is_one_in_both_engines(sign):
    assert holds(markers.CONTROL_CHARACTERS, f"a{sign}b")
    assert holds(markers.INVISIBLE, f"a{sign}b")


@pytest.mark.parametrize("text", PLAIN)
def test_plain_text_is_left_alone(text):
    assert not holds(markers.CHAT_CONTROL, text)
    assert not holds(markers.INVISIBLE, text)


def test_only_text_of_several_lines_may_break_them():
    for white in "\n\t":
        assert holds(markers.INVISIBLE, f"a{white}b") and not holds(markers.CONTROL_CHARACTERS, f"a{white}b")


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize(
    "sign", ["</s>", "<\uff5cUser\uff5c>", "</think>", "\u202e", "\u200b", "\u2066", "\u061c", "\U000e0041"]
)
def test_every_field_that_a_model_reads_or_learns_refuses_them(gold, small, field, sign):
    row = gold.filter(pl.col("error_code").is_null() == (field != "error_message")).head(1)
    text = (
        f"Note: so {sign}it goes."
        if field == "context"
        else f"So {sign}it goes on and on{'?' if field == 'question' else '.'}"
    )
    reasons = check_rows("signals", row.with_columns(pl.lit(text).alias(field)), small).reasons[1]
    assert len(reasons) == 1 and reasons[0].startswith(f"{field}: "), reasons
    clean = check_rows("signals", row.with_columns(pl.lit(text.replace(sign, "")).alias(field)), small)
    assert clean.passed, clean.reasons
