"""gpt-oss is published in 4 bits: written out in bfloat16 tensor by tensor, it is the model that transformers loads."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from tasks.core.artifact import Store, hash_folder
from tasks.core.errors import ArtifactError, ConfigError
from tasks.core.stage import Job, Run, build
from tasks.formats import mxfp4
from tasks.prepare_base import STAGE, BaseConfig, verify_base
from tasks.release.hub import publish_to_hub
from tasks.runtimes import hf_model
from tests.fixtures.hub_case import TOKEN
from tests.fixtures.hub_server import HubServer
from tests.fixtures.tiny_chain import edit_tensors, failed
from tests.fixtures.tiny_model import edit_json
from tests.fixtures.tiny_moe import LAYERS, make_tiny_moe, packed_copy

CONFIG = BaseConfig(model_id="someone/tiny-oss", dequantise="mxfp4")
WEIGHTS = "model.safetensors"
EQUAL = "packed tensors that equal their definition in bfloat16"
DOWN = "model.layers.0.mlp.experts.down_proj"


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    return packed_copy(make_tiny_moe(folder / "bf16"), folder / "mxfp4")


@pytest.fixture
def job(tmp_path, packed):
    """As the download leaves it, and what was written from it; both may be damaged."""
    made = Job("signals", tmp_path / "out", work=tmp_path / "work")
    made.out.mkdir()
    shutil.copytree(packed, made.work / "packed")
    mxfp4.dequantise(made.work / "packed", made.out)
    return made


def test_the_written_model_is_the_one_that_transformers_loads(job, packed):
    from transformers import AutoModelForCausalLM, Mxfp4Config

    with hf_model.quiet():
        theirs = AutoModelForCausalLM.from_pretrained(
            packed, quantization_config=Mxfp4Config(dequantize=True), dtype=torch.bfloat16
        )
    ours = load_file(job.out / WEIGHTS)
    state = theirs.state_dict()
    assert ours.keys() == state.keys()
    assert all(torch.equal(ours[name], state[name]) for name in ours)
    ids = list(range(40))
    assert torch.equal(hf_model.logits(hf_model.load_model(job.out), ids), hf_model.logits(theirs.float(), ids))


def test_every_check_passes_and_the_packed_copy_is_gone(job):
    checks = verify_base(CONFIG, job)
    assert not failed(checks)
    found = {one.name: one.measured for one in checks}
    assert found[EQUAL] == 2 * LAYERS
    assert found["dtype of the weights"] == "BF16"
    about = json.loads((job.out / "config.json").read_text())
    assert "quantization_config" not in about and about["dtype"] == "bfloat16"
    assert not (job.work / "packed").exists()


def test_every_code_and_scale_is_what_the_format_defines():
    """All 16 values of E2M1 as its table lists them, the low half of a byte first; a scale of 127 is 1, one more doubles."""
    table = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    codes = torch.arange(16, dtype=torch.uint8)
    blocks = (codes[0::2] | (codes[1::2] << 4)).repeat(2).reshape(1, 1, 1, 16)
    for scale, factor in ((127, 1.0), (128, 2.0), (120, 2.0**-7)):
        found = mxfp4.decode(blocks, torch.full((1, 1, 1), scale, dtype=torch.uint8))
        expected = torch.tensor([*table, *(-one for one in table)] * 2) * factor
        assert found.shape == (1, 32, 1)
        assert torch.equal(found.flatten(), expected)


def halves_swapped(tensors: dict) -> None:
    tensors[f"{DOWN}_blocks"] = (tensors[f"{DOWN}_blocks"] >> 4) | (tensors[f"{DOWN}_blocks"] << 4)


def one_scale_doubled(tensors: dict) -> None:
    tensors[f"{DOWN}_scales"].view(-1)[0] += 1


@pytest.mark.parametrize("change", [halves_swapped, one_scale_doubled])
def test_a_wrong_decoding_fails_by_name(job, change):
    """The written file against a source that says something else: what a decoder with that mistake would have made."""
    edit_tensors(job.work / "packed" / WEIGHTS, change)
    assert failed(verify_base(CONFIG, job))[EQUAL].startswith(f"{EQUAL}: {2 * LAYERS - 1} (expected == {2 * LAYERS})")
    assert (job.work / "packed").is_dir(), "kept, to look at"


def lie_across(tensors: dict) -> None:
    tensors[DOWN] = tensors[DOWN].mT.contiguous()


def drop_experts(tensors: dict) -> None:
    del tensors[DOWN]


def flip_a_bit(tensors: dict) -> None:
    tensors["model.norm.weight"].view(torch.int16)[0] ^= 1


def add_one(tensors: dict) -> None:
    tensors["down_proj$"] = torch.zeros(1)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lie_across, EQUAL),
        (drop_experts, EQUAL),
        (flip_a_bit, "tensors that were not packed, bit-equal"),
        (add_one, "tensors that are in no source"),
    ],
)
def test_a_damaged_copy_fails_by_name(job, change, name):
    edit_tensors(job.out / WEIGHTS, change)
    assert name in failed(mxfp4.check_dequantised(job.work / "packed", job.out))


def test_a_scale_that_is_not_a_number_shows_in_the_logits(job):
    """255 is NaN in E8M0: a damaged download decodes without an error."""
    edit_tensors(job.work / "packed" / WEIGHTS, lambda tensors: tensors[f"{DOWN}_scales"].fill_(255))
    mxfp4.dequantise(job.work / "packed", job.out)
    assert "non-finite logits on a plain sentence" in failed(verify_base(CONFIG, job))


def test_blocks_without_their_scales_are_refused(job):
    edit_tensors(job.work / "packed" / WEIGHTS, lambda tensors: tensors.pop(f"{DOWN}_scales"))
    with pytest.raises(ArtifactError, match="1 of 4 packed tensors lack the scales"):
        mxfp4.dequantise(job.work / "packed", job.out)


def test_a_base_that_is_not_packed_is_refused(tiny_base, tmp_path):
    with pytest.raises(ConfigError, match="the repository is not quantised, with 0 packed tensors"):
        mxfp4.dequantise(tiny_base, tmp_path)


def test_a_packed_base_that_nobody_asked_to_dequantise_fails_and_says_how(packed):
    bad = failed(verify_base(CONFIG.model_copy(update={"dequantise": None}), Job("signals", packed)))
    assert "for gpt-oss, set base.dequantise to mxfp4" in bad["quantization_config in config.json"]


def test_from_the_hub_only_the_weights_of_this_format_are_fetched(packed, tmp_path, monkeypatch):
    """gpt-oss holds its weights three times; the copies in folders are for other programs."""
    folder = tmp_path / "repository"
    shutil.copytree(packed, folder)
    (folder / "original").mkdir()
    shutil.copyfile(packed / WEIGHTS, folder / "original" / WEIGHTS)
    with HubServer(TOKEN) as hub:
        for name, value in {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "NO_PROXY": "127.0.0.1,localhost"}.items():
            monkeypatch.setenv(name, value)
        publish_to_hub(folder, hash_folder(folder), "alice/oss", private=True, commit_message="base", endpoint=hub.url)
        run = Run(name="t", recipe="signals", store=str(tmp_path / "store"))
        base = build(STAGE, run, BaseConfig(model_id="alice/oss", dequantise="mxfp4"), {})
        assert not [name for name in base.files if "original" in name]
        assert load_file(Store(run.store).folder(base) / WEIGHTS)[DOWN].shape == (4, 64, 64)
        edit_json(folder / "config.json", lambda config: config.pop("quantization_config"))
        publish_to_hub(folder, hash_folder(folder), "alice/plain", private=True, commit_message="b", endpoint=hub.url)
        with pytest.raises(ConfigError, match="base.dequantise is mxfp4, and the repository is not quantised"):
            build(STAGE, run, BaseConfig(model_id="alice/plain", dequantise="mxfp4"), {})
