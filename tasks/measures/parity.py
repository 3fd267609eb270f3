"""Teacher-forced logits of transformers against llama.cpp: the only proof that a GGUF computes the model it came from.

Every byte and every token id may be right and the answers still wrong (silent-failures.md class 8), some only at long
contexts, so several lengths are measured. Logits are (tokens, vocab) float32; KL is in nats a token, KL(model || file).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from data_contracts.verdict import Check, Comparison, check, report

if TYPE_CHECKING:
    import numpy as np

_CHUNK_TOKENS = 256
_MIN_TOKENS = 100
"""Fewer positions than these prove nothing: cannot tell."""


@dataclass
class Parity:
    """Sums over all positions seen so far, and the worst sequence."""

    tokens: int = 0
    kl_sum: float = 0.0
    agreed: int = 0
    error_sum: float = 0.0
    power_sum: float = 0.0
    by_length: dict[int, float] = field(default_factory=dict)
    """Length in tokens -> the largest mean KL of a sequence of that length."""

    def add(self, model: np.ndarray, file: np.ndarray) -> None:
        """Compare the logits (tokens, vocab) of one sequence."""
        import numpy as np

        kl_sum = 0.0
        for start in range(0, len(model), _CHUNK_TOKENS):
            part = slice(start, start + _CHUNK_TOKENS)
            ours, theirs = model[part].astype(np.float64), file[part].astype(np.float64)
            log_p, log_q = _log_softmax(ours), _log_softmax(theirs)
            kl_sum += float((np.exp(log_p) * (log_p - log_q)).sum())
            self.agreed += int((ours.argmax(1) == theirs.argmax(1)).sum())
            self.error_sum += float(((ours - theirs) ** 2).sum())
            self.power_sum += float((ours**2).sum())
        self.tokens += len(model)
        self.kl_sum += kl_sum
        self.by_length[len(model)] = max(self.by_length.get(len(model), 0.0), kl_sum / len(model))

    @property
    def mean_kl(self) -> float | None:
        """Mean KL over all positions, in nats a token; None before the first."""
        return self.kl_sum / self.tokens if self.tokens else None

    def checks(self, name: str, max_mean_kl: float | None, min_top1: float | None) -> list[Check]:
        """Mean KL, top-1 agreement and NMSE; without a limit, a number is only reported."""
        enough = self.tokens >= _MIN_TOKENS
        longest = max(self.by_length, default=0)
        detail = f"{self.tokens:,} tokens" + (
            f"; worst chat {max(self.by_length.values()):.2g}; at {longest:,} tokens {self.by_length[longest]:.2g}"
            if self.by_length
            else ""
        )
        kl = self.mean_kl
        top1 = self.agreed / self.tokens if self.tokens else None
        nmse = self.error_sum / self.power_sum if self.power_sum else None
        fix = "The file computes another model: check that llama.cpp supports this architecture, then export again."
        rows: list[tuple[str, float | None, Comparison, float | None, str, str]]
        rows = [(f"{name}: mean KL to the model", kl, "<=", max_mean_kl, detail, "nats/token")]
        rows += [(f"{name}: top-1 agreement with the model", top1, ">=", min_top1, f"{self.tokens:,} tokens", "")]
        made = [
            report(title, value, unit=unit, detail=about)
            if limit is None
            else check(title, value, sign, limit, unit=unit, detail=about, fix=fix, enough=enough)
            for title, value, sign, limit, about, unit in rows
        ]
        return [*made, report(f"{name}: normalised mean square error of the logits", nmse)]


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    import numpy as np

    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
