"""`POST /v1/rows`: a served model asked with a row's fields, so that the words of the request are those it was trained on.

A chat of the client's own words goes to /v1/chat/completions as ever; here the prompt contract writes the chat, as it did
for every training row, and the recipe reads the answer back.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from data_contracts.errors import ContractError
from data_contracts.prompting.prompt import PromptContract
from tasks.recipes.interface import Recipe

PATH = "/v1/rows"


class RowRequest(BaseModel):
    """What a client sends."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    row: dict[str, Any]
    """The fields that the prompt shows, by name; further ones are not read."""
    context: list[tuple[str, str]] = []
    """Further facts as (label, value), where the contract takes them."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Room for the answer; to the end of the context when left out."""


def add_row_route(app: Any, prompt: PromptContract, recipe: Recipe) -> None:
    """Let `app`, which answers chats, answer rows too: {messages, text, answer, problem, finish_reason}.

    `answer` is the object that the text holds, null where it holds none; `problem` says why it cannot be read. A row that
    the contract cannot render gets status 422 with the contract's own words.
    """
    from fastapi.responses import JSONResponse
    from httpx import ASGITransport, AsyncClient

    async def answer_row(request: RowRequest) -> JSONResponse:
        try:
            messages = prompt.messages(request.row, request.context)
        except ContractError as error:
            return JSONResponse({"detail": str(error)}, status_code=422)
        chat = {"messages": messages} | ({"max_tokens": request.max_tokens} if request.max_tokens else {})
        async with AsyncClient(transport=ASGITransport(app), base_url="http://served", timeout=None) as client:
            got = await client.post("/v1/chat/completions", json=chat)
        if got.status_code != 200:
            return JSONResponse(got.json(), status_code=got.status_code)
        choice = got.json()["choices"][0]
        text = choice["message"]["content"] or ""
        parsed = recipe.parse_output(text, request.row)
        found = {"messages": messages, "text": text, "answer": parsed.answer, "problem": parsed.problem}
        return JSONResponse({**found, "finish_reason": choice["finish_reason"]})

    # FastAPI reads annotations from the module's names, and RowRequest is one of them
    app.post(PATH)(answer_row)
