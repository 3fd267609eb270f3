"""What a chat template writes around each message, found by rendering it, and proven against it.

A jinja template is a program; Ollama's templates cannot run it. So it is rendered with marked messages, the text around
the marks is cut out (`ChatPieces`), and the pieces are compared with the template itself, byte for byte, on chats of
the recipe. A template whose bytes they cannot give back is refused: a model answers a wrong prompt fluently, and badly.
"""

from __future__ import annotations

import json
from itertools import pairwise, takewhile

from jinja2 import TemplateError
from pydantic import BaseModel, ConfigDict, Field

from data_contracts.errors import ArtifactError
from data_contracts.prompting.prompt import PromptContract
from tasks.release.jinja_chat import Chat, ChatTemplate
from tasks.release.special_tokens import SpecialTokens

_INEXPRESSIBLE = "modelfile: Ollama's template language cannot express this chat template"
_WAYS_OUT = "Simplify the template, or serve the GGUF with llama.cpp, which runs the jinja itself."

_TEXTS = (
    "Zinsentscheid: die EZB hält still – Überraschung 🚀",
    'Line one\n\nLine two\twith {{ .Content }}, {% raw %}, {braces}, "quotes", `ticks`, 100% and \\n',
    "北京：利率不变。 مرحبا 👩‍👩‍👧 e\u0301\u00a0x",
)


