"""The prompt contract: one file of words per recipe renders every training row, evaluation prompt and served request.

A small fine-tune learns prompt shapes, not instructions: rewording a prompt is a breaking change (seed story "proofkit").
So the words live in `data_contracts/<recipe>/prompt.md`, and their digest travels in every artifact. What is known only at
run time may enter as further `Label: value` lines after the user's words (context.py beside this file), and in no other way.
"""

from __future__ import annotations

import hashlib
import json
import string
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Literal

from pydantic import BaseModel, ConfigDict

from data_contracts.errors import ConfigError, ContractError
from data_contracts.paths import CONTRACTS_FOLDER
from data_contracts.prompting.context import LINE, Line, as_text, own_labels, problems, told

PromptSet = Literal["trained", "rich"]
"""trained: the words that small models learn, frozen. rich: those for large models that follow instructions; both ask for the
same answer, so one row serves both (seed story "proofkit": the app carries two prompt sets)."""
_FILES = {"trained": "prompt.md", "rich": "prompt_rich.md"}


class PromptContract(BaseModel):
    """The words around a row. `words_digest` changes when any byte of them, or of the output schema, does."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str
    system: str
    users: dict[str, str]
    """Task -> user template. A recipe with one task names it "" and its rows need no column `task`."""
    output_schema: str
    """JSON schema of the answer, and of the answer to a malformed input where the recipe has one; canonical."""
    prompt_set: PromptSet = "trained"
    context: str | None = None
    """How a further line is written, `{label}: {value}`; None where the contract takes none."""

    @property
    def words_digest(self) -> str:
        """The prompt words: sha256 over system text, user templates, output schema, and the form of further lines where taken.

        A contract that takes lines is another one than one that does not: a model whose rows could hold none has never
        read one. One that takes none has the digest it had before lines were thought of: nothing is trained anew for it.
        """
        return hashlib.sha256(self.model_dump_json(exclude_none=True).encode()).hexdigest()

    @property
    def own_labels(self) -> list[str]:
        """The labels of the prompt's own lines, which no further line may have."""
        return list(dict.fromkeys(label for user in self.users.values() for label in own_labels(user)))

    def filled(self, text: str) -> list[list[dict[str, str]]]:
        """The chat of each task, with `text` in every field: what a template must be able to carry."""
        return [self.messages(dict.fromkeys(_fields(user), text) | {"task": task}) for task, user in self.users.items()]

    def shown(self, row: Mapping[str, object]) -> dict[str, object]:
        """The columns of a row that its prompt shows, and its task: all that a client needs to send.

        Raises:
            ContractError: the row's task has no template.
        """
        names = _fields(self.users[self._task_of(row)])
        return {name: row[name] for name in ("task", *names, "context") if row.get(name) is not None}

    def messages(self, row: Mapping[str, object], context: Sequence[Line] = ()) -> list[dict[str, str]]:
        """The chat before the answer: a system and a user message.

        The lines of the row's column `context`, then the pairs (label, value) given here, follow the user's words in their
        order. Without any the bytes are those of a row that has no such column.

        Raises:
            ContractError: the row's task has no template; a column that the prompt shows is missing, or is not text; a
                further line may not enter, all of them at once.
        """
        user = self.users[self._task_of(row)]
        names = _fields(user)
        wrong = [name for name in names if not isinstance(row.get(name), str)]
        if wrong:
            raise ContractError(
                f"prompt: {len(wrong)} of {len(names)} fields of {self.recipe}/{_FILES[self.prompt_set]} are not text in the "
                f"row: {', '.join(wrong)}. Add them to the row or take them out of the prompt."
            )
        # str.format is not used: a brace in a headline, or an attribute lookup in a template, must stay plain text.
        text = "".join(
            literal + (str(row[name]) if name else "") for literal, name, _, _ in string.Formatter().parse(user)
        )
        text = "\n".join([text, *self._further(row.get("context"), context)])
        return [{"role": "system", "content": self.system}, {"role": "user", "content": text}]

    def _further(self, column: object, given: Sequence[Line]) -> list[str]:
        """The lines after the user's words."""
        where = f"{self.recipe}/{_FILES[self.prompt_set]}"
        if not isinstance(column, str | None):
            raise ContractError(
                f"prompt: column context of the row is {type(column).__name__}, not text. "
                f"Expected one text, with a line '{LINE}' for each fact. Join the lines with line breaks."
            )
        own = () if column is None else column.split("\n")
        lines: list[Line] = [*own, *given]
        if lines and self.context is None:
            raise ContractError(
                f"prompt: {len(lines)} context lines were given, and {where} takes none: no row that the model was trained "
                f"on could hold one. Leave them out; or add a section '# context' with the line '{LINE}' and train anew."
            )
        if wrong := problems(lines, self.own_labels):
            raise ContractError(
                f"prompt: {len(wrong)} of {len(lines)} context lines may not enter. Expected lines '{LINE}' whose labels are "
                f"not those of {where} ({', '.join(self.own_labels) or 'it has none'}). Correct them:\n{told(lines, wrong)}"
            )
        return [str(as_text(line)) for line in lines]

    def _task_of(self, row: Mapping[str, object]) -> str:
        task = "" if "" in self.users else str(row.get("task"))
        if task not in self.users:
            raise ContractError(
                f"prompt: {self.recipe}/{_FILES[self.prompt_set]} has no words for the task {task!r} of a row. "
                f"Known: {', '.join(self.users)}. Correct the row, or add a section '# user: {task}' and train on it."
            )
        return task


