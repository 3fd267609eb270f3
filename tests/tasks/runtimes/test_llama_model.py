"""LlamaEngine: many answers at once equal one by one, logits do not depend on chunks, bad files give a clear error."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_contracts.errors import ArtifactError
from tasks.gguf_export.convert import convert
from tasks.runtimes.generation import Generation
from tasks.runtimes.llama_model import LlamaEngine
from tests.fixtures.tiny_model import make_tiny_model

TIE = 0.02
"""Logits this close are a tie: rounding, which depends on how many tokens are decoded together, may decide it."""
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Will the ECB cut?\n"}]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(safetensors folder, float16 GGUF) of a random model with a context of 512 tokens."""
    folder = tmp_path_factory.mktemp("engine")
    make_tiny_model(folder / "model", hidden_size=192, context_tokens=512)
    convert(folder / "model", folder / "m.gguf", name="tiny", prompt_digest="0", tick=lambda _: None)
    return folder / "model", folder / "m.gguf"


@pytest.fixture(scope="module")
def engine(model: tuple[Path, Path]):
    with LlamaEngine(model[1], n_threads=1) as opened:
        yield opened


def make_prompts(count: int, shared_tokens: int) -> list[list[int]]:
    draw = random.Random(1)
    shared = [draw.randrange(500) for _ in range(shared_tokens)]
    return [shared + [draw.randrange(500) for _ in range(draw.randint(1, 60))] for _ in range(count)]


def assert_same_but_for_ties(engine: LlamaEngine, prompts, many: list[Generation], single: list[Generation]) -> int:
    """Where two answers part, the two tokens were tied; returns how many answers are equal to the end."""
    equal = 0
    for prompt, a, b in zip(prompts, many, single, strict=True):
        if a == b:
            equal += 1
            continue
        at = next((i for i, (x, y) in enumerate(zip(a.ids, b.ids, strict=False)) if x != y), None)
        assert at is not None, "one answer ended where the other went on"
        logits = engine.logits(prompt + a.ids[:at])[-1]
        assert abs(logits[a.ids[at]] - logits[b.ids[at]]) < TIE
    return equal


@pytest.mark.parametrize("shared_tokens", [0, 80])
def test_answers_of_many_slots_equal_one_by_one(engine, shared_tokens):
    prompts = make_prompts(21, shared_tokens)
    seen: list[tuple] = []
    many = engine.generate(prompts, 40, slots=8, beat=lambda *beat: seen.append(beat))
    single = [engine.generate([prompt], 40)[0] for prompt in prompts]
    assert assert_same_but_for_ties(engine, prompts, many, single) >= 18
    assert len({tuple(one.ids) for one in many}) > 15, "a model that always says the same proves nothing"
    counts = [tokens for tokens, *_ in seen]
    assert counts == sorted(counts) and counts[-1] >= sum(len(one.ids) for one in many)
    assert max(b - a for a, b in zip([0, *counts], counts, strict=False)) <= 8, (
        "each decode call beats, not each answer"
    )
    assert {beat[1] for beat in seen} == {21 * 40} and seen[0][2] == {"unit": "tokens", "at_most": True}


def test_answers_do_not_depend_on_small_batches(model, engine):
    prompts = make_prompts(9, 40)
    with LlamaEngine(model[1], n_threads=1, n_batch=16) as small:
        many = small.generate(prompts, 20, slots=32)
    single = [engine.generate([prompt], 20)[0] for prompt in prompts]
    assert assert_same_but_for_ties(engine, prompts, many, single) >= 7


def test_greedy_answers_are_those_of_transformers(model, engine):
    from tasks.runtimes import hf_model

    reference = hf_model.load_model(model[0], "float32")
    for prompt, answer in zip(prompts := make_prompts(4, 30), engine.generate(prompts, 12), strict=True):
        logits = hf_model.logits(reference, prompt + answer.ids)[len(prompt) - 1 : -1]
        chosen = logits[range(len(answer.ids)), answer.ids]
        assert float((logits.max(dim=1).values - chosen).max()) < TIE


