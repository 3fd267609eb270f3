"""The versions on which mixtures of experts are trained are one tested set (deployments/stacks/moe.txt), or nothing is run."""

from __future__ import annotations

import importlib.metadata

from tasks.core.keys import PROJECT_ROOT

STACK_FILE = PROJECT_ROOT / "deployments" / "stacks" / "moe.txt"
_KERNELS = "0.16."
"""Versions of the package kernels that transformers 5.17 takes: >=0.16,<0.17."""


def pinned() -> dict[str, str]:
    """Distribution -> version, as the file pins them."""
    lines = (line.split("#")[0].strip() for line in STACK_FILE.read_text("utf-8").splitlines())
    return dict(line.split("==") for line in lines if line)


def stack_problems() -> list[str]:
    """Every installed version that is not of the set, one sentence each."""
    found = {name: (wanted, _installed(name)) for name, wanted in pinned().items()}
    problems = [
        f"{name} is {here or 'not installed'}, deployments/stacks/moe.txt pins {wanted}. Run: python deployments/setup.py"
        for name, (wanted, here) in found.items()
        if here is None or here.partition("+")[0] != wanted  # +cpu, +cu130: the same release for another device
    ]
    kernels = _installed("kernels")
    if kernels and not kernels.startswith(_KERNELS):
        problems.append(
            f"kernels is {kernels}, transformers here takes {_KERNELS}x alone. Uninstall it: no run needs it"
        )
    return problems


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
