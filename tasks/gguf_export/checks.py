"""What a GGUF must share with its model, short of logits: tensors, token ids, chat template, metadata."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from data_contracts.verdict import Check, check, report
from tasks.formats.gguf_file import RECIPES, GgufTensor, bits_per_weight, fallback_tensors, match_names
from tasks.formats.safetensors_file import TensorEntry
from tasks.prompts.prompt_digest import PROMPT_CONTRACT_KEY
from tasks.runtimes.llama_model import LlamaEngine

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ALWAYS_READ = ("<|start|>", "<|message|>", "<|channel|>", "<|constrain|>")
"""Harmony's tokens. llama.cpp makes them user-defined, whatever the tokenizer says, so that it can show them."""
_AGAIN = "Export the model again."
_TOKENIZER_FIX = (
    "llama.cpp splits or merges text otherwise than the tokenizer in training, so the model would get ids it never "
    "saw. Use a tokenizer that llama.cpp supports."
)


@cache
def hard_text() -> tuple[str, ...]:
    """The samples of hard_text.txt: one JSON string a line."""
    lines = Path(__file__).with_name("hard_text.txt").read_text("utf-8").split("\n")
    return tuple(json.loads(line) for line in lines if line and not line.startswith("#"))


def tensor_checks(
    name: str, hf: dict[str, TensorEntry], gguf: dict[str, GgufTensor], engine: LlamaEngine, tied: bool
) -> list[Check]:
    """Every tensor of the model is in the file, in its shape, and not blank."""
    architecture = engine.metadata.get("general.architecture", "")
    match = match_names({one.name: one.shape for one in hf.values()}, gguf, architecture, tied)
    lost_weights = abs(match.leftover[0] - match.leftover[1])
    blank = [
        target
        for target, sources in match.pairs.items()
        if target in gguf and gguf[target].is_zero() and any(bool(hf[source].read().any()) for source in sources)
    ]
    mapped = f"{len(match.pairs)} of {len(gguf)} GGUF tensors mapped to {len(hf)} of the model"
    return [
        check(
            f"{name}: tensors missing or of another shape",
            len(match.wrong),
            "==",
            0,
            enough=bool(match.pairs),
            detail="; ".join([mapped, *match.wrong[:3]]),
            fix=_AGAIN,
        ),
        check(
            f"{name}: weights lost or added in tensors without a known name",
            lost_weights,
            "==",
            0,
            detail=f"model {match.leftover[0]:,}, file {match.leftover[1]:,}",
            fix=_AGAIN,
        ),
        check(
            f"{name}: tensors that are all zero and were not in the model",
            len(blank),
            "==",
            0,
            detail=", ".join(blank[:3]),
            fix=_AGAIN,
        ),
    ]


def metadata_checks(
    name: str, engine: LlamaEngine, tokenizer: PreTrainedTokenizerBase, config: dict, prompt_digest: str
) -> list[Check]:
    """Vocabulary size, chat template, end token, context, prompt contract and file type, as the header says them."""
    found = engine.metadata
    template = found.get("tokenizer.chat_template", "")
    expected = tokenizer.chat_template or ""
    differ = next((i for i, (a, b) in enumerate(zip(template, expected, strict=False)) if a != b), len(expected))
    recipe = RECIPES[name]
    return [
        check(f"{name}: rows of the vocabulary", engine.vocab_size, "==", config.get("vocab_size", "none"), fix=_AGAIN),
        check(
            f"{name}: chat template equals the tokenizer's",
            bool(expected) and template == expected,
            "==",
            True,
            detail=f"{len(template)} characters, {len(expected)} expected"
            + ("" if template == expected else f", first difference at character {differ}"),
            fix="The tokenizer needs a chat template, and the file must carry the same one. " + _AGAIN,
        ),
        check(f"{name}: id of the end token", engine.eos_id, "==", tokenizer.eos_token_id, fix=_AGAIN),
        check(
            f"{name}: context length",
            engine.trained_context_tokens,
            "==",
            config.get("max_position_embeddings", "none"),
            unit="tokens",
            fix=_AGAIN,
        ),
        check(
            f"{name}: prompt contract in the header",
            found.get(PROMPT_CONTRACT_KEY, "none"),
            "==",
            prompt_digest,
            fix="The file was made for other prompt words. " + _AGAIN,
        ),
        check(f"{name}: file type in the header", found.get("general.file_type", "none"), "==", str(recipe.file_type)),
    ]


