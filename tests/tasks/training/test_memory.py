"""The memory that training takes: the stories' cards come out, and the parts agree with the bytes that were alive here."""

from __future__ import annotations

import pytest

from data_contracts.verdict import Verdict
from tasks.core.errors import ConfigError
from tasks.core.hardware import load_hardware
from tasks.training import memory as training_memory
from tasks.training.config import TrainConfig
from tasks.training.memory import check_memory, estimate, fit_on_this_machine, read_shape
from tests.fixtures.tiny_moe import EXPERT_PARAMETERS

GPT_OSS_20B = {
    "model_type": "gpt_oss", "num_hidden_layers": 24, "hidden_size": 2880, "intermediate_size": 2880, "head_dim": 64,
    "num_attention_heads": 64, "num_key_value_heads": 8, "num_local_experts": 32, "num_experts_per_tok": 4,
    "vocab_size": 201_088, "tie_word_embeddings": False,
}  # fmt: skip
QWEN3_06B = {
    "model_type": "qwen3", "num_hidden_layers": 28, "hidden_size": 1024, "intermediate_size": 3072, "head_dim": 128,
    "num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 151_936, "tie_word_embeddings": True,
}  # fmt: skip
QWEN25_05B = {
    "model_type": "qwen2", "num_hidden_layers": 24, "hidden_size": 896, "intermediate_size": 4864, "num_attention_heads": 14,
    "num_key_value_heads": 2, "vocab_size": 151_936, "tie_word_embeddings": True,
}  # fmt: skip
TEACHER = TrainConfig(rank=16, batch_rows=1, gradient_checkpointing=True)
WITH_EXPERTS = TEACHER.model_copy(update={"target_parameters": EXPERT_PARAMETERS})
LAPTOP = TrainConfig(base_precision="nf4", batch_rows=4, gradient_checkpointing=True)
STORY_CARD_GIB = 79.25
"""What the story's card held: "GPU 0 has 79.25 GiB total"."""


@pytest.mark.parametrize(("about", "billions"), [(GPT_OSS_20B, 20.9), (QWEN3_06B, 0.596), (QWEN25_05B, 0.494)])
def test_parameters_are_those_of_the_model(about, billions):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    counted = read_shape(about).parameters
    config = AutoConfig.for_model(**about)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert counted == pytest.approx(sum(p.numel() for p in model.parameters()), rel=2e-3)
    assert counted / 1e9 == pytest.approx(billions, rel=2e-3)


@pytest.mark.parametrize(
    ("about", "train", "row_tokens", "card", "fits"),
    [
        (GPT_OSS_20B, TEACHER, 2048, "a100-80gb", True),
        (GPT_OSS_20B, TEACHER, 2048, "h100", True),
        (GPT_OSS_20B, WITH_EXPERTS, 2048, "a100-80gb", False),
        (GPT_OSS_20B, WITH_EXPERTS, 1024, "h100", False),  # "shorter sequences got within 85 MB": still not
        (GPT_OSS_20B, WITH_EXPERTS, 2048, "h200", True),
        (GPT_OSS_20B, TEACHER, 2048, "l40s", True),
        (GPT_OSS_20B, TEACHER, 2048, "l4", False),
        (GPT_OSS_20B, TEACHER, 256, "rtx-2070-super", False),  # "not within an order of magnitude"
        (QWEN3_06B, LAPTOP, 1024, "rtx-4070-laptop", True),
        (QWEN25_05B, TEACHER, 1024, "rtx-2070-super", True),  # "a 0.5B + LoRA fits in 8 GB"
        (QWEN25_05B, TrainConfig(method="full"), 1024, "rtx-2070-super", False),
    ],
)
def test_the_stories_runs_on_their_cards(about, train, row_tokens, card, fits):
    needed = estimate(about, train, row_tokens)
    found = check_memory(needed, load_hardware(card).memory_gib, card)
    assert found.verdict is (Verdict.PASS if fits else Verdict.FAIL), found.sentence()


def test_the_refusal_says_what_takes_the_memory_and_what_to_do():
    found = check_memory(estimate(GPT_OSS_20B, WITH_EXPERTS, 2048), STORY_CARD_GIB, "a100-80gb")
    said = found.sentence()
    assert "beside that of a100-80gb: 85.49 GiB (expected <= 79.25)" in said
    assert "weights 38.9, experts rebuilt with their update 35.6" in said
    assert "Take a card with more memory" in said and "leave train.target_parameters out" in said


