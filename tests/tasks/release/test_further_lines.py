"""A release tells how facts of the moment enter its prompt, and which lines the model has read."""

from __future__ import annotations

import pytest

from data_contracts.prompting.prompt import load_prompt
from tasks.release.modelfile import render_modelfile
from tasks.release.special_tokens import SpecialTokens
from tasks.reports.card import render_card

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@pytest.fixture
def card_with(sample_release):
    """The card of a release whose rows were counted so."""

    def written(counted: dict | None, **changes) -> str:
        stages = sample_release().stages
        place = next(i for i, one in enumerate(stages) if one.stage == "validate_dataset")
        facts = {"train_rows": 99} | ({} if counted is None else {"context_labels": counted})
        stages[place] = stages[place].model_copy(update={"facts": facts})
        return render_card(sample_release(stages=stages, **changes))

    return written


def test_the_card_names_the_form_the_bounds_and_the_lines_that_were_read(card_with):
    text = card_with({"Current price": 20, "Published": 1})
    assert "`{label}: {value}` each, after the last line of the user message" in text
    assert "at most 32 characters and is none of the prompt's own (Headline, Question)" in text
    assert (
        "Lines in the training rows: `Current price` (20 rows), `Published` (1 row). Other labels were never read."
        in text
    )
    assert "No training row" not in text


@pytest.mark.parametrize("counted", [{}, None])
def test_a_card_does_not_promise_lines_that_no_row_held(card_with, counted):
    text = card_with(counted)
    assert "No training row held such a line" in text and "not tested" in text
    assert "Lines in the training rows" not in text


def test_a_prompt_that_takes_no_lines_says_so(card_with):
    closed = load_prompt("signals").model_copy(update={"context": None})
    text = card_with({}, prompt=closed)
    assert "The prompt takes nothing else" in text and "{label}" not in text


def test_the_modelfile_tells_it_too():
    special = SpecialTokens(eos="<|im_end|>", special=["<|im_start|>", "<|im_end|>"])
    words = load_prompt("signals")
    for prompt, said in ((words, True), (words.model_copy(update={"context": None}), False)):
        text = render_modelfile("gguf/x.gguf", CHATML, special, 2048, prompt, "ab" * 32)
        assert ("# Facts of the moment may follow as lines '{label}: {value}', and in no other form." in text) is said
        assert "#   Question: {question}" in text
