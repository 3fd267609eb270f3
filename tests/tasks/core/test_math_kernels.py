"""Vector math is settled before threads can race for it; the race itself shows once in some fifty starts under load."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from data_contracts.verdict import report
from tasks.core import stage_process as stages
from tasks.core.settings import Settings
from tasks.core.stage import Job, Stage
from tasks.core.stage_process import execute

ROOT = Path(__file__).resolve().parents[3]
COUNT_CALLS = """
import collections, torch
from torch.overrides import TorchFunctionMode
from tasks.core.math_kernels import settle_math_kernels
calls = collections.Counter()
class Count(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        if args and isinstance(args[0], torch.Tensor):
            assert args[0].numel() == 1, "more than one element may be shared among threads"
            calls[func.__name__, args[0].dtype] += 1
        return func(*args, **(kwargs or {}))
with Count():
    settle_math_kernels()
for dtype in (torch.float32, torch.float64):
    for name in ("cos", "sin", "exp", "log", "sqrt", "tanh", "erf", "pow", "softmax"):
        assert calls[name, dtype] >= 1, (name, dtype)
"""


def test_each_function_is_called_on_one_element_in_both_precisions():
    done = subprocess.run([sys.executable, "-c", COUNT_CALLS], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("stack", "order"), [(("torch",), ["settled", "worked"]), (("polars",), ["worked"])])
def test_a_stage_that_uses_torch_starts_with_settled_kernels(monkeypatch, tmp_path, stack, order):
    seen = []
    monkeypatch.setattr(stages, "settle_math_kernels", lambda: seen.append("settled"))
    stage = Stage(
        name="train_lora",
        kind="x",
        version=1,
        work=lambda config, job: seen.append("worked"),
        verify=lambda config, job: [report("rows", 1)],
        stack=stack,
    )
    execute(stage, Settings(), Job("signals", tmp_path))
    assert seen == order
