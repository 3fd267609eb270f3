"""What the trainer is fed: rows as ids and labels, packed or not, and proof that its real batches say what the rows say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from data_contracts.verdict import Check, check
from tasks.formats.token_rows import TokenRow

if TYPE_CHECKING:
    from datasets import Dataset
    from trl import SFTTrainer

    from tasks.training.config import TrainConfig

_COLLATED_ROWS = 64
"""Rows of real batches whose labels are compared with what they should be, before training."""
_PACKED_ROWS = 16
"""Rows whose loss inside a pack is compared with their loss alone."""
_MAX_LEAK_SHARE = 0.1
"""Of the loss difference that reading the neighbours makes: 4e-5 of it in float32 and 0.015 in bfloat16 where packs are kept
apart (a random Qwen3 on a CPU), 1 where they are not."""
IGNORED = -100
"""A label that no loss is computed on."""


def dataset_of(rows: list[TokenRow], completion_only: bool) -> Dataset:
    """The columns input_ids and labels: the loss is on the completions, or on whole rows."""
    from datasets import Dataset

    labels = [labels_of(row, completion_only) for row in rows]
    return Dataset.from_dict({"input_ids": [ids for ids, _ in rows], "labels": labels})


def labels_of(row: TokenRow, completion_only: bool) -> list[int]:
    """One label a token; the prompt's are ignored when the loss is on completions only."""
    ids, start = row
    return [IGNORED] * start + ids[start:] if completion_only else list(ids)


def count_collated(trainer: SFTTrainer, rows: list[TokenRow], completion_only: bool) -> dict[str, int]:
    """What real batches hold: rows in them, those that are exactly one row with its labels, tokens that the trainer is fed."""
    import torch

    expected = {_comparable(ids, labels_of((ids, start), completion_only)) for ids, start in rows}
    state = torch.random.get_rng_state()
    found = list(_some_rows(trainer, _COLLATED_ROWS))
    torch.random.set_rng_state(state)
    return {
        "collated_rows": len(found),
        "collated_rows_right": sum(_comparable(ids, labels) in expected for ids, labels in found),
        "train_tokens": sum(len(ids) for ids, _ in rows),
        "fed_tokens": _tokens_in(trainer.train_dataset),
    }


def _tokens_in(dataset: Dataset) -> int:
    """All tokens of a data set, by its columns' offsets: no row becomes a list."""
    import pyarrow.compute as pc

    batches = dataset.with_format("arrow").iter(10_000)
    return sum(pc.sum(pc.list_value_length(batch["input_ids"])).as_py() for batch in batches)


def check_collated(outcome: dict, completion_only: bool) -> list[Check]:
    """The loss is where it was asked for, in every row that was looked at, and no token was cut or lost."""
    what = "the answer and its end token" if completion_only else "the prompt, the answer and its end token"
    name = f"rows of collated batches whose labels are exactly {what}"
    fix = "TRL cuts what is longer than a pack: raise train.packing_tokens"
    return [
        check(
            name, outcome["collated_rows_right"], "==", outcome["collated_rows"], enough=outcome["collated_rows"] > 0
        ),
        check("tokens that the trainer is fed", outcome["fed_tokens"], "==", outcome["train_tokens"], fix=fix),
    ]


def _comparable(ids: list[int], labels: list[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A row as a key. Nothing predicts its first token, so that label may be either."""
    return tuple(ids), tuple(labels[1:])


def _some_rows(trainer: SFTTrainer, at_least: int) -> Iterator[tuple[list[int], list[int]]]:
    """(ids, labels) of each row in the collator's batches, until enough were seen; packs are taken apart again."""
    dataset, size, seen = trainer.train_dataset, trainer.args.per_device_train_batch_size, 0
    for start in range(0, len(dataset), size):
        batch = trainer.data_collator([dataset[i] for i in range(start, min(start + size, len(dataset)))])
        for row in _taken_apart(batch):
            seen += 1
            yield row
        if seen >= at_least:
            return


def _taken_apart(batch: dict) -> Iterator[tuple[list[int], list[int]]]:
    for line in range(len(batch["input_ids"])):
        ids, labels = batch["input_ids"][line].tolist(), batch["labels"][line].tolist()
        for begin, end in _bounds(batch, line):
            yield ids[begin:end], labels[begin:end]


def _bounds(batch: dict, line: int) -> list[tuple[int, int]]:
    """Where each row of a line begins and ends: at every position 0 of a pack, or by the mask of a padded row."""
    if "position_ids" not in batch:
        return [(0, int(batch["attention_mask"][line].sum()))]
    starts = (batch["position_ids"][line] == 0).nonzero().flatten().tolist()
    return list(zip(starts, [*starts[1:], len(batch["input_ids"][line])], strict=True))


def check_packs(trainer: SFTTrainer, config: TrainConfig) -> Check:
    """Does a row in a pack see its neighbours? Its loss there, by the trainer's own function, against its loss alone.

    The yardstick is the same pack read as one text, as attention without boundaries would read it. Losses are in nats a token.
    """
    import torch

    held, alone, as_one = [], [], []
    trainer.model.eval()
    state = torch.random.get_rng_state()
    with torch.no_grad():
        for pack in trainer.train_dataset:
            batch = trainer.data_collator([pack])
            for begin, end in _bounds(batch, 0)[1:]:  # the first row of a pack has nothing before it
                labels = torch.full_like(batch["labels"], IGNORED)
                labels[:, begin + 1 : end] = batch["labels"][:, begin + 1 : end]
                packed = {**batch, "labels": labels}
                held.append(_loss(trainer, packed))
                as_one.append(_loss(trainer, {k: v for k, v in packed.items() if k != "position_ids"}))
                alone.append(_loss(trainer, {k: v[:, begin:end] for k, v in packed.items()}))
            if len(held) >= _PACKED_ROWS:
                break
    torch.random.set_rng_state(state)
    trainer.model.train()
    apart, together = _mean_distance(held, alone), _mean_distance(as_one, alone)
    if held:
        fix = "Attention crosses the boundaries of packed rows: leave train.packing_tokens out for this model"
    else:
        fix = f"No two rows fit into train.packing_tokens ({config.packing_tokens}): raise it, or leave it out"
    return check(
        "loss difference of a row in a pack to the row alone, mean",
        apart,
        "<=",
        _MAX_LEAK_SHARE * (together or 0.0),
        unit="nats a token",
        detail=f"{len(held)} rows; {together or 0:.2g} if they saw their neighbours",
        fix=fix,
        enough=bool(together),
    )


def _loss(trainer: SFTTrainer, batch: dict) -> float:
    """By the function that training uses: what it hands to the model (cache, mask) decides what a row sees."""
    with trainer.compute_loss_context_manager():
        return float(trainer.compute_loss(trainer.model, trainer._prepare_inputs(dict(batch))))


def _mean_distance(some: list[float], others: list[float]) -> float | None:
    return sum(abs(a - b) for a, b in zip(some, others, strict=True)) / len(some) if some else None
