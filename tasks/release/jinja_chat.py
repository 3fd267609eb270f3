"""The model's own chat template, rendered as transformers renders it: sandboxed, and without loading a tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jinja2 import TemplateError

from data_contracts.errors import ArtifactError
from tasks.prompts.chat_template import chat_environment
from tasks.release.special_tokens import SpecialTokens

Chat = Sequence[Mapping[str, str]]
"""Messages, each with a role (system, user, assistant) and a content."""


class ChatTemplate:
    """One jinja chat template with the special tokens that it may name."""

    def __init__(self, source: str, special: SpecialTokens) -> None:
        self._special = special
        try:
            self._template = chat_environment(_no_clock).from_string(source)
        except TemplateError as problem:
            raise ArtifactError(
                f"modelfile: the chat template is not valid jinja. {problem}. Repair chat_template.jinja of the model."
            ) from problem

    def render(self, messages: Chat, *, generation: bool = True) -> str:
        """The prompt, without the BOS that the runtime adds by itself.

        Raises:
            TemplateError: the template refuses the chat or fails on it.
            ArtifactError: the tokenizer adds a BOS that the template does not write.
        """
        special = self._special
        bos = special.bos or ""
        # transformers names these too, so a template sees None and not an undefined name
        names = {"tools": None, "documents": None, "bos_token": bos, "eos_token": special.eos, "pad_token": special.pad}
        try:
            text = self._template.render(messages=list(messages), add_generation_prompt=generation, **names)
        except TemplateError:
            raise
        except Exception as problem:  # a template is a program: it can fail in any way that Python can
            raise TemplateError(f"{type(problem).__name__}: {problem}") from problem
        if not special.adds_bos:
            return text
        if not bos or not text.startswith(bos):
            raise ArtifactError(
                f"modelfile: the tokenizer adds {bos!r} before every text; the chat template does not begin with it. "
                "Ollama's prompt would hold one token more than the trained one. "
                "Set add_bos_token to false, or write it in the template."
            )
        return text[len(bos) :]

    def truth(self, messages: Chat) -> str:
        """What Ollama's prompt should be: up to the answer, or cut after a last answer that is to be continued."""
        if messages[-1]["role"] != "assistant":
            return self.render(messages)
        text, answer = self.render(messages, generation=False), messages[-1]["content"]
        return text[: text.rindex(answer) + len(answer)] if answer in text else text


def _no_clock(pattern: str) -> str:
    raise TemplateError(f"It writes today's date ({pattern}), which a fixed template cannot.")
