"""The control is the story's bug and nothing else: made by PEFT itself, and each check of it seen to fail."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tasks.core.stage import Job
from tasks.core.stage_process import execute
from tasks.formats import lora_file, safetensors_file
from tasks.merge_into_nf4 import STAGE, MergeIntoNf4Config, verify_control
from tasks.runtimes import nf4
from tests.fixtures.tiny_chain import edit_tensors, failed
from tests.fixtures.tiny_model import edit_json

WEIGHTS = "model.safetensors"
MOVED = "model.layers.0.self_attn.q_proj.weight"
UNTOUCHED = "model.embed_tokens.weight"
KEPT, ERROR = "share of the update kept along its direction", "error of the update, relative to its size"


@pytest.fixture(scope="module")
def control(tiny_base, tiny_adapter, tmp_path_factory):
    job = Job("signals", tmp_path_factory.mktemp("control"), inputs={"base": tiny_base, "adapter": tiny_adapter.out})
    return job, execute(STAGE, MergeIntoNf4Config(), job)


@pytest.fixture
def copy(control, tmp_path) -> Job:
    """The same, free to be broken."""
    return replace(control[0], out=Path(shutil.copytree(control[0].out, tmp_path / "out")))


def verify(job: Job) -> dict[str, str]:
    return failed(verify_control(MergeIntoNf4Config(), job))


def readers(folder: Path) -> dict:
    return {name: entry.read for name, entry in safetensors_file.read_folder(folder).items()}


def test_the_bug_loses_what_a_16_bit_merge_keeps(control, tiny_base, tiny_adapter, tiny_merged):
    numbers = {one["name"]: one["measured"] for one in control[1]["checks"]}
    adapter = lora_file.read_adapter(tiny_adapter.out)
    sound = nf4.survival(adapter, readers(tiny_base), readers(tiny_merged.out))
    assert sound.kept_fraction == pytest.approx(1, abs=0.05)
    assert numbers[ERROR] > 3 * sound.error_ratio > 0
    assert numbers["layers rounded to 16 values a block"] == len(adapter.modules) == 14
    assert 0 < numbers[KEPT] < 1.5


def test_survival_of_nothing_of_all_and_of_the_opposite(tiny_base, tiny_adapter):
    adapter, base = lora_file.read_adapter(tiny_adapter.out), readers(tiny_base)

    def moved(times: float) -> dict:
        return {
            n: lambda n=n, m=m: base[n]().double() + times * m.delta().double()
            for n, m in adapter.by_base_tensor.items()
        }

    for times, error in ((0.0, 1.0), (1.0, 0.0), (-1.0, 2.0), (0.5, 0.5)):
        found = nf4.survival(adapter, base, moved(times))
        assert (found.kept_fraction, found.error_ratio) == (
            pytest.approx(times, abs=1e-5),
            pytest.approx(error, abs=1e-5),
        )


def sixteen_bits(job: Job, merged: Path) -> None:
    shutil.copyfile(merged / WEIGHTS, job.out / WEIGHTS)


def test_a_sound_merge_in_its_place_is_caught(copy, tiny_merged):
    """A control without the bug would show that merging into 4 bits does no harm."""
    assert not verify(copy)
    sixteen_bits(copy, tiny_merged.out)
    assert "layers rounded to 16 values a block" in verify(copy)


def test_a_base_without_the_update_is_caught(copy, tiny_base):
    shutil.copyfile(tiny_base / WEIGHTS, copy.out / WEIGHTS)
    assert "layers rounded to 16 values a block" in verify(copy)


def drop(tensors: dict) -> None:
    del tensors[UNTOUCHED]


def nudge(tensors: dict) -> None:
    tensors[UNTOUCHED].view(torch.int16)[0, 0] ^= 1


def break_a_layer(tensors: dict) -> None:
    tensors["model.norm.weight"][0] = float("nan")


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (drop, "tensor names and shapes that differ from the base"),
        (nudge, "other tensors bit-equal to the base"),
        (break_a_layer, "other tensors bit-equal to the base"),
    ],
)
def test_damage_is_caught(copy, change, name):
    edit_tensors(copy.out / WEIGHTS, change)
    assert name in verify(copy)


def test_a_config_that_calls_itself_quantised_is_caught(copy):
    edit_json(
        copy.out / "config.json", lambda config: config.update(quantization_config={"quant_method": "bitsandbytes"})
    )
    assert "quantization_config in config.json" in verify(copy)


def test_a_control_that_loses_nothing_is_refused(copy, monkeypatch):
    """An update too large for 4 bits to lose shows nothing: the check compares with what 16-bit rounding makes."""
    monkeypatch.setattr(nf4, "survival", lambda *_: nf4.Survival(1.0, 0.001))
    assert "compare without it" in verify(copy)[ERROR]


def test_its_kind_is_one_that_nothing_publishes(control):
    from tasks import merge_adapter, publish_model

    assert STAGE.kind == "nf4-control" != merge_adapter.STAGE.kind
    assert STAGE.kind not in Path(publish_model.__file__).read_text("utf-8")
    assert len(load_file(control[0].out / WEIGHTS)) == len(load_file(control[0].inputs["base"] / WEIGHTS))
