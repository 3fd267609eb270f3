"""Rows rendered with a model's own chat template: the one place where a row becomes text and token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from data_contracts.errors import ArtifactError
from data_contracts.prompting.prompt import PromptContract
from tasks.formats.token_rows import TokenRow
from tasks.prompts.chat_template import thinking_switch
from tasks.recipes.interface import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def prompt_text(
    tokenizer: PreTrainedTokenizerBase,
    contract: PromptContract,
    row: Mapping[str, object],
    thinking: bool | None = None,
) -> str:
    """The chat of a row up to where the answer begins; see messages_text."""
    return messages_text(tokenizer, contract.messages(row), thinking)


def messages_text(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]], thinking: bool | None = None
) -> str:
    """A chat up to where the answer begins; `thinking` as in chat_template.thinking_switch.

    Raises:
        ArtifactError: the tokenizer has no chat template, or its template refuses these messages.
    """
    from jinja2 import TemplateError

    switch = thinking_switch(thinking)
    try:
        return tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True, **switch)
    except (TemplateError, ValueError) as error:
        roles = ", ".join(one["role"] for one in messages)
        raise ArtifactError(
            f"chat template: it cannot be rendered for messages of {roles}: {' '.join(str(error).split())[:300]}. Take a "
            "model whose template takes them, or correct the template of the tokenizer."
        ) from error


_CHANNEL = "<|channel|>"


def answer_header(tokenizer: PreTrainedTokenizerBase) -> str:
    """What a template that speaks in channels (harmony, of gpt-oss) writes between the prompt and an answer, "" elsewhere.

    Such a model opens each answer with its channel. Rows without it would teach a form that no parser of the format reads.

    Raises:
        ArtifactError: the template renders an answer in some other place than after the prompt.
    """
    if _CHANNEL not in str(tokenizer.chat_template):
        return ""
    asked, answer = [{"role": "user", "content": "?"}], {"role": "assistant", "content": "plumbline"}
    prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template([*asked, answer], tokenize=False)
    header, found, _ = whole.removeprefix(prompt).partition(answer["content"])
    if not found or not whole.startswith(prompt):
        raise ArtifactError(
            "chat: the template does not render an answer after its prompt, so no training row can be made with it. "
            "Mend chat_template.jinja of the base."
        )
    return header


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of rendered text: the template has written every special token, so none is added."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def token_row(
    tokenizer: PreTrainedTokenizerBase, contract: PromptContract, recipe: Recipe, row: Mapping[str, object]
) -> TokenRow:
    """Prompt + completion + end token. The prompt is tokenised alone, as it will be when the model is asked."""
    prompt = text_ids(tokenizer, prompt_text(tokenizer, contract, row))
    answer = text_ids(tokenizer, answer_header(tokenizer) + recipe.completion(row))
    return [*prompt, *answer, tokenizer.eos_token_id], len(prompt)


def stop_ids(tokenizer: PreTrainedTokenizerBase, generation_config: Mapping[str, object]) -> list[int]:
    """Every id that ends an answer: the tokenizer's end token and those of generation_config.json."""
    given: Any = generation_config.get("eos_token_id")
    named = given if isinstance(given, list) else [given]
    return sorted({tokenizer.eos_token_id, *(int(i) for i in named if i is not None)})
