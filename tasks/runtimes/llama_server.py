"""llama.cpp's OpenAI-compatible server on one GGUF, made to answer exactly as the file does when opened directly.

llama_cpp.server alone would not: it samples (temperature 0.8, repeat penalty 1.1), guesses the chat format,
cuts the context to 2,048 tokens, and lets environment variables such as LORA_PATH or CONFIG_FILE change the model.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from data_contracts.errors import ArtifactError
from tasks.runtimes.llama_binding import complaints, forget_complaints, llama_api

_TEMPLATE = "tokenizer.chat_template"


def make_app(path: Path, alias: str, context_tokens: int = 0) -> Any:
    """The server as an ASGI app: template, stops and context from the GGUF, greedy unless the client asks otherwise.

    `context_tokens` 0 takes the context that the file was made for.

    Raises:
        ArtifactError: the file carries no chat template, or llama.cpp cannot load it.
    """
    llama_api()  # before the server: keeps llama.cpp's log for our messages
    _greedy_requests()
    os.environ.pop("CONFIG_FILE", None)
    from llama_cpp.server import app as server
    from llama_cpp.server.settings import ModelSettings, ServerSettings

    # model_construct: no value comes from the environment
    model = ModelSettings.model_construct(
        model=str(path),
        model_alias=alias,
        n_ctx=context_tokens,
        chat_format="chat_template.default",  # the GGUF's own
        logits_all=False,  # one row of logits, not (context, vocab) float32
        verbose=False,
    )
    settings = ServerSettings.model_construct(interrupt_requests=False)  # else a second client ends the first's stream
    forget_complaints()
    try:
        made = server.create_app(server_settings=settings, model_settings=[model])
    except (ValueError, RuntimeError) as error:
        raise ArtifactError(
            f"serve: {path.name} cannot be served: {error}. llama.cpp says: {complaints()}. "
            "Export it again, or give a smaller context when memory is short."
        ) from error
    loaded = server._llama_proxy()
    if _TEMPLATE not in loaded.metadata:
        raise ArtifactError(f"serve: {path.name} carries no chat template. Export a model whose tokenizer has one.")
    # Any page open in a browser could otherwise read the answers.
    made.user_middleware = [one for one in made.user_middleware if one.cls.__name__ != "CORSMiddleware"]
    return made


def _greedy_requests() -> None:
    """Change the defaults of a request before the server reads them: what evaluation did is what a client gets."""
    from llama_cpp.server import types
    from pydantic import create_model

    greedy: dict[str, Any] = {"temperature": (float, 0.0), "repeat_penalty": (float, 1.0)}
    for name in ("CreateChatCompletionRequest", "CreateCompletionRequest"):
        asked = getattr(types, name)
        if asked.model_fields["repeat_penalty"].default != 1.0:
            setattr(types, name, create_model(name, __base__=asked, **greedy))