class ChatPieces(BaseModel):
    """The literal text around the messages of a chat, and what it was found not to reproduce."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    opening: str
    """Text before the first turn."""
    prefixes: dict[str, dict[str, str]]
    """Role -> role of the turn before ("" for the first turn) -> text before the message."""
    suffixes: dict[str, str]
    """Role -> text after the message."""
    generation_prompt: str
    """Text that makes the model answer."""
    limits: list[str] = Field(default_factory=list)
    """Kinds of chat for which Ollama's prompt was found to differ from the tokenizer's."""

    def prefix(self, role: str, previous: str) -> str:
        """Text before a message; a neighbour that was never probed gets the first text known for the role."""
        known = self.prefixes[role]
        return known.get(previous, next(iter(known.values())))

    def render(self, messages: Chat) -> str:
        """The prompt as Ollama makes it: neighbours of one role are joined, a last answer is left open."""
        joined: list[dict[str, str]] = []
        for message in messages:
            if joined and joined[-1]["role"] == message["role"]:
                joined[-1]["content"] += "\n\n" + message["content"]
            else:
                joined.append(dict(message))
        text, previous = self.opening, ""
        for message in joined:
            role, last = message["role"], message is joined[-1]
            text += self.prefix(role, previous) + message["content"]
            if not (last and role == "assistant"):
                text += self.suffixes[role]
            previous = role
        return text + (self.generation_prompt if previous != "assistant" else "")


def derive_chat(source: str, special: SpecialTokens, prompt: PromptContract) -> ChatPieces:
    """The proven pieces of a chat template.

    Raises:
        ArtifactError: the template refuses, drops or reorders a message, depends on the date, or writes text that fixed
            pieces cannot reproduce on the chats of this recipe.
    """
    template = ChatTemplate(source, special)
    chats = _required_chats(prompt)
    try:
        pieces = _cut(template)
        differing = [kind for kind, chat in chats.items() if pieces.render(chat) != template.truth(chat)]
    except TemplateError as problem:
        raise ArtifactError(
            f"modelfile: the chat template refuses a chat that this recipe needs. {str(problem).rstrip('.')}. "
            "Give the model a chat template that accepts system, user and assistant messages and no more."
        ) from problem
    if differing:
        raise ArtifactError(
            f"{_INEXPRESSIBLE}. It differs on {len(differing)} of {len(chats)} chats: "
            f"{', '.join(differing)}. {_WAYS_OUT}"
        )
    return pieces.model_copy(update={"limits": _limits(template, pieces, prompt)})


def _cut(template: ChatTemplate) -> ChatPieces:
    joints: dict[tuple[str, str], str] = {}
    for roles in ("su", "u", "suau", "uau", "uauau"):
        _add_joints(joints, template, roles)
    after_user, after_answer = (_literals(template, roles, generation=False)[-1] for roles in ("u", "ua"))
    user_end = _common_start([after_user, joints["user", "assistant"], joints["user", "end"]])
    answer_end = _common_start([after_answer, joints["assistant", "user"]])
    user_start = joints["assistant", "user"][len(answer_end) :]
    system_end, user_after_system = _split_before(joints["system", "user"], user_start)
    opening, first_user = _split_before(joints["", "user"], user_start, otherwise_left=False)
    if not joints["", "system"].startswith(opening):  # such as a default system text: it belongs to the first turn
        opening, first_user = "", joints["", "user"]
    return ChatPieces(
        opening=opening,
        prefixes={
            "system": {"": joints["", "system"][len(opening) :]},
            "user": {"": first_user, "system": user_after_system, "assistant": user_start},
            "assistant": {"user": joints["user", "assistant"][len(user_end) :]},
        },
        suffixes={"system": system_end, "user": user_end, "assistant": answer_end},
        generation_prompt=joints["user", "end"][len(user_end) :],
    )


def _split_before(text: str, ending: str, otherwise_left: bool = True) -> tuple[str, str]:
    """(what comes before `ending`, `ending`), or all of the text on one side when it does not end so."""
    if text.endswith(ending):
        return text[: len(text) - len(ending)], ending
    return (text, "") if otherwise_left else ("", text)


_ROLES = {"s": "system", "u": "user", "a": "assistant"}


def _common_start(texts: list[str]) -> str:
    """The longest text with which all of them begin."""
    same = takewhile(lambda each: len(set(each)) == 1, zip(*texts, strict=False))
    return "".join(each[0] for each in same)


def _add_joints(joints: dict[tuple[str, str], str], template: ChatTemplate, roles: str) -> None:
    """Note the text between each pair of neighbours; a pair that is written in two ways cannot be a fixed piece."""
    names = ["", *(_ROLES[one] for one in roles), "end"]
    for pair, text in zip(pairwise(names), _literals(template, roles), strict=True):
        if joints.setdefault(pair, text) != text:
            raise ArtifactError(
                f"{_INEXPRESSIBLE}. Between {pair[0] or 'the start'} and {pair[1]} it writes {joints[pair]!r} in one "
                f"chat and {text!r} in another. {_WAYS_OUT}"
            )


def _literals(template: ChatTemplate, roles: str, *, generation: bool = True) -> list[str]:
    """The text before, between and after the messages: one piece more than there are messages."""
    marks = [f"Qx{number}mark{number}xQ" for number in range(len(roles))]
    rest = template.render(
        [{"role": _ROLES[one], "content": mark} for one, mark in zip(roles, marks, strict=True)], generation=generation
    )
    found = []
    for one, mark in zip(roles, marks, strict=True):
        if rest.count(mark) != 1:
            raise ArtifactError(
                f"{_INEXPRESSIBLE}. In a chat of {', '.join(_ROLES[each] for each in roles)} it drops, repeats or "
                f"moves the {_ROLES[one]} message. {_WAYS_OUT}"
            )
        before, _, rest = rest.partition(mark)
        found.append(before)
    return [*found, rest]


def _required_chats(prompt: PromptContract) -> dict[str, Chat]:
    """Chats that must come out byte for byte: the recipe's own prompt, without a system message, and with a history."""
    chats: dict[str, Chat] = {}
    filled = [(text, chat) for text in _TEXTS for chat in prompt.filled(text)]
    for number, (text, (system, user)) in enumerate(filled, start=1):
        again = {"role": "user", "content": text}
        answer = {"role": "assistant", "content": f'{{"text": {json.dumps(text, ensure_ascii=False)}}}'}
        chats |= {
            f"system and user ({number})": [system, user],
            f"user alone ({number})": [user],
            f"with a history ({number})": [system, user, answer, again],
            f"longer history ({number})": [user, answer, again, answer, user],
        }
    return chats


def _limits(template: ChatTemplate, pieces: ChatPieces, prompt: PromptContract) -> list[str]:
    """Kinds of chat that the recipe does not need and that come out differently, found by trying each."""
    system, user = prompt.filled("x")[0]
    thought = {"role": "assistant", "content": "<think>\nBecause.\n</think>\n\n{}"}
    plain = {"role": "assistant", "content": "Answer begun"}
    chats = {
        "white space at the ends of a message": [system, {"role": "user", "content": " \n x \n "}],
        "earlier answers that hold a <think> block": [system, user, thought, user],
        "a system message after the first turn": [user, plain, system, user],
        "two messages of one role in a row": [system, user, user],
        "a last answer that the model is to continue": [system, user, plain],
    }
    return [kind for kind, chat in chats.items() if not _same(template, pieces, chat)]


def _same(template: ChatTemplate, pieces: ChatPieces, chat: Chat) -> bool:
    try:
        return pieces.render(chat) == template.truth(chat)
    except TemplateError:  # the template refuses such a chat, Ollama would send it
        return False
