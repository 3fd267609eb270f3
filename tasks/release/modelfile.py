"""An Ollama Modelfile whose template, stops and context length come from the tokenizer and the prompt contract.

Reads:    the chat template (jinja) and special tokens of the released model, the recipe's prompt contract.
Writes:   text for `Modelfile`, beside the folder that holds the GGUF.
Verifies: the template reproduces the tokenizer's own rendering byte for byte (tasks/release/chat_pieces.py).
"""

from __future__ import annotations

import json
from pathlib import PurePosixPath

from data_contracts.errors import ArtifactError
from data_contracts.prompting.prompt import PromptContract
from tasks.release.chat_pieces import ChatPieces, derive_chat
from tasks.release.special_tokens import SpecialTokens


def render_modelfile(
    gguf_relpath: str,
    chat_template: str,
    special: SpecialTokens,
    num_ctx_tokens: int,
    prompt: PromptContract,
    digest: str,
) -> str:
    """The whole Modelfile, ready for `ollama create <name> -f Modelfile`. `digest`: tasks/prompts/prompt_digest.py.

    Raises:
        ArtifactError: the chat template cannot be expressed, or a text cannot be written in a Modelfile.
    """
    path = PurePosixPath(gguf_relpath)
    if path.is_absolute() or ".." in path.parts or not gguf_relpath.isprintable():
        raise ArtifactError(
            f"modelfile: the GGUF's path is {gguf_relpath!r}. Expected one inside the release, relative to it. "
            "Export the GGUF into the release."
        )
    if num_ctx_tokens < 1:
        raise ArtifactError(
            f"modelfile: num_ctx is {num_ctx_tokens} tokens. Expected at least 1. Read it from the contract."
        )
    pieces = derive_chat(chat_template, special, prompt)
    lines = [
        f"# {prompt.recipe}: template, stops and context length are derived from the tokenizer and the prompt contract",
        f"# (digest {digest}). The template gives the tokenizer's own prompt, byte for byte.",
        *_user_messages(prompt),
        *(["# Ollama's prompt differs from the tokenizer's for:"] if pieces.limits else []),
        *(f"#   - {limit}" for limit in pieces.limits),
        f"FROM ./{path}",
        "",
        f"TEMPLATE {_quoted(go_template(pieces))}",
        "",
        f"SYSTEM {_quoted(_plain(prompt.system))}",
        "",
        *(f"PARAMETER stop {_quoted(_plain(stop))}" for stop in stop_texts(pieces, special)),
        f"PARAMETER num_ctx {num_ctx_tokens}",
        "PARAMETER temperature 0",
    ]
    return "\n".join(lines) + "\n"


def _user_messages(prompt: PromptContract) -> list[str]:
    lines = []
    for task, user in prompt.users.items():
        lines.append(f"# The user message {f'for {task} ' if task else ''}must read:")
        lines += [f"#   {line}" for line in user.splitlines()]
    if prompt.context is not None:
        lines.append(f"# Facts of the moment may follow as lines '{prompt.context}', and in no other form.")
    return lines


def stop_texts(pieces: ChatPieces, special: SpecialTokens) -> list[str]:
    """Where an answer ends: EOS, padding, the special tokens that close an answer, and those that open another turn."""
    openers = [text for known in pieces.prefixes.values() for text in known.values()] + [pieces.generation_prompt]
    opening = [token for text in openers for token in special.special if text.lstrip().startswith(token)]
    closing = [token for token in special.special if token in pieces.suffixes["assistant"]]
    padding = [special.pad] if special.pad else []
    found = dict.fromkeys([special.eos, *special.stops, *closing, *padding, *opening])
    return [token for token in found if token != special.bos or token == special.eos]


def go_template(pieces: ChatPieces) -> str:
    """The pieces in Ollama's template language (Go text/template). Each message is written once, in order."""
    needs_previous = any(len(set(known.values())) > 1 for known in pieces.prefixes.values())
    answer_end = _literal(pieces.suffixes["assistant"])
    ends = {
        "system": _literal(pieces.suffixes["system"]),
        "user": _literal(pieces.suffixes["user"]),
        "assistant": f"{{{{ if not $last }}}}{answer_end}{{{{ end }}}}" if answer_end else "",
    }
    branches = "".join(
        f'{{{{ {"if" if number == 0 else "else if"} eq .Role "{role}" }}}}'
        f"{_prefix(pieces.prefixes[role])}{{{{ .Content }}}}{ends[role]}"
        for number, role in enumerate(pieces.prefixes)
    )
    start = _literal(pieces.opening) + ('{{ $previous := "" }}' if needs_previous else "")
    return (
        f"{start}{{{{ range $i, $_ := .Messages }}}}{{{{ $last := eq (len (slice $.Messages $i)) 1 }}}}"
        f"{branches}{{{{ end }}}}"
        f'{{{{ if and $last (ne .Role "assistant") }}}}{_literal(pieces.generation_prompt)}{{{{ end }}}}'
        f"{'{{ $previous = .Role }}' if needs_previous else ''}{{{{ end }}}}"
    )


def _prefix(known: dict[str, str]) -> str:
    """One text, or a choice by the role of the turn before."""
    texts = list(known.items())
    if len(set(known.values())) == 1:
        return _literal(texts[0][1])
    chosen = "".join(
        f'{{{{ {"if" if number == 0 else "else if"} eq $previous "{previous}" }}}}{_literal(text)}'
        for number, (previous, text) in enumerate(texts[1:])
    )
    return f"{chosen}{{{{ else }}}}{_literal(texts[0][1])}{{{{ end }}}}"


def _literal(text: str) -> str:
    """Text that neither Go nor the Modelfile parser reads as anything else."""
    out = []
    for part in text.replace('"""', "\0").replace("{", "\1"):
        if part == "\0":
            out.append('{{ "\\"\\"\\"" }}')
        elif part == "\1":
            out.append('{{ "{" }}')
        elif part in "\n\t" or part.isprintable():
            out.append(part)
        else:  # the Modelfile parser drops what is not printable
            out.append(f"{{{{ {json.dumps(part)} }}}}")
    return "".join(out)


def _plain(text: str) -> str:
    """Text that a Modelfile holds unchanged.

    Raises:
        ArtifactError: it holds three quotes in a row or a character that Ollama's parser drops.
    """
    lost = sorted({one for one in text if one not in "\n\t" and not one.isprintable()})
    if lost or '"""' in text:
        raise ArtifactError(
            f"modelfile: {text[:60]!r} cannot be written in a Modelfile. It holds "
            f"{', '.join(map(ascii, lost)) or 'three quotes in a row'}. Take that out of the prompt or the token."
        )
    return text


def _quoted(text: str) -> str:
    return f'"""{text}"""' if "\n" in text or '"' in text else f'"{text}"'