def _fields(user: str) -> list[str]:
    return [name for _, name, _, _ in string.Formatter().parse(user) if name]


def prompt_problems(prompt: PromptContract, rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Fields of the prompt that no row of their task holds as text; tasks of rows that the prompt has no words for."""
    where = f"data_contracts/{prompt.recipe}/{_FILES[prompt.prompt_set]}"
    problems = []
    for task, user in prompt.users.items():
        mine = [row for row in rows if task in ("", row.get("task"))]
        columns = dict.fromkeys(name for row in mine for name, value in row.items() if isinstance(value, str))
        section = f"'# user{task and ': ' + task}'"
        problems += [
            f"{where} names the field {{{name}}} in section {section}, which none of {len(mine):,} rows holds as text. Found "
            f"{', '.join(columns)}. Correct the field, or add the column to the rows."
            for name in dict.fromkeys(_fields(user))
            if mine and name not in columns
        ]
    tasks = dict.fromkeys(str(row.get("task")) for row in rows)
    if "" not in prompt.users and (missing := [task for task in tasks if task not in prompt.users]):
        problems.append(
            f"{where} has no words for the task(s) {', '.join(missing)} of the rows. Known: {', '.join(prompt.users)}. "
            "Correct the rows, or add a section '# user: <task>'."
        )
    return problems


@lru_cache
def load_prompt(recipe: str, prompt_set: PromptSet = "trained") -> PromptContract:
    """Read the words of a set (`data_contracts/<recipe>/prompt.md`) and the schema of its `output.py`.

    Raises:
        ConfigError: the file, or one of its sections, is missing; there is a section that nothing reads; the section on
            further lines asks for another form than the one there is.
    """
    path = CONTRACTS_FOLDER / recipe / _FILES[prompt_set]
    if not path.is_file():
        raise ConfigError(
            f"prompt: data_contracts/{recipe}/{path.name} is missing. Every recipe needs one; copy another recipe's."
        )
    sections = _sections(path.read_text("utf-8"))
    system, form = sections.pop("system", ""), sections.pop("context", None)
    users = {name.removeprefix("user").lstrip(": "): text for name, text in sections.items() if _is_user(name)}
    missing = [name for name, found in (("system", system), ("user", users and all(users.values()))) if not found]
    if missing or ("" in users and len(users) > 1):
        raise ConfigError(
            f"prompt: {path.name} of {recipe} lacks the section(s) {', '.join(missing) or 'of one kind'}. "
            f"Found {sorted(sections)}. Start it with a line '# system', and then either one line '# user' or one line "
            "'# user: <task>' for each task."
        )
    where = f"data_contracts/{recipe}/{path.name}"
    if unread := [name for name in sections if not _is_user(name)]:
        raise ConfigError(
            f"prompt: nothing reads the section(s) {', '.join(unread)} of {where}. Known: system, user, user: <task>, "
            "context. Correct the name, or take the section out."
        )
    if form not in (None, LINE):
        raise ConfigError(
            f"prompt: section '# context' of {where} reads {form[:60]!r}. Further lines have one form: write the one line "
            f"'{LINE}', or take the section out where the prompt takes no lines."
        )
    if shown := [f"user{task and ': ' + task}" for task, text in users.items() if "context" in _fields(text)]:
        raise ConfigError(
            f"prompt: section(s) {', '.join(shown)} of {where} show a field {{context}}. The column of this name holds further "
            "lines, which follow the words by themselves. Name the field otherwise."
        )
    schema = _output_schema(recipe)
    return PromptContract(
        recipe=recipe, system=system, users=users, output_schema=schema, prompt_set=prompt_set, context=form
    )


def _is_user(section: str) -> bool:
    return section == "user" or section.startswith("user:")


def output_model(recipe: str) -> type[BaseModel]:
    """The pydantic model that an answer of this recipe must fit."""
    from importlib import import_module

    return import_module(f"data_contracts.{recipe}.output").OUTPUT


def error_model(recipe: str) -> type[BaseModel] | None:
    """The pydantic model of the answer to a malformed input; None for a recipe that accepts no such rows."""
    from importlib import import_module

    return getattr(import_module(f"data_contracts.{recipe}.output"), "ERROR_OUTPUT", None)


def _output_schema(recipe: str) -> str:
    models = (output_model(recipe), error_model(recipe))
    return json.dumps([one.model_json_schema() for one in models if one], sort_keys=True)


def _sections(text: str) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in text.splitlines():
        if line.startswith("# "):
            current = found.setdefault(line[2:].strip(), [])
        else:
            current.append(line)
    return {name: "\n".join(lines).strip() for name, lines in found.items()}
