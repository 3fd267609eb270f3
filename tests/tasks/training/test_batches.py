"""What the trainer is fed: the loss where it was asked for, nothing cut, and rows in a pack that do not see one another."""

from __future__ import annotations

import pytest

from data_contracts.verdict import Verdict
from tasks.core.errors import ArtifactError
from tasks.formats.token_rows import read_token_rows
from tasks.train_lora import train_lora
from tasks.training import batches as train_batches
from tasks.training import trainer as lora_trainer
from tasks.training.config import TrainConfig
from tests.fixtures.tiny_chain import TRAIN_CONFIG, TRAIN_ROWS, failed, make_adapter, train_job

PACK_TOKENS = 1000
"""Two rows of the tiny chain fit into it, sometimes three."""
PACKS = 12
ANSWERS = "rows of collated batches whose labels are exactly the answer and its end token"
WHOLE_ROWS = "rows of collated batches whose labels are exactly the prompt, the answer and its end token"
FED = "tokens that the trainer is fed"
APART = "loss difference of a row in a pack to the row alone, mean"
COMBINATIONS = [(only, pack) for only in (True, False) for pack in (None, PACK_TOKENS)]


def config_of(completion_only: bool, packing_tokens: int | None, **more) -> TrainConfig:
    changes = {"completion_only_loss": completion_only, "packing_tokens": packing_tokens, **more}
    return TrainConfig(**TRAIN_CONFIG.model_dump() | changes)


@pytest.fixture
def rows(tiny_rows):
    return read_token_rows(tiny_rows / "train.parquet")


@pytest.fixture
def job(tmp_path, tiny_base, tiny_rows):
    return train_job(tmp_path, tiny_base, tiny_rows)


def trainer_of(config, job, rows, completion_only: bool | None = None):
    """The real trainer, before its first step; `completion_only` sabotages the labels it is given."""
    given = config.completion_only_loss if completion_only is None else completion_only
    dataset = train_batches.dataset_of(rows, given)
    return lora_trainer._trainer(config, job, lora_trainer._model(config, job, rows), dataset)


def problems(config, trainer, rows) -> dict[str, str]:
    found = train_batches.count_collated(trainer, rows, config.completion_only_loss)
    return failed(train_batches.check_collated(found, config.completion_only_loss))


@pytest.mark.parametrize(("completion_only", "packing_tokens"), COMBINATIONS)
def test_every_combination_says_what_the_rows_say(job, rows, completion_only, packing_tokens):
    config = config_of(completion_only, packing_tokens)
    trainer = trainer_of(config, job, rows)
    found = train_batches.count_collated(trainer, rows, completion_only)
    assert found["collated_rows"] == found["collated_rows_right"] == TRAIN_ROWS
    assert found["fed_tokens"] == found["train_tokens"] == sum(len(ids) for ids, _ in rows)
    assert len(trainer.train_dataset) == (PACKS if packing_tokens else TRAIN_ROWS)
    names = [one.name for one in train_batches.check_collated(found, completion_only)]
    assert names == [ANSWERS if completion_only else WHOLE_ROWS, FED]


@pytest.mark.parametrize(("completion_only", "packing_tokens"), COMBINATIONS)
def test_a_loss_in_the_wrong_place_is_counted(job, rows, completion_only, packing_tokens):
    """Sabotage: prompts are learned though only answers should be, and the other way round."""
    config = config_of(completion_only, packing_tokens)
    bad = problems(config, trainer_of(config, job, rows, completion_only=not completion_only), rows)
    (sentence,) = bad.values()
    assert sentence.startswith(f"{ANSWERS if completion_only else WHOLE_ROWS}: 0 (expected == {TRAIN_ROWS})")


@pytest.mark.parametrize("packing_tokens", [None, PACK_TOKENS])
def test_labels_that_lose_the_end_token_are_counted(job, rows, packing_tokens):
    config = config_of(True, packing_tokens)
    trainer = trainer_of(config, job, rows)
    whole = trainer.data_collator.torch_call

    def without_ends(examples):
        batch = whole(examples)
        batch["labels"][batch["input_ids"] == trainer.processing_class.eos_token_id] = train_batches.IGNORED
        return batch

    trainer.data_collator.torch_call = without_ends
    assert f"{ANSWERS}: 0 " in problems(config, trainer, rows)[ANSWERS]


def test_packs_whose_boundaries_are_wrong_are_counted(job, rows):
    config = config_of(True, PACK_TOKENS)
    trainer = trainer_of(config, job, rows)

    def shifted(pack: dict) -> dict:
        first, second, *rest = pack["seq_lengths"]
        return {"seq_lengths": [first + 1, second - 1, *rest]}

    trainer.train_dataset = trainer.train_dataset.map(shifted)
    assert f"{ANSWERS}: 0 " in problems(config, trainer, rows)[ANSWERS]


def test_rows_longer_than_a_pack_are_cut_by_trl_and_counted_here(job, rows):
    longest = max(len(ids) for ids, _ in rows)
    config = config_of(True, longest - 10)
    bad = problems(config, trainer_of(config, job, rows), rows)
    assert ANSWERS in bad
    assert "raise train.packing_tokens" in bad[FED]


def test_rows_in_a_pack_do_not_see_one_another(job, rows):
    config = config_of(True, PACK_TOKENS)
    found = train_batches.check_packs(trainer_of(config, job, rows), config)
    assert found.verdict is Verdict.PASS
    assert found.measured < 1e-5 < found.threshold


@pytest.fixture
def one_long_text(monkeypatch):
    """Attention that pays no heed to where a packed row begins."""
    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", lambda position_ids: None)


def test_attention_across_the_boundaries_is_refused_before_the_first_step(job, one_long_text):
    config = config_of(True, PACK_TOKENS)
    with pytest.raises(ArtifactError, match="rows must not be packed here.*Attention crosses the boundaries"):
        train_lora(config, job)
    assert list(job.work.glob("checkpoints/checkpoint-*")) == []


def test_packs_of_one_row_each_cannot_tell(job, rows):
    longest = max(len(ids) for ids, _ in rows)
    config = config_of(True, longest)
    found = train_batches.check_packs(trainer_of(config, job, rows), config)
    assert found.verdict is Verdict.CANNOT_TELL
    assert f"No two rows fit into train.packing_tokens ({longest})" in found.fix


def test_packed_training_passes_every_check_and_counts_packs_as_steps(job):
    config = config_of(True, PACK_TOKENS, batch_rows=2, checkpoint_every_steps=50)
    made = make_adapter(job, config)
    facts = made.outcome["facts"]
    assert facts["sequences"] == PACKS
    assert facts["steps_run"] == facts["steps_asked"] == 2 * PACKS / 2
    assert APART in [one["name"] for one in made.outcome["checks"]]


def test_training_on_whole_rows_lowers_the_loss_on_prompts_too(job, tiny_base, tiny_adapter, rows):
    """The setting is read: with it, the loss on prompts falls further than without."""
    from tasks.runtimes import hf_model

    made = make_adapter(job, config_of(False, None))
    whole = [(ids, 1) for ids, _ in rows]
    losses = [
        hf_model.completion_loss(hf_model.load_model(tiny_base, adapter=folder), whole)
        for folder in (tiny_adapter.out, made.out)
    ]
    assert losses[1] < losses[0] - 0.2
