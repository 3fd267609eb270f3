"""The converter runs unchanged but for what is said in gguf_convert.py; what it cannot convert is one clear error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_contracts.errors import ArtifactError, ConfigError
from tasks.formats import gguf_file
from tasks.gguf_export import convert as gguf_convert
from tests.fixtures.tiny_model import (
    DIGITS_BY_THREE_REGEX,
    QWEN2_SPLIT_REGEX,
    edit_json,
    make_tiny_model,
    make_tiny_tokenizer,
)


def convert_to(out: Path, model: Path) -> None:
    out.mkdir()
    gguf_convert.convert(model, out / "m.gguf", name="tiny", prompt_digest="0", tick=lambda _: None)


def test_unknown_pre_tokenizer_is_one_clear_error(tmp_path):
    model = make_tiny_model(tmp_path / "model", split_regex=DIGITS_BY_THREE_REGEX)
    with pytest.raises(ArtifactError, match=r"does not know this tokenizer's pre-tokenizer.*not Qwen2's expression"):
        convert_to(tmp_path / "out", model)
    assert not list((tmp_path / "out").iterdir())


def test_known_pre_tokenizer_is_left_alone():
    class Known:
        def get_vocab_base_pre(self, tokenizer):
            return "llama-bpe"

    gguf_convert._patch_pre_tokenizer(Known)
    assert Known().get_vocab_base_pre(None) == "llama-bpe"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda t: t["model"].update(type="Unigram"), "Unigram"),
        (lambda t: t.update(pre_tokenizer={"type": "Whitespace"}), "Whitespace"),
        (lambda t: t["pre_tokenizer"]["pretokenizers"][0].update(behavior="Removed"), "not Qwen2's"),
        (lambda t: t["pre_tokenizer"]["pretokenizers"][1].update(add_prefix_space=True), "space in front"),
    ],
)
def test_split_that_only_resembles_qwen2_is_refused(tmp_path, change, word):
    make_tiny_tokenizer(tmp_path)
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text())
    assert gguf_convert.split_problem(tokenizer) == "" and gguf_convert._QWEN2_SPLIT_REGEX == QWEN2_SPLIT_REGEX
    change(tokenizer)
    assert word in gguf_convert.split_problem(tokenizer)


def test_unsupported_architecture_is_reported(tmp_path):
    model = make_tiny_model(tmp_path / "model")
    edit_json(model / "config.json", lambda c: c.update(architectures=["MysteryForCausalLM"]))
    with pytest.raises(ArtifactError, match=r"converter ended with code 1 and wrote no file.*MysteryForCausalLM"):
        convert_to(tmp_path / "out", model)


def test_no_code_of_the_model_is_run(monkeypatch):
    import transformers

    for name in ("AutoTokenizer", "AutoConfig"):
        fake = type(name, (), {"from_pretrained": staticmethod(lambda *_, **options: options)})
        monkeypatch.setattr(transformers, name, fake)
    gguf_convert._run_no_code_of_the_model()
    for auto in (transformers.AutoTokenizer, transformers.AutoConfig):
        options = auto.from_pretrained("x", trust_remote_code=True, use_fast=True)
        assert options == {"trust_remote_code": False, "use_fast": True}


def test_missing_converter_is_a_config_error(monkeypatch, tmp_path):
    monkeypatch.setenv("PLUMBLINE_LLAMA_CPP", str(tmp_path))
    with pytest.raises(ConfigError, match=r"convert_hf_to_gguf\.py, conversion, gguf-py missing"):
        gguf_file.llama_cpp_folder()
