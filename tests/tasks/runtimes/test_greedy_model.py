"""The one runner of local models: what it answers is what transformers answers, and nobody else runs a model's answers."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from tasks.prompts import chat
from tasks.runtimes import hf_model
from tasks.runtimes.greedy_model import FolderModel, open_model
from tests.fixtures.tiny_model import make_tiny_model

ROOT = Path(__file__).resolve().parents[3]
MESSAGES = [{"role": "user", "content": "What follows from a port strike?"}]


def test_a_folder_answers_as_transformers_does(tmp_path):
    folder = make_tiny_model(tmp_path / "model")
    model, tokenizer = hf_model.load_model(folder), hf_model.load_tokenizer(folder)
    ids = chat.text_ids(tokenizer, chat.messages_text(tokenizer, MESSAGES))
    stops = chat.stop_ids(tokenizer, model.generation_config.to_dict())
    with open_model(folder, "float32") as opened:
        assert opened.tokenize(opened.render(MESSAGES)) == ids
        assert opened.context_tokens == hf_model.own_context_tokens(folder) and not opened.metadata
        assert opened.generate([ids], 8) == hf_model.generate(model, tokenizer, [ids], 8, stops)
        assert abs(opened.logits(ids) - hf_model.logits(model, ids).numpy()).max() < 1e-6


def test_weights_wait_for_the_first_answer(tmp_path):
    folder = make_tiny_model(tmp_path / "model")
    shutil.move(folder / "model.safetensors", tmp_path / "weights")
    opened = FolderModel(folder)
    assert opened.tokenize(opened.render(MESSAGES)), "a chat that does not fit is refused without them"
    shutil.move(tmp_path / "weights", folder / "model.safetensors")
    opened.load()
    assert "model" in vars(opened)


def test_a_channels_header_is_left_out_unless_it_is_parsed(tmp_path, monkeypatch):
    folder = make_tiny_model(tmp_path / "model")
    written = hf_model.Generation([5], "<|channel|>final<|message|>yes", "eos")
    monkeypatch.setattr(hf_model, "generate", lambda *_args, **_kw: [written])
    monkeypatch.setattr(chat, "answer_header", lambda _tokenizer: "<|channel|>final<|message|>")
    assert FolderModel(folder).generate([[1]], 8)[0].text == "yes"
    assert FolderModel(folder, keep_header=True).generate([[1]], 8)[0].text == written.text


def test_only_the_runner_has_models_generate():
    calls = re.compile(r"hf_model\.generate\(|\bengine\.generate\(")
    files = sorted((ROOT / "tasks").rglob("*.py"))
    assert len(files) > 150
    assert {path.name for path in files if calls.search(path.read_text("utf-8"))} == {"greedy_model.py"}
