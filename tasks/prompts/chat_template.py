"""Chat templates, rendered as transformers renders them, in a sandbox: a template is data from a stranger."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from data_contracts.errors import ArtifactError


def template_of(folder: Path) -> str | None:
    """The chat template of a model folder; None when it has none."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text("utf-8")
    template = json.loads((folder / "tokenizer_config.json").read_text("utf-8")).get("chat_template")
    if isinstance(template, list):  # several by name, as older tokenizers have them
        template = next((one["template"] for one in template if one.get("name") == "default"), None)
    return template


def render_template(template: str, **values: Any) -> str:
    """A chat template with its values filled in.

    Raises:
        ArtifactError: the template is not valid, refuses the conversation, or reaches for what the sandbox forbids.
    """
    from jinja2 import TemplateError

    try:
        return _environment_of_now().from_string(template).render(**values)
    except TemplateError as error:
        raise ArtifactError(
            f"chat template: it cannot be rendered: {error}. Correct the template of the tokenizer."
        ) from error


def thinking_switch(thinking: bool | None) -> dict[str, bool]:
    """What a template is given beside the conversation to turn thinking on or off; None leaves it to the template.

    `enable_thinking` is the name that Qwen3's template reads and that vLLM, SGLang and llama.cpp's server pass on; a
    template that does not know it renders the same either way, without a word (see askable.py, which refuses that).
    """
    return {} if thinking is None else {"enable_thinking": thinking}


@cache
def _environment_of_now() -> Any:
    return chat_environment(lambda form: datetime.now().strftime(form))


def chat_environment(strftime_now: Callable[[str], str]) -> Any:
    """Sandboxed jinja with the filters, globals and blocks that chat templates use; the caller says what time it is."""
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class GenerationBlock(Extension):
        """`{% generation %}` marks the trained span in training templates; it writes nothing of its own."""

        tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

        def parse(self, parser: Any) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    def refuse(message: str) -> None:
        raise TemplateError(message)

    def to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = strftime_now
    return environment