def test_stop_tokens_end_an_answer_and_are_left_out(engine):
    prompt = make_prompts(1, 0)[0]
    free = engine.generate([prompt], 30, stop_ids=[])[0]
    assert free.stopped == "length" and len(free.ids) == 30
    stop = free.ids[10]
    cut = engine.generate([prompt], 30, stop_ids={stop})[0]
    assert cut.stopped == "eos" and cut.ids == free.ids[: free.ids.index(stop)] and stop not in cut.ids
    assert engine.detokenize(cut.ids) == cut.text


def test_context_ends_an_answer_and_a_long_prompt_is_refused(model, engine):
    with LlamaEngine(model[1], n_ctx=64, n_threads=1) as short:
        answer = short.generate([[5] * 60], 30, stop_ids=[])[0]
        assert answer.stopped == "length" and len(answer.ids) == 4
        with pytest.raises(ArtifactError, match=r"needs 65 tokens and the context of m\.gguf is 64"):
            short.generate([[5] * 64], 1)
        with pytest.raises(ArtifactError, match="never cut silently"):
            short.logits([5] * 65)
    assert engine.generate([], 5) == []
    with pytest.raises(ArtifactError, match="1 of 2 prompts are empty"):
        engine.generate([[1], []], 5)


def test_logits_do_not_depend_on_the_chunk(model, engine):
    ids = make_prompts(1, 200)[0]
    whole = engine.logits(ids)
    assert whole.shape == (len(ids), engine.vocab_size) and whole.dtype == np.float32
    with LlamaEngine(model[1], n_threads=1, n_batch=32) as small:
        assert np.abs(small.logits(ids) - whole).max() < TIE
    assert np.abs(engine.logits(ids[:50]) - whole[:50]).max() < TIE


def test_chat_and_tokens_are_those_of_transformers(model, engine):
    from tasks.runtimes.hf_model import load_tokenizer

    tokenizer = load_tokenizer(model[0])
    for generation in (True, False):
        text = engine.render_chat(CHAT, add_generation_prompt=generation)
        assert text == tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=generation)
        assert engine.tokenize(text) == tokenizer(text, add_special_tokens=False)["input_ids"]
        assert engine.detokenize(engine.tokenize(text)) == text
    assert len(engine.tokenize("<|im_end|>")) == 1 < len(engine.tokenize("<|im_end|>", parse_special=False))
    assert engine.tokenize("") == [] and engine.metadata["general.architecture"] == "qwen3"
    assert engine.eos_id == tokenizer.eos_token_id and engine.trained_context_tokens == 512


@pytest.mark.parametrize(
    ("template", "word"),
    [
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{{ raise_exception('no system role') }}", "no system role"),
        ("{% for", "unexpected .end"),
    ],
)
def test_bad_template_is_one_clear_error(engine, monkeypatch, template, word):
    monkeypatch.setitem(engine.metadata, "tokenizer.chat_template", template)
    with pytest.raises(ArtifactError, match=word):
        engine.render_chat(CHAT)


def test_file_without_template_says_so(engine, monkeypatch):
    monkeypatch.delitem(engine.metadata, "tokenizer.chat_template")
    with pytest.raises(ArtifactError, match="carries no chat template"):
        engine.render_chat(CHAT)


def test_unloadable_files_are_named_with_llama_cpps_reason(model, tmp_path):
    data = model[1].read_bytes()
    broken = {
        "truncated.gguf": data[: len(data) // 2],
        "text.gguf": b"not a model",
        "empty.gguf": b"",
        "strange.gguf": data.replace(b"qwen3", b"qwen9"),
    }
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ArtifactError, match=rf"{name} .* cannot be loaded\. llama\.cpp says: .*\w{{4}}"):
            LlamaEngine(tmp_path / name)
    with pytest.raises(ArtifactError, match="unknown model architecture"):
        LlamaEngine(tmp_path / "strange.gguf")
    with pytest.raises(ArtifactError, match=r"no file missing\.gguf"):
        LlamaEngine(tmp_path / "missing.gguf")


def test_import_is_light():
    code = (
        "import sys, tasks.export_gguf, tasks.runtimes.llama_model\n"
        "print({'torch', 'llama_cpp', 'numpy', 'gguf', 'transformers'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