def size_checks(
    name: str, gguf: dict[str, GgufTensor], f16: dict[str, GgufTensor], max_fallback_fraction: float | None
) -> list[Check]:
    """Real bits per weight, and the share of weights in tensors of another type than the file's name promises."""
    total = sum(t.elements for t in gguf.values())
    strangers = fallback_tensors(gguf, f16, name)
    fraction = sum(t.elements for t in strangers) / total
    types = ", ".join(sorted({t.type for t in strangers}))
    title = f"{name}: share of weights in fallback tensors"
    detail = f"{len(strangers)} of {len(gguf)} tensors" + (f", kept as {types}" if strangers else "")
    if max_fallback_fraction is None:
        fallback = report(title, fraction, detail=detail)
    else:
        fix = "The rows of these tensors are no multiple of 256; choose q8_0, or a base whose sizes fit."
        fallback = check(title, fraction, "<=", max_fallback_fraction, detail=detail, fix=fix)
    return [
        report(f"{name}: bits per weight", bits_per_weight(gguf), unit="bits", detail=f"{total:,} weights"),
        fallback,
    ]


def token_checks(name: str, engine: LlamaEngine, tokenizer: PreTrainedTokenizerBase, chats: list[str]) -> list[Check]:
    """Token ids equal on rendered chats and on hard text, with special tokens read and with special tokens as text."""
    added = tokenizer.added_tokens_decoder.values()
    samples = [*hard_text(), *(f"a{token.content}b {token.content} c" for token in added)]
    # llama.cpp takes every added <|...|> as special, transformers only those marked so: as text they cannot agree.
    unmarked = [t.content for t in added if not t.special and t.content.startswith("<|") and t.content.endswith("|>")]
    always = [t.content for t in added if t.content in _ALWAYS_READ]
    plain = [text for text in samples if not any(token in text for token in (*unmarked, *always))]

    def read(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    def read_plain(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    composes = "NFC" in (json.loads(tokenizer.backend_tokenizer.to_str()).get("normalizer") or {}).get("type", "")
    asked: list[tuple[str, list[str], Callable, bool, bool]] = [
        ("rendered chats", chats, read, True, False),
        ("hard texts", samples, read, True, composes),
        ("hard texts with special tokens as text", plain, read_plain, False, composes),
    ]
    checks = [
        _same_ids(f"{name}: {what}", texts, expected, special, composed, engine)
        for what, texts, expected, special, composed in asked
    ]
    if always:
        detail = f"{', '.join(always)}: written by a user they would pass for the format's own; the contract refuses them in rows"
        checks.append(report(f"{name}: tokens that llama.cpp reads in any text", len(always), detail=detail))
    if composes:
        only = [text for text in samples if unicodedata.normalize("NFC", text) != text]
        detail = f"of {len(samples)}: the tokenizer composes Unicode (NFC), llama.cpp does not; send composed text"
        checks.append(report(f"{name}: hard texts that were composed before comparing", len(only), detail=detail))
    return checks


def _same_ids(
    title: str,
    texts: list[str],
    expected: Callable[[str], list[int]],
    special: bool,
    composes: bool,
    engine: LlamaEngine,
) -> Check:
    wrong: list[str] = []
    for text in texts:
        given = unicodedata.normalize("NFC", text) if composes else text
        ours, theirs = engine.tokenize(given, parse_special=special), expected(text)
        if ours != theirs:
            at = next(
                (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
            )
            wrong.append(f"{text[:40]!a} from token {at}: {ours[at : at + 4]}, in training {theirs[at : at + 4]}")
    detail = "; ".join([f"{len(wrong)} of {len(texts)}", *wrong[:2]])
    fix = _TOKENIZER_FIX
    return check(
        f"{title} with other token ids than in training",
        len(wrong),
        "==",
        0,
        enough=bool(texts),
        detail=detail,
        fix=fix,
    )
