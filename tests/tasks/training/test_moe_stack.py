"""Mixtures of experts are trained on one tested set of versions: the one that is installed, and no other."""

from __future__ import annotations

import re

import pytest

from deployments.setup import TORCH
from flows.config import experts_problems
from tasks.core.keys import PROJECT_ROOT
from tasks.prepare_base import BaseConfig
from tasks.training import moe_stack
from tasks.training.config import TrainConfig
from tests.fixtures.tiny_moe import EXPERT_PARAMETERS

HUB = BaseConfig(model_id="openai/gpt-oss-20b")
WITH_EXPERTS = TrainConfig(target_parameters=EXPERT_PARAMETERS)


def test_the_set_is_what_is_installed_and_what_core_pins():
    pins = moe_stack.pinned()
    core = dict(re.findall(r"^([\w.-]+)==(\S+)$", (PROJECT_ROOT / "deployments/stacks/core.txt").read_text(), re.M))
    assert len(pins) == 7
    assert {name: version for name, version in pins.items() if name != "torch"}.items() <= core.items()
    assert f"torch=={pins['torch']}" == TORCH
    assert moe_stack.stack_problems() == []


@pytest.mark.parametrize(
    ("name", "version", "said"),
    [
        ("peft", "0.22.0", "peft is 0.22.0, deployments/stacks/moe.txt pins 0.21.2"),
        ("trl", None, "trl is not installed"),
        ("kernels", "0.15.1", "kernels is 0.15.1, transformers here takes 0.16.x alone"),
    ],
)
def test_another_version_is_refused_before_anything_runs(monkeypatch, name, version, said):
    """The story's first crash was kernels 0.15, its second another PEFT: both hours after the image was built."""
    real = moe_stack._installed
    monkeypatch.setattr(moe_stack, "_installed", lambda one: version if one == name else real(one))
    (problem,) = experts_problems("train", HUB, WITH_EXPERTS)
    assert said in problem
    assert experts_problems("train", HUB.model_copy(update={"dequantise": "mxfp4"}), TrainConfig()) == [problem]
    assert experts_problems("train", HUB, TrainConfig()) == [], "a dense model has no such set"


def test_a_build_for_another_device_is_the_same_release(monkeypatch):
    monkeypatch.setattr(moe_stack, "_installed", lambda one: {**moe_stack.pinned(), "torch": "2.13.0+cu130"}.get(one))
    assert moe_stack.stack_problems() == []
