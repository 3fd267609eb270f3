"""How far models are from one of them, on the same answers: what scores may hide, the next-token distributions show.

A merge that rounded its update away can still score the same on easy rows (seed story "signals": "the model ran, produced
valid JSON, and looked fine from the outside"). So every local model is given the expected answers word by word, and its
distribution over each next token is compared with the reference's: KL(reference || model), in nats a token.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.evaluation.local_models import OpenModel
from tasks.measures.parity import Parity

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Distance:
    """One model beside the reference."""

    mean_kl_nats: float | None = None
    """Mean KL to the reference over the tokens of the answers, in nats a token."""
    top1_fraction: float | None = None
    """Share of the answers' tokens for which both rank the same token first."""
    answer_loss_nats: float | None = None
    """Mean cross-entropy of the expected answers, in nats a token."""
    tokens: int = 0
    """Tokens of the answers."""
    why_not: str = ""
    """Why there is no number."""


class Distances:
    """A further look at each model while it is in memory; the reference must be looked at first.

    The reference's logits, float32 (tokens of an answer, vocab), wait in `folder`, one file a row: a large vocabulary would not
    fit the memory.
    """

    def __init__(self, reference: str, prompts: list[dict], answers: list[str], folder: Path) -> None:
        self.reference = reference
        self._rows = list(zip(prompts, answers, strict=True))
        self._folder = folder
        self._ids: list[list[int]] = []
        self.found: dict[str, Distance] = {}

    def look(self, model: OpenModel) -> None:
        """Measure one model."""
        spans = [self._span(model, row, answer) for row, answer in self._rows]
        if model.name == self.reference:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._ids = [ids for ids, _ in spans]
        if not self._ids:
            self.found[model.name] = Distance(why_not=f"{self.reference} was not measured")
        elif [ids for ids, _ in spans] != self._ids:
            self.found[model.name] = Distance(why_not="another tokenizer or chat template")
        else:
            self.found[model.name] = self._measure(model, spans)

    def as_dict(self, name: str) -> dict:
        """What a board holds of one model."""
        return asdict(self.found.get(name, Distance(why_not="not a model on this disk")))

    def close(self) -> None:
        """Give the disk back."""
        for path in self._folder.glob("reference-*.npy"):
            path.unlink()

    def _span(self, model: OpenModel, row: dict, answer: str) -> tuple[list[int], int]:
        prompt = model.tokenize(model.render(row))
        return [*prompt, *model.tokenize(answer)], len(prompt)

    def _measure(self, model: OpenModel, spans: list[tuple[list[int], int]]) -> Distance:
        import numpy as np

        parity, loss, tokens = Parity(), 0.0, 0
        for number, (ids, start) in enumerate(spans):
            path = self._folder / f"reference-{number}.npy"
            logits = model.logits(ids)[start - 1 : -1]  # each position tells the next token
            if model.name == self.reference:
                np.save(path, logits)
            expected = np.load(path, mmap_mode="r")
            if expected.shape != logits.shape:
                return Distance(why_not=f"a vocabulary of {logits.shape[1]:,} tokens, not {expected.shape[1]:,}")
            parity.add(expected, logits)
            loss += _loss(logits, ids[start:])
            tokens += len(ids) - start
        if not tokens:
            return Distance(why_not="no row to measure on")
        top1 = round(parity.agreed / parity.tokens, 6)
        return Distance(max(parity.mean_kl or 0.0, 0.0), top1, round(loss / tokens, 6), tokens)


def _loss(logits: np.ndarray, ids: list[int]) -> float:
    """Sum of the cross-entropy of `ids` under logits (tokens, vocab), in nats."""
    import numpy as np

    wide = logits.astype(np.float64)
    top = wide.max(axis=1)
    total = top + np.log(np.exp(wide - top[:, None]).sum(axis=1))
    return float((total - wide[np.arange(len(ids)), ids]).sum())
