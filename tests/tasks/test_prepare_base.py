"""prepare_base: every check of a base model passes on a sound one and can fail on a damaged one."""

from __future__ import annotations

import shutil

import pytest
import torch

from data_contracts.verdict import Verdict
from tasks.core.artifact import Store, hash_folder
from tasks.core.errors import ArtifactError, ConfigError
from tasks.core.stage import Job, Run, build
from tasks.prepare_base import STAGE, BaseConfig, verify_base
from tasks.release.hub import publish_to_hub
from tests.fixtures.hub_case import TOKEN
from tests.fixtures.hub_server import HubServer
from tests.fixtures.tiny_chain import edit_tensors, failed
from tests.fixtures.tiny_model import edit_json, make_tiny_model

CONFIG = BaseConfig(model_id="someone/tiny")
WEIGHTS = "model.safetensors"


@pytest.fixture
def base(tiny_base, tmp_path):
    """A copy to damage."""
    return shutil.copytree(tiny_base, tmp_path / "base")


def verify(folder):
    return verify_base(CONFIG, Job("signals", folder))


def test_a_sound_base_passes_every_check(tiny_base):
    checks = verify(tiny_base)
    assert len(checks) == 9
    assert not failed(checks)
    numbers = {one.name: one.measured for one in checks}
    assert numbers["parameters"] == 135_360
    assert numbers["dtype of the weights"] == "BF16"


def test_untied_weights_that_the_config_calls_untied_pass(tmp_path):
    folder = make_tiny_model(tmp_path / "untied", hidden_size=64, tie=False)
    assert not failed(verify(folder))


def test_a_quantised_base_fails_before_it_is_loaded(base):
    quantised = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    edit_json(base / "config.json", lambda config: config.update(quantised))
    bad = failed(verify(base))
    assert "Give the 16-bit repository" in bad["quantization_config in config.json"]


def test_a_missing_chat_template_fails(base):
    (base / "chat_template.jinja").unlink()
    edit_json(base / "tokenizer_config.json", lambda config: config.pop("chat_template", None))
    assert "Choose an instruct model" in failed(verify(base))["chat template"]


def test_a_tokenizer_without_an_end_token_fails(base):
    edit_json(base / "tokenizer_config.json", lambda config: config.pop("eos_token"))
    assert list(failed(verify(base))) == ["end-of-turn token is known"]


def test_a_tokenizer_with_more_ids_than_embeddings_fails_by_its_numbers(tmp_path):
    folder = make_tiny_model(tmp_path / "short", hidden_size=64, embedding_rows=572)
    (sentence,) = failed(verify(folder)).values()
    assert sentence.startswith("tokenizer ids that fit the embedding: 573 ids (expected <= 572).")


def test_a_wrong_tied_flag_fails(tmp_path):
    tied_by_flag_only = make_tiny_model(tmp_path / "untied", hidden_size=64, tie=False)
    edit_json(tied_by_flag_only / "config.json", lambda config: config.update(tie_word_embeddings=True))
    try:
        bad = failed(verify(tied_by_flag_only))
    except ArtifactError as error:
        bad = {"load": str(error)}
    assert any("output head" in name or "lm_head" in text for name, text in bad.items())


def test_a_tied_model_that_says_it_is_untied_lacks_its_head(base):
    edit_json(base / "config.json", lambda config: config.update(tie_word_embeddings=False))
    with pytest.raises(ArtifactError, match=r"1 tensors missing \(e\.g\. \['lm_head\.weight'\]\)"):
        verify(base)


def put_nan(tensors: dict) -> None:
    tensors["model.norm.weight"][0] = float("nan")


def test_a_non_finite_weight_shows_in_the_logits(base):
    edit_tensors(base / WEIGHTS, put_nan)
    assert "non-finite logits on a plain sentence" in failed(verify(base))


def drop(tensors: dict) -> None:
    del tensors["model.layers.1.mlp.up_proj.weight"]


def reshape(tensors: dict) -> None:
    tensors["model.norm.weight"] = torch.ones(32, dtype=torch.bfloat16)


@pytest.mark.parametrize(("change", "said"), [(drop, "1 tensors missing"), (reshape, "1 of another shape")])
def test_weights_that_do_not_fill_the_architecture_are_refused(base, change, said):
    edit_tensors(base / WEIGHTS, change)
    with pytest.raises(ArtifactError, match=said):
        verify(base)


def test_an_architecture_that_transformers_does_not_know_is_one_sentence(base):
    edit_json(base / "config.json", lambda config: config.update(model_type="unheard_of", architectures=["Unheard"]))
    with pytest.raises(ArtifactError, match="code that comes with a model is never run here"):
        verify(base)


def truncate(base) -> None:
    path = base / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1])


def add_pickle(base) -> None:
    (base / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def lose_weights(base) -> None:
    (base / WEIGHTS).unlink()


def lose_config(base) -> None:
    (base / "config.json").unlink()


def lose_tokenizer(base) -> None:
    (base / "tokenizer.json").unlink()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (truncate, "truncated or padded"),
        (add_pickle, "1 pickle file"),
        (lose_weights, "no safetensors file"),
        (lose_config, "1 of 3 files that a model needs are missing: config.json"),
        (lose_tokenizer, "1 of 3 files that a model needs are missing: tokenizer.json"),
    ],
)
def test_files_that_cannot_be_trusted_are_refused(base, damage, said):
    damage(base)
    with pytest.raises(ArtifactError, match=said):
        verify(base)


def test_every_check_of_a_sound_base_is_a_pass_and_none_cannot_tell(tiny_base):
    assert {one.verdict for one in verify(tiny_base)} == {Verdict.PASS}


def test_a_base_from_the_hub_is_pinned_to_a_commit(tmp_path, monkeypatch, tiny_base):
    folder = tmp_path / "base"
    shutil.copytree(tiny_base, folder)
    (folder / "pytorch_model.bin").write_bytes(b"never fetched")
    with HubServer(TOKEN) as hub:
        for name, value in {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "NO_PROXY": "127.0.0.1,localhost"}.items():
            monkeypatch.setenv(name, value)
        files = hash_folder(folder)
        commit = publish_to_hub(folder, files, "alice/base", private=True, commit_message="base", endpoint=hub.url)
        run = Run(name="t", recipe="signals", store=str(tmp_path / "store"))
        base = build(STAGE, run, BaseConfig(source="hub", model_id="alice/base"), {})
        manifest = Store(run.store).manifest(base)
        assert manifest["facts"] == {"model_id": "alice/base", "revision": commit.commit_sha}
        assert base.files["model.safetensors"] == files["model.safetensors"]
        assert "pytorch_model.bin" not in base.files
        for change, said in (({"revision": "nowhere"}, "no revision"), ({"model_id": "alice/none"}, "was not found")):
            with pytest.raises(ConfigError, match=said):
                build(STAGE, run, BaseConfig(**{"source": "hub", "model_id": "alice/base", **change}), {})
