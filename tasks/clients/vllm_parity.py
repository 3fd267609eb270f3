"""Whether a model folder loads unchanged in vLLM: its own greedy answers, beside what transformers would have said.

vLLM answers; transformers is then given prompt and answer in one forward pass. So a first difference does not throw the rest of
an answer away, and every token counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_contracts.verdict import Check, check, report
from tasks.clients.vllm_client import Finished, VllmSource
from tasks.clients.vllm_settings import DEFAULT_PYTHON, VllmSettings
from tasks.runtimes import hf_model

MIN_TOKENS = 100
"""Fewer compared tokens tell nothing."""
MIN_TOP1_FRACTION = 0.99
TOP1 = "tokens of vLLM that transformers would choose too"
MAX_MEAN_NATS = {"float32": 1e-3, "bfloat16": 0.05, "float16": 0.02}
"""float32 on two cores: 1e-6 measured on nano. The 16-bit limits were not measured: they stand for kernels that sum in another
order, a hundredth of what one wrong layer makes."""


@dataclass(frozen=True)
class ServingParity:
    """What vLLM said, measured on transformers' logits."""

    prompts: int
    tokens: int
    """Generated tokens that were compared."""
    top1_fraction: float | None
    """Share of them that transformers would have chosen too; None without tokens."""
    mean_difference_nats: float | None
    """Mean |difference of the token's log-probability|."""
    max_difference_nats: float | None
    dtype: str


def serving_parity(
    folder: Path,
    prompts: Sequence[Sequence[int]],
    logs: Path,
    *,
    reference: Path | None = None,
    settings: VllmSettings | None = None,
    python: str = DEFAULT_PYTHON,
    max_new_tokens: int = 32,
    alive: Callable[[dict], None] = lambda _numbers: None,
) -> ServingParity:
    """Send vLLM's copy of `folder` these token ids, and compare with transformers' copy of `reference` (the same folder).

    A prompt that leaves no token of the context to an answer is left out.

    Raises:
        ArtifactError, ChildError, ConfigError: vLLM is not there, or cannot load the folder.
    """
    settings = settings or VllmSettings()
    dtype = settings.dtype if settings.dtype != "auto" else _own_dtype(folder)
    with VllmSource(folder, settings.model_copy(update={"dtype": dtype}), python, logs) as source:
        prompts = [ids for ids in prompts if source.prompts.room_tokens(ids) > 0]
        lines = [
            {
                "id": i,
                "ids": list(ids),
                "max_tokens": min(max_new_tokens, source.prompts.room_tokens(ids)),
                "temperature": 0.0,
                "logprobs": True,
            }
            for i, ids in enumerate(prompts)
        ]
        finished = dict(source.run(lines, source.prompts.stop_ids, alive))
    return _compared(prompts, finished, reference or folder, dtype)


def _own_dtype(folder: Path) -> str:
    """float32 on a CPU, where it is exact; on a card what the model was saved in."""
    if hf_model.best_device() == "cpu":
        return "float32"
    import json

    config = json.loads((folder / "config.json").read_text("utf-8"))
    return config.get("dtype") or config.get("torch_dtype") or "bfloat16"


def _compared(prompts: Sequence[Sequence[int]], found: dict[int, Finished], folder: Path, dtype: str) -> ServingParity:
    import torch

    with hf_model.quiet():
        model = hf_model.load_model(folder, dtype)
    same, differences = 0, []
    for number, prompt in enumerate(prompts):
        made = found[number]
        if not made.ids:
            continue
        rows = hf_model.logits(model, [*prompt, *made.ids])[len(prompt) - 1 : -1]
        ids = torch.tensor(made.ids)
        own = torch.log_softmax(rows, -1)[torch.arange(len(ids)), ids]
        differences += (own - torch.tensor(made.logprobs)).abs().tolist()
        same += int((rows.argmax(-1) == ids).sum())
    tokens = len(differences)
    return ServingParity(
        prompts=len(prompts),
        tokens=tokens,
        top1_fraction=same / tokens if tokens else None,
        mean_difference_nats=sum(differences) / tokens if tokens else None,
        max_difference_nats=max(differences) if tokens else None,
        dtype=dtype,
    )


def not_measured(why: str) -> Check:
    """The line of a manifest where no vLLM was at hand: a reader sees that nobody looked, not that all was well."""
    return report(TOP1, "not measured", detail=why)


def parity_checks(found: ServingParity) -> list[Check]:
    """The comparison as checks for a manifest; too few tokens cannot tell."""
    enough = found.tokens >= MIN_TOKENS
    detail = f"{found.tokens} tokens of {found.prompts} prompts, {found.dtype}"
    fix = "vLLM reads the folder otherwise than transformers: compare config.json, tied weights and dtype, or serve another way"
    return [
        check(
            TOP1,
            found.top1_fraction,
            ">=",
            MIN_TOP1_FRACTION,
            enough=enough,
            detail=detail,
            fix=fix,
        ),
        check(
            "mean difference between vLLM's and transformers' log-probability",
            found.mean_difference_nats,
            "<=",
            MAX_MEAN_NATS[found.dtype],
            unit="nats",
            enough=enough,
            detail=detail,
            fix=fix,
        ),
        report("largest such difference", found.max_difference_nats, unit="nats"),
    ]
