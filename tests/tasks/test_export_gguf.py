"""Each check of export_gguf passes on a true export and fails when its subject is broken."""

from __future__ import annotations

import json
import shutil
import struct
import time
from pathlib import Path

import pytest

import tasks.export_gguf as export
from data_contracts.errors import ArtifactError
from data_contracts.verdict import Check, Verdict, failures
from tasks.export_gguf import ExportConfig, export_gguf, file_name, verify_export
from tasks.formats import gguf_file
from tests.fixtures.tiny_model import edit_json, make_tiny_model

DIGEST = "c0ffee" * 10 + "beef"
# A random model has many near-ties and reacts strongly to rounding: the limits of q8_0 and of top-1 are its own.
CONFIG = ExportConfig(
    parity_context_tokens=[64, 200], parity_chats=2, max_mean_kl_q8_0=1e-2, min_top1_agreement_f16=0.99
)
F16_ONLY = CONFIG.model_copy(update={"quantizations": ["f16"]})
TEXTS = [
    "<|im_start|>system\nRead the headline.<|im_end|>\n"
    f"<|im_start|>user\nHeadline: ECB holds rates {i}\nQuestion: Will the ECB cut?<|im_end|>\n"
    f'<|im_start|>assistant\n<think>\nless likely\n</think>\n\n{{"relevance": 0.{i}}}<|im_end|>'
    for i in range(8)
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(model folder, GGUF folder): rows of 256, so that K-quants are what their name says."""
    folder = tmp_path_factory.mktemp("export")
    model = make_tiny_model(folder / "model", hidden_size=256, weight_std=0.08)
    beats: list[tuple[int, int, dict]] = []
    export_gguf(CONFIG, model, folder / "gguf", prompt_digest=DIGEST, beat=lambda *beat: beats.append(beat))
    assert beats[-1] == (3, 3, {"unit": "files"})
    written = {numbers["doing"]: done for done, _, numbers in beats[:-1]}
    sizes = {f"writing {path.name}": path.stat().st_size for path in (folder / "gguf").iterdir()}
    assert written == sizes and len(sizes) == 3
    assert all(0 <= done <= total and numbers["at_most"] for done, total, numbers in beats[:-1])
    return model, folder / "gguf"


def test_a_hung_quantiser_falls_silent_while_a_slow_one_beats(exported, tmp_path, monkeypatch):
    """The quantiser is a call into C that nobody can ask: its file says whether it gets on."""
    beats: list[int] = []
    said: dict[str, int] = {}

    def slow_then_hung(_source: Path, target: Path, *_: object) -> None:
        with target.open("wb", buffering=0) as file:
            for _ in range(3):
                file.write(b"x" * 1000)
                time.sleep(1.5)
            said["moving"] = len(beats)
            time.sleep(3)
            said["hung"] = len(beats)

    (tmp_path / "model-f16.gguf").write_bytes(b"x" * 9000)
    monkeypatch.setattr(export, "_quantize", slow_then_hung)
    monkeypatch.setattr(export.gguf_convert, "convert", lambda *_, **__: None)
    config = CONFIG.model_copy(update={"quantizations": ["q8_0"]})
    export_gguf(config, exported[0], tmp_path, prompt_digest=DIGEST, beat=lambda done, *_: beats.append(done))
    moving = beats[: said["moving"]]
    assert len(moving) >= 2 and moving == sorted(set(moving)) and moving[-1] == 3000 and said["hung"] == said["moving"]


@pytest.fixture
def copy(exported: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """The same, free to be broken."""
    for source, name in zip(exported, ("model", "gguf"), strict=True):
        shutil.copytree(source, tmp_path / name)
    return tmp_path / "model", tmp_path / "gguf"


def verify(
    config: ExportConfig, folders: tuple[Path, Path], texts: list[str] = TEXTS, digest: str = DIGEST
) -> list[Check]:
    return verify_export(config, *folders, texts=texts, prompt_digest=digest)


def named(checks: list[Check], part: str) -> Check:
    found = [one for one in checks if part in one.name]
    assert len(found) == 1, f"{len(found)} checks are named {part}: {[one.name for one in checks]}"
    return found[0]


def assert_fails_alone(checks: list[Check], *parts: str) -> None:
    """Exactly the checks named by `parts` fail: the sabotage is seen, and no other check cries."""
    broken = [one.name for one in failures(checks)]
    assert len(broken) == len(parts) and all(any(part in name for name in broken) for part in parts), broken


def rewrite_tensor(path: Path, name: str, change) -> None:
    """Let `change` edit a tensor's data in the file."""
    reader = gguf_file._gguf().GGUFReader(path, "r+")
    tensor = next(one for one in reader.tensors if one.name == name)
    change(tensor.data)
    reader.data.flush()


def rewrite_bytes(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert data.count(old) == 1 and len(old) == len(new)
    path.write_bytes(data.replace(old, new))


def test_true_export_passes_every_check(exported):
    checks = verify(CONFIG, exported)
    assert not failures(checks), [one.sentence() for one in failures(checks)]
    assert len(checks) == 3 * 17
    assert sorted(path.name for path in exported[1].iterdir()) == sorted(map(file_name, CONFIG.names))
    assert 4.5 < named(checks, "q4_k_m: bits per weight").measured < 5.2
    assert named(checks, "q4_k_m: share of weights in fallback").measured == 0
    assert named(checks, "f16: mean KL").measured < named(checks, "q8_0: mean KL").measured
    assert "24 of 24" in named(checks, "f16: tensors missing").detail


def test_fallback_of_odd_rows_is_reported_and_gated(tmp_path):
    model = make_tiny_model(tmp_path / "model", hidden_size=192)
    config = CONFIG.model_copy(update={"quantizations": ["q4_k_m"], "max_fallback_fraction": 0.1})
    assert config.names == ["f16", "q4_k_m"]
    export_gguf(config, model, tmp_path / "gguf", prompt_digest=DIGEST)
    checks = verify(config, (model, tmp_path / "gguf"))
    assert_fails_alone(checks, "q4_k_m: share of weights in fallback")
    fallback = named(checks, "q4_k_m: share of weights in fallback")
    assert fallback.measured > 0.9 and "Q5_0" in fallback.detail
    assert named(checks, "q4_k_m: bits per weight").measured > 6
    reported = verify(CONFIG.model_copy(update={"quantizations": ["q4_k_m"]}), (model, tmp_path / "gguf"))
    assert not failures(reported), [one.sentence() for one in failures(reported)]


def test_zeroed_tensor_is_seen(copy):
    rewrite_tensor(copy[1] / file_name("f16"), "blk.1.ffn_down.weight", lambda data: data.fill(0))
    checks = verify(F16_ONLY, copy)
    assert (
        named(checks, "all zero").verdict is Verdict.FAIL
        and "blk.1.ffn_down.weight" in named(checks, "all zero").detail
    )


def test_zeroed_quantised_tensor_is_seen(copy):
    config = CONFIG.model_copy(update={"quantizations": ["q4_k_m"]})
    rewrite_tensor(copy[1] / file_name("q4_k_m"), "blk.0.attn_q.weight", lambda data: data.fill(0))
    assert_fails_alone(verify(config, copy), "q4_k_m: tensors that are all zero")


def test_tensor_that_is_zero_in_the_model_is_no_alarm(copy):
    from safetensors.torch import load_file, save_file

    weights = load_file(copy[0] / "model.safetensors")
    weights["model.layers.0.mlp.down_proj.weight"].zero_()
    save_file(weights, copy[0] / "model.safetensors", metadata={"format": "pt"})
    rewrite_tensor(copy[1] / file_name("f16"), "blk.0.ffn_down.weight", lambda data: data.fill(0))
    checks = verify(F16_ONLY, copy)
    assert not failures(checks), [one.sentence() for one in failures(checks)]


def test_changed_weight_raises_kl(copy):
    def scale(data):
        data *= 1.1

    rewrite_tensor(copy[1] / file_name("f16"), "blk.0.attn_output.weight", scale)
    checks = verify(F16_ONLY, copy)
    assert named(checks, "mean KL").verdict is Verdict.FAIL
    assert named(checks, "top-1").verdict is Verdict.FAIL


@pytest.mark.parametrize("keep", [0.5, 0.001])
def test_truncated_file_cannot_be_loaded(copy, keep):
    path = copy[1] / file_name("f16")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(ArtifactError, match=r"model-f16\.gguf .* cannot be loaded"):
        verify(F16_ONLY, copy)
    with pytest.raises(ArtifactError, match="cannot be read as GGUF"):
        gguf_file.read_tensors(path)


def test_missing_file_is_named(copy):
    (copy[1] / file_name("q8_0")).unlink()
    with pytest.raises(ArtifactError, match=r"no file model-q8_0\.gguf"):
        verify(CONFIG, copy)


def test_changed_template_is_seen(copy):
    rewrite_bytes(copy[1] / file_name("f16"), b"{% if add_generation_prompt %}", b"{% if not_generation_prompt %}")
    assert_fails_alone(verify(F16_ONLY, copy), "chat template")


def test_model_without_template_fails(copy):
    (copy[0] / "chat_template.jinja").unlink()
    assert_fails_alone(verify(F16_ONLY, copy), "chat template")


def test_wrong_prompt_contract_is_seen(exported):
    assert_fails_alone(verify(F16_ONLY, exported, digest="0" * 64), "prompt contract")


def test_other_end_token_is_seen(copy):
    edit_json(copy[0] / "tokenizer_config.json", lambda config: config.update(eos_token="<|endoftext|>"))
    assert_fails_alone(verify(F16_ONLY, copy), "end token")


def test_other_context_length_is_seen(copy):
    edit_json(copy[0] / "config.json", lambda config: config.update(max_position_embeddings=512))
    assert_fails_alone(verify(F16_ONLY, copy), "context length")


def test_other_vocabulary_size_is_seen(copy):
    from tasks.gguf_export.checks import metadata_checks
    from tasks.runtimes.hf_model import load_tokenizer
    from tasks.runtimes.llama_model import LlamaEngine

    config = json.loads((copy[0] / "config.json").read_text())
    config["vocab_size"] += 1
    with LlamaEngine(copy[1] / file_name("f16"), n_threads=1) as engine:
        checks = metadata_checks("f16", engine, load_tokenizer(copy[0]), config, DIGEST)
    assert_fails_alone(checks, "rows of the vocabulary")


def test_lost_merges_change_token_ids(copy):
    def drop(tokenizer):
        del tokenizer["model"]["merges"][-40:]

    edit_json(copy[0] / "tokenizer.json", drop)
    checks = verify(F16_ONLY, copy)
    assert named(checks, "f16: rendered chats").verdict is Verdict.FAIL
    assert named(checks, "f16: hard texts with other").verdict is Verdict.FAIL
    assert "in training" in named(checks, "f16: rendered chats").detail


def test_other_pre_tokenizer_is_seen_on_hard_text_only(copy):
    key = b"tokenizer.ggml.pre" + struct.pack("<IQ", 8, 5)
    rewrite_bytes(copy[1] / file_name("f16"), key + b"qwen2", key + b"gpt-2")
    checks = verify(F16_ONLY, copy)
    assert named(checks, "f16: hard texts with other").verdict is Verdict.FAIL
    assert named(checks, "f16: hard texts with special").verdict is Verdict.FAIL


def test_special_token_that_became_text_is_seen(copy):
    """As when a converter marks <|im_start|> as a normal token (llama.cpp#7062)."""
    added = json.loads((copy[0] / "tokenizer.json").read_text())["added_tokens"]
    token = next(one["id"] for one in added if one["content"] == "<|im_start|>")
    reader = gguf_file._gguf().GGUFReader(copy[1] / file_name("f16"), "r+")
    types = reader.fields["tokenizer.ggml.token_type"]
    types.parts[types.data[token]][0] = 1
    reader.data.flush()
    checks = verify(F16_ONLY, copy)
    assert named(checks, "f16: rendered chats").verdict is Verdict.FAIL
    assert named(checks, "f16: hard texts with other").verdict is Verdict.FAIL


def test_composing_tokenizer_is_compared_on_composed_text_and_said_so(exported, copy):
    edit_json(copy[0] / "tokenizer.json", lambda tokenizer: tokenizer.update(normalizer={"type": "NFC"}))
    checks = verify(F16_ONLY, copy)
    assert not failures(checks), [one.sentence() for one in failures(checks)]
    assert named(checks, "composed before comparing").measured >= 3
    decomposed = [text.replace("ECB", "Cafe\u0301") for text in TEXTS]
    assert_fails_alone(verify(F16_ONLY, copy, texts=decomposed), "f16: rendered chats")


def test_file_under_another_name_is_seen(copy):
    shutil.copyfile(copy[1] / file_name("q8_0"), copy[1] / file_name("q4_k_m"))
    config = CONFIG.model_copy(update={"quantizations": ["q4_k_m"], "max_fallback_fraction": 0.5})
    assert_fails_alone(verify(config, copy), "q4_k_m: file type", "q4_k_m: share of weights in fallback")


def test_no_texts_is_cannot_tell(exported):
    checks = verify(F16_ONLY, exported, texts=[])
    verdicts = {one.name: one.verdict for one in failures(checks)}
    assert set(verdicts.values()) == {Verdict.CANNOT_TELL}
    assert {"f16: mean KL to the model", "f16: top-1 agreement with the model"} < set(verdicts)


def test_missing_misshapen_and_unknown_tensors_are_counted(exported):
    tensors = gguf_file.read_tensors(exported[1] / file_name("f16"))
    shapes = {"model.embed_tokens.weight": tensors["token_embd.weight"].shape}
    shapes |= {"model.layers.0.self_attn.q_proj.weight": (256, 128), "model.layers.1.mlp.up_proj.weight": (768, 256)}
    shapes |= {"model.layers.0.mystery.weight": (3, 5), "lm_head.weight": (1, 1)}
    match = gguf_file.match_names(shapes, {k: v for k, v in tensors.items() if "ffn_up" not in k}, "qwen3", tied=True)
    assert len(match.pairs) == 3
    assert len(match.wrong) == 2 and "blk.0.attn_q.weight is (256, 256)" in match.wrong[0]
    assert "blk.1.ffn_up.weight is missing" in match.wrong[1]
    assert match.leftover[0] == 15 and match.leftover[1] > 15


def test_quantiser_that_fails_is_reported(copy):
    from tasks.export_gguf import _quantize

    path = copy[1] / file_name("f16")
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(ArtifactError, match="quantising to q8_0 ended with code 1"):
        _quantize(path, copy[1] / "again.gguf", "q8_0", 1)
