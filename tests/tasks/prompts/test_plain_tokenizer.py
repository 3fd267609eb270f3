"""PlainTokenizer gives the ids and texts of transformers, without torch, and says what a folder lacks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from data_contracts.prompting.prompt import load_prompt
from data_contracts.verdict import failures
from tasks.core.errors import ConfigError
from tasks.gguf_export import checks
from tasks.prompts import chat
from tasks.prompts.plain_tokenizer import PlainTokenizer
from tasks.recipes import load_recipe
from tasks.recipes.signals import recipe as signals
from tasks.runtimes import hf_model
from tasks.validate_dataset import check_tokens
from tests.fixtures.tiny_model import edit_json

HARD_TEXT = Path(checks.__file__).with_name("hard_text.txt").read_text("utf-8")


@pytest.fixture
def folder(tiny_base, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_base, tmp_path / "model"))


def test_ids_texts_and_rows_are_those_of_transformers(folder):
    plain, full = PlainTokenizer(folder), hf_model.load_tokenizer(folder)
    assert plain.eos_token_id == full.eos_token_id
    lines = [line for line in HARD_TEXT.splitlines() if line]
    assert len(lines) > 10
    for text in [*lines, HARD_TEXT]:
        ids = chat.text_ids(full, text)
        assert chat.text_ids(plain, text) == ids and plain.decode(ids) == full.decode(ids)
    contract, rows = load_prompt("signals"), signals.build_rows("gold", 12, 1, 0)[0]
    for row in rows:
        assert chat.prompt_text(plain, contract, row) == chat.prompt_text(full, contract, row)
        assert chat.token_row(plain, contract, load_recipe("signals"), row) == chat.token_row(
            full, contract, load_recipe("signals"), row
        )


def test_rows_within_the_budget_pass_and_one_token_less_fails(folder):
    rows = signals.build_rows("gold", 5, 1, 0)[0]
    tokenizer, contract = PlainTokenizer(folder), load_prompt("signals")
    longest = max(len(chat.token_row(tokenizer, contract, signals, row)[0]) for row in rows)
    assert not failures(check_tokens("signals", rows, folder, longest))
    (bad,) = failures(check_tokens("signals", rows, folder, longest - 1))
    assert "longer than max_length_tokens" in bad.name and bad.measured == 1


def test_a_tokenizer_that_loses_text_is_seen(folder):
    """A normalizer that drops what it does not like: the supervised span is then no longer the answer."""
    about = json.loads((folder / "tokenizer.json").read_text())
    about["normalizer"] = {"type": "Lowercase"}
    (folder / "tokenizer.json").write_text(json.dumps(about))
    bad = failures(check_tokens("signals", signals.build_rows("gold", 5, 1, 0)[0], folder, 1 << 16))
    assert any("supervised span is not exactly the answer" in one.name for one in bad)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "tokenizer.json").unlink(), "lacks tokenizer.json"),
        (lambda folder: [path.unlink() for path in folder.glob("*.jinja")], "has no chat template"),
        (
            lambda folder: edit_json(folder / "tokenizer_config.json", lambda c: c.update(eos_token="<nowhere>")),
            "has no end token",
        ),
    ],
)
def test_what_a_folder_lacks_is_told(folder, spoil, said):
    edit_json(folder / "tokenizer_config.json", lambda config: config.pop("chat_template", None))
    spoil(folder)
    with pytest.raises(ConfigError, match=said):
        PlainTokenizer(folder)
