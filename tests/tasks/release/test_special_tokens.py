"""Special tokens and the chat template are read from the model's folder as plain JSON and text."""

from __future__ import annotations

import json

import pytest

from data_contracts.errors import ArtifactError
from tasks.release.special_tokens import SpecialTokens, read_chat_template, read_special_tokens


def test_special_tokens_are_read_from_the_model_folder(tmp_path):
    added = [
        {"id": number, "content": text, "special": number < 3}
        for number, text in enumerate(["<s>", "<e>", "<p>", "<t>"])
    ]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
    config = {"eos_token": {"content": "<e>"}, "bos_token": "<s>", "pad_token": "<p>", "chat_template": "in the config"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2]}))
    found = read_special_tokens(tmp_path)
    assert found == SpecialTokens(eos="<e>", bos="<s>", pad="<p>", stops=["<e>", "<p>"], special=["<s>", "<e>", "<p>"])
    first = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}]}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": added, "post_processor": first}))
    assert read_special_tokens(tmp_path).adds_bos
    assert read_chat_template(tmp_path) == "in the config"
    (tmp_path / "chat_template.jinja").write_text("in the file")
    assert read_chat_template(tmp_path) == "in the file"


def test_model_that_does_not_say_where_it_ends_is_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<e>"}))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": 7}))
    with pytest.raises(ArtifactError, match="1 of 1 eos_token_id without a special token"):
        read_special_tokens(tmp_path)
    with pytest.raises(ArtifactError, match="no single chat template"):
        read_chat_template(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"tokenizer\.json cannot be read"):
        read_special_tokens(tmp_path)
