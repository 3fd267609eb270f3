"""Words in a file: one user message for a recipe of one task, one for each task else, and what is wrong with such a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_contracts.errors import ConfigError, ContractError
from data_contracts.prompting import prompt
from data_contracts.prompting.prompt import load_prompt

TASKS = "# system\nBe plain.\n# user: draft\nDraft {section} for {role}.\n# user: post\nPost about {role}.\n"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Put words into the folder of a recipe "letters", and read them."""
    monkeypatch.setattr(prompt, "CONTRACTS_FOLDER", tmp_path)
    monkeypatch.setattr(prompt, "_output_schema", lambda recipe: "{}")

    def written(text: str, prompt_set: str = "trained"):
        path: Path = tmp_path / "letters" / {"trained": "prompt.md", "rich": "prompt_rich.md"}[prompt_set]
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")
        load_prompt.cache_clear()
        return load_prompt("letters", prompt_set)

    yield written
    load_prompt.cache_clear()


def test_a_row_gets_the_words_of_its_task(write):
    words = write(TASKS)
    draft = {"task": "draft", "section": "Risks", "role": "nurse"}
    assert words.messages(draft)[1]["content"] == "Draft Risks for nurse."
    assert words.messages({**draft, "task": "post"})[1]["content"] == "Post about nurse."
    assert [chat[1]["content"] for chat in words.filled("{x}")] == ["Draft {x} for {x}.", "Post about {x}."]


def test_a_task_without_words_is_refused_with_those_there_are(write):
    with pytest.raises(ContractError, match="no words for the task 'sonnet' of a row. Known: draft, post"):
        write(TASKS).messages({"task": "sonnet"})
    with pytest.raises(
        ContractError, match="2 of 2 fields of letters/prompt.md are not text in the row: section, role"
    ):
        write(TASKS).messages({"task": "draft", "section": None})


def test_the_two_sets_are_two_contracts(write):
    trained, rich = write(TASKS), write(TASKS, "rich")
    assert trained.users == rich.users and trained.words_digest != rich.words_digest


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("# user\nHello {name}\n", r"lacks the section\(s\) system"),
        ("# system\nBe plain.\n", r"lacks the section\(s\) user"),
        ("# system\nBe plain.\n# user: draft\n\n", r"lacks the section\(s\) user"),
        ("# system\nBe plain.\n# user\nHello\n# user: draft\nDraft\n", "lacks .* of one kind"),
    ],
)
def test_a_file_without_its_sections_says_which(write, text, found):
    with pytest.raises(ConfigError, match=found):
        write(text)


def test_a_section_opens_the_prompt_for_lines_of_one_form(write):
    assert write(TASKS).context is None
    words = write(TASKS + "# context\n{label}: {value}\n")
    row = {"task": "post", "role": "nurse", "context": "Tone: plain"}
    assert words.messages(row)[1]["content"] == "Post about nurse.\nTone: plain"
    assert words.own_labels == []
    with pytest.raises(
        ConfigError, match=r"section '# context' of data_contracts/letters/prompt.md reads '- \{label\}'"
    ):
        write(TASKS + "# context\n- {label}\n")
    with pytest.raises(ConfigError, match="''. Further lines have one form"):
        write(TASKS + "# context\n")


def test_the_labels_of_every_task_are_taken(write):
    words = write(
        "# system\nS\n# user: a\nRole: {role}\n# user: b\nFor {role}.\nTone: dry\n# context\n{label}: {value}\n"
    )
    assert words.own_labels == ["Role", "Tone"]
    with pytest.raises(ContractError, match="one of the prompt's own"):
        words.messages({"task": "a", "role": "nurse", "context": "Tone: wet"})


def test_a_section_that_nothing_reads_is_named(write):
    with pytest.raises(ConfigError, match=r"nothing reads the section\(s\) contxt of data_contracts/letters/prompt.md"):
        write(TASKS + "# contxt\n{label}: {value}\n")


def test_the_column_of_further_lines_is_no_field_of_a_template(write):
    with pytest.raises(ConfigError, match=r"section\(s\) user: tip of data_contracts/letters/prompt.md show a field"):
        write(TASKS + "# user: tip\nGiven {context}, advise.\n")
