"""A data engineer's laptop: the contracts import without any training or orchestration library."""

import subprocess
import sys
from pathlib import Path

import data_contracts

FOLDER = Path(data_contracts.__file__).parent
HEAVY = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "prefect",
    "tasks",
    "flows",
    "datasets",
    "llama_cpp",
    "sklearn",
    "scipy",
)


def test_no_contract_module_pulls_in_a_heavy_library():
    modules = [
        ".".join(("data_contracts", *path.relative_to(FOLDER).with_suffix("").parts))
        for path in sorted(FOLDER.rglob("*.py"))
        if path.name != "__init__.py"
    ]
    assert len(modules) >= 12
    code = (
        f"import sys; {'; '.join(f'import {name}' for name in modules)}; "
        f"print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=FOLDER.parent, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
