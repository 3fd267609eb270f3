"""Importing a flow or a contract is quick and pulls in no training library: a worker, a form and a laptop pay for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
HEAVY = (
    "torch", "transformers", "trl", "peft", "vllm", "llama_cpp", "datasets", "sklearn", "unsloth", "openai", "matplotlib",
)  # fmt: skip
FLOWS = [
    one["entrypoint"].rpartition(".")[0] for one in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
]
CONTRACTS = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "data_contracts").rglob("*.py"))
    if path.name != "__init__.py"
]
LIMIT_S = 2.0
"""Processor seconds, beside what Prefect itself takes in the same process: wall time says little on a busy machine."""

PROBE = """
import json, sys, time
import {first}
before = time.process_time()
for name in {modules!r}:
    __import__(name)
took = time.process_time() - before
import tasks
print(json.dumps({{"took_s": took, "heavy": sorted(set({heavy!r}) & set(sys.modules)), "tasks": tasks.__file__}}))
"""


def import_all(modules: list[str], first: str = "prefect") -> dict:
    """Import modules in a fresh interpreter, after `first`, and say what that took and brought in."""
    code = PROBE.format(modules=modules, heavy=HEAVY, first=first)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_walk_found_what_there_is():
    assert len(FLOWS) >= 2 and len(CONTRACTS) >= 15


@pytest.mark.parametrize("module", FLOWS)
def test_flow_is_quick_and_light_beyond_prefect(module):
    # prefect.main: `import prefect` is lazy; every flow needs what `from prefect import flow` loads
    found = import_all([module], first="prefect.main")
    assert found["heavy"] == []
    assert found["took_s"] < LIMIT_S


def test_all_contracts_are_quick_and_light():
    found = import_all(CONTRACTS, first="json")
    assert found["heavy"] == []
    assert found["took_s"] < LIMIT_S


def test_serve_and_validate_commands_import_light():
    assert (
        import_all(
            ["flows.__main__", "flows.serve", "flows.comparison", "deployments.ui", "deployments.bootstrap"], "json"
        )["heavy"]
        == []
    )


def test_a_heavy_import_is_seen():
    assert import_all(["sklearn"], "json")["heavy"] == ["sklearn"]


@pytest.mark.parametrize("name", ["tasks", "flows", "data_contracts", "deployments"])
def test_packages_are_ours(name):
    """`tasks` is a name that other tools use by convention: an installed one must not win."""
    code = f"import {name}; print({name}.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).is_relative_to(ROOT)