def test_a_config_of_an_unusual_form_cannot_tell():
    assert estimate({"model_type": "mamba", "hidden_size": 768}, TEACHER, 512) is None
    assert fit_on_this_machine({"d_model": 512}, TEACHER, 512) == {
        "told": "cannot tell: config.json is of an unusual form"
    }


class Card:
    """Stands for torch.cuda on a machine with a card."""

    def __init__(self, free_gib: float) -> None:
        self.free = int(free_gib * 2**30)

    def is_available(self) -> bool:
        return True

    def mem_get_info(self) -> tuple[int, int]:
        return self.free, self.free


def test_the_card_of_the_machine_is_asked_for_what_is_free(monkeypatch):
    monkeypatch.setattr("torch.cuda", Card(STORY_CARD_GIB))
    assert fit_on_this_machine(GPT_OSS_20B, TEACHER, 2048)["told"] == "pass"
    with pytest.raises(
        ConfigError, match=r"^train_lora: memory that training takes, beside that of this card: 85\.49 GiB"
    ):
        fit_on_this_machine(GPT_OSS_20B, WITH_EXPERTS, 2048)
    trying = WITH_EXPERTS.model_copy(update={"when_memory_is_short": "try"})
    assert fit_on_this_machine(GPT_OSS_20B, trying, 2048)["told"] == "fail"


def test_without_a_card_nothing_is_said_to_fit(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    facts = fit_on_this_machine(QWEN3_06B, LAPTOP, 1024)
    assert facts["told"] == "cannot tell: there is no card here"
    assert "cannot tell" in training_memory.report_memory(facts).measured


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gradient_checkpointing": True},
        {"compute_dtype": "float32"},
        {"packing_tokens": 1024},
        {"method": "full", "compute_dtype": "float32"},
        {"experts": True, "gradient_checkpointing": True},
        {"experts": True},
    ],
    ids=lambda one: "-".join(map(str, one)) or "plain",
)
def test_the_parts_agree_with_the_bytes_that_were_alive(tmp_path, settings):
    """Activations, logits and rebuilt experts of one real training step on a miniature; estimated up to 2.4 times as high."""
    measured, parts = one_step(tmp_path, settings)
    wanted = sum(gib for name, gib in parts.items() if not name.startswith(("weights", "trained"))) * 2**30
    assert 0.85 <= wanted / measured <= 2.4, f"{wanted / 2**20:.1f} MiB estimated, {measured / 2**20:.1f} MiB measured"


def one_step(folder, settings: dict) -> tuple[int, dict]:
    """(bytes alive at once beyond parameters and their gradients, parts of the estimate) of one training step."""
    import json

    from tests.fixtures.live_bytes import LiveBytes

    settings = dict(settings)
    experts = settings.pop("experts", False)
    base, job, rows = miniature(folder, experts)
    extra = {"target_parameters": EXPERT_PARAMETERS} if experts else {}
    adapter = {} if settings.get("method") == "full" else {"rank": 4}
    config = TrainConfig(**{"batch_rows": 1, **adapter, **extra, **settings})
    trainer = trainer_of(config, job, rows)
    batch = trainer.data_collator([trainer.train_dataset[0]])
    known = {p.untyped_storage().data_ptr() for p in [*trainer.model.parameters(), *trainer.model.buffers()]}
    if config.gradient_checkpointing:  # as Trainer.train() does before its first step
        trainer.model.gradient_checkpointing_enable(trainer.args.gradient_checkpointing_kwargs)
    with LiveBytes(known) as live:
        trainer.model.train()
        trainer.training_step(trainer.model, batch)
    gradients = sum(p.grad.nbytes for p in trainer.model.parameters() if p.grad is not None)
    about = json.loads((base / "config.json").read_text())
    return live.peak - gradients, dict(estimate(about, config, 512).parts)


def miniature(folder, experts: bool):
    from tests.fixtures.tiny_chain import train_job
    from tests.fixtures.tiny_model import make_tiny_model
    from tests.fixtures.tiny_moe import make_tiny_moe

    if experts:
        base = make_tiny_moe(folder / "base", width=256, layers=6, experts=8)
    else:
        base = make_tiny_model(folder / "base", hidden_size=256, layers=6, context_tokens=2048)
    rows = [(list(range(7, 519)), 100)] * 4
    return base, train_job(folder, base, base), rows


def trainer_of(config, job, rows):
    from tasks.training import batches as train_batches
    from tasks.training import trainer as lora_trainer

    dataset = train_batches.dataset_of(rows, completion_only=True)
    trainer = lora_trainer._trainer(config, job, lora_trainer._model(config, job, rows), dataset)
    trainer.current_gradient_accumulation_steps = 1  # what train() sets before its first step
    return trainer
