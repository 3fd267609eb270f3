"""Judges: language models that score answers, each behind an endpoint or on this disk, each answer asked of each once.

What a judge sees is made from rubric, task and answer alone (verdicts.py). A judge that dies keeps the verdicts it gave;
what it did not say is unscored.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from tasks.clients.endpoint_settings import ChatModelSettings
from tasks.clients.local_model import local_identity
from tasks.clients.openai_endpoint import ServerError
from tasks.clients.requests import Answer, Ask, Source
from tasks.clients.response_log import AnswerLog, answer_all
from tasks.core.artifact import hash_folder
from tasks.core.child import Beat, silent
from tasks.core.errors import ArtifactError, ConfigError, TransientError

API_KEY = "PLUMBLINE_JUDGE_API_KEY"
"""The environment variable with a judge's key, unless its settings name another."""
PLAIN = "plain"
FORMS = ("json_schema", "json_object", PLAIN)
"""How a server can be told of a schema, in the order in which they are tried."""


Family = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=40), AfterValidator(str.casefold)
]
"""Whose model it is, in one spelling: "Qwen" and "qwen " are one opinion, not two."""


class JudgeSettings(ChatModelSettings):
    """One judge: who it is, where it answers, and how patiently requests are sent."""

    place: ClassVar[str] = "judge.judges"

    name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]{0,39}$")
    """Name of its column."""
    family: Family
    """Whose model it is ("qwen", "gpt", "claude"): judges of one family count as one opinion, and one that ranks its own
    family first is reported."""
    api_key_env: str = Field(default=API_KEY, pattern=r"^[A-Z][A-Z0-9_]{0,63}$")
    """Name of the environment variable that holds the key; never the key itself."""
    structured: Literal["auto", "json_schema", "json_object", "plain"] = "auto"
    """How the server is told to hold the verdict to a JSON schema: the form of OpenAI and vLLM, that of llama.cpp, or not at
    all. auto: the first of them that it takes. A local model is asked plainly."""
    reasons: bool = True
    """Whether it says why, in a sentence, before it scores: better verdicts, and several times the tokens."""
    thinking: bool | None = None
    """Turn thinking on or off by the chat template's own switch (enable_thinking); left to the template when left out. Off
    for small local models, which would think past max_tokens."""
    max_tokens: int = Field(default=1024, ge=16)
    """Room for one verdict, a reasoning model's thoughts included."""

    @model_validator(mode="after")
    def _local_is_plain(self) -> JudgeSettings:
        if self.local_model is not None and self.structured not in ("auto", PLAIN):
            raise ValueError("local_model is not held to a schema: leave structured out")
        return self


@dataclass(frozen=True)
class Identity:
    """Which model a judge, or a model under test, is: by content where there are files, else by address and name."""

    where: str
    """Base URL, or the digest of a local model's files."""
    model: str = ""
    """Name at the endpoint; empty for files."""
    files: dict[str, str] = field(default_factory=dict, compare=False, repr=False)
    """Relative path -> sha256, for a folder."""

    @property
    def digest(self) -> str:
        """What a board says of it: it tells two models apart, and no address."""
        return self.where if not self.model else hashlib.sha256(f"{self.where} {self.model}".encode()).hexdigest()


def identity_of(judge: JudgeSettings) -> Identity:
    """The model that a judge asks. Reads every byte of a local one, once."""
    if judge.base_url:
        return Identity(normal_url(judge.base_url), judge.served_as)
    path = Path(str(judge.local_model))
    return Identity(local_identity(path), files=hash_folder(path) if path.is_dir() else {})


def normal_url(url: str) -> str:
    """One spelling for one endpoint."""
    url = url.rstrip("/").lower()
    return url.replace("://localhost", "://127.0.0.1").replace("://[::1]", "://127.0.0.1")


@dataclass
class Item:
    """One answer to be judged. Equal answers to one prompt are one item, whoever gave them."""

    prompt: int
    """Number of the prompt."""
    task: str
    answer: str


@dataclass
class Heard:
    """What came of asking one judge."""

    answers: list[Answer | None]
    """In the order of the questions; None where none came."""
    asked: list[str]
    """Digest of each question."""
    structured: str
    """How the judge was held to a schema: json_schema, json_object, or plain."""
    died: str = ""
    """Why it stopped answering; empty when it did not."""
    refused: bool = False
    """It stopped for a reason that asking again does not change: a wrong key or name, a file that cannot be loaded."""


Question = tuple[tuple[dict[str, str], ...], dict]
"""Messages, and the JSON schema of what may be said."""


def shuffled(items: Sequence[Item], seed: int, judge: str) -> list[int]:
    """The order in which a judge sees the items: seeded, another one for each judge, blind to who answered."""
    order = list(range(len(items)))
    random.Random(f"{seed} {judge}").shuffle(order)
    return order


def ask_judge(
    judge: JudgeSettings, questions: Sequence[Question], log: AnswerLog, where: str, beat: Beat = silent
) -> Heard:
    """Every question once; answers that the log has are not asked for again.

    A judge that refuses, falls silent or cannot be loaded is told of in `died`, and loses nothing that it said.
    """
    structured, died, refused = PLAIN, "", False
    asks = [_ask(judge, where, one, structured) for one in questions]
    try:
        with judge.open_source() as source:
            structured = _form_taken(judge, questions, log, where, source, beat) if asks else PLAIN
            asks = [_ask(judge, where, one, structured) for one in questions]
            answer_all(asks, log, source, beat)
    except (TransientError, ConfigError, ArtifactError) as error:
        died = str(error).replace((judge.base_url or "").rstrip("/") or "\0", judge.name)  # a board names no address
        refused = not isinstance(error, TransientError)
    return Heard([log.get(ask) for ask in asks], [ask.digest for ask in asks], structured, died, refused)


def ask_digest(judge: JudgeSettings, where: str, question: Question, structured: str) -> str:
    """The digest of a question, for whoever checks what was asked."""
    return _ask(judge, where, question, structured).digest


def _ask(judge: JudgeSettings, where: str, question: Question, structured: str) -> Ask:
    messages, schema = question
    forms = {
        "json_schema": {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": schema}},
        "json_object": {"type": "json_object", "schema": schema},
        PLAIN: None,
    }
    return Ask(
        where,
        judge.served_as,
        messages,
        judge.max_tokens,
        judge.sent_temperature,
        thinking=judge.thinking,
        response_format=forms[structured],
    )


def _form_taken(
    judge: JudgeSettings, questions: Sequence[Question], log: AnswerLog, where: str, source: Source, beat: Beat
) -> str:
    """The first form of a schema that the server takes, tried on the shortest question; what the log knows is not tried again.

    A server that is silent or busy is not asked for another form: each would wait through every try anew. A question that
    found no room in its context says nothing of the form, and the shortest one finds room if any does.

    Raises:
        ConfigError, TransientError: the server refuses the question in every form, or gives no answer.
    """
    if judge.local_model:
        return PLAIN
    if judge.structured != "auto":
        return judge.structured
    for form in FORMS:
        known = [log.get(_ask(judge, where, one, form)) for one in questions]
        if any(one is not None and not one.no_room for one in known):
            return form
    shortest = min(questions, key=lambda one: sum(len(message["content"]) for message in one[0]))
    for form in FORMS:
        try:
            answer_all([_ask(judge, where, shortest, form)], log, source, beat)
        except (ConfigError, ServerError):  # llama_cpp.server answers 500, not 400, to a form that it does not know
            if form == PLAIN:
                raise
        else:
            return form
    raise AssertionError("the plain form is taken or raises")


def twice_on_the_panel(judges: Sequence[JudgeSettings], identities: Sequence[Identity]) -> list[str]:
    """Names that stand twice, and models that sit twice: one opinion must not count as two."""
    names = [one.name for one in judges]
    found = [f"the name {name} stands there twice" for name in dict.fromkeys(names) if names.count(name) > 1]
    first: dict[Identity, str] = {}
    for name, identity in zip(names, identities, strict=True):
        if identity in first and first[identity] != name:
            found.append(f"{first[identity]} and {name} are the same model")
        first.setdefault(identity, name)
    return found
