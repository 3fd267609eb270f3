"""A model that really speaks in channels: what it thinks never becomes a row, and thoughts that fill the room are asked again."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_contracts.prompting.prompt import load_prompt
from tasks.clients.harmony import MARKS
from tasks.clients.vllm_settings import DEFAULT_PYTHON, interpreter_problem
from tasks.core.stage_process import execute
from tasks.generate_teacher import STAGE, GenerateConfig
from tasks.recipes.signals import nano_rows as signals_world
from tests.fixtures.teaching import job_in, make_dataset, rows_of
from tests.fixtures.tiny_model import edit_json, make_tiny_model

THOUGHT, SAID = "We need JSON.", '{"relevance": 0.9}'
ANSWER = f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant<|channel|>final<|message|>{SAID}<|return|>"
TEMPLATE = (
    "{% for message in messages %}{{ '<|start|>' + message['role'] + '<|message|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)
STEPS, LEARNING_RATE = 450, 2e-3


@pytest.fixture(scope="module")
def thinker(tmp_path_factory) -> Path:
    """A tiny model that learned by heart to answer every prompt with ANSWER."""
    import torch
    from transformers import AutoTokenizer, Qwen3ForCausalLM

    folder = make_tiny_model(
        tmp_path_factory.mktemp("channels") / "model", embedding_rows=640, context_tokens=512, dtype="float32"
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": list(MARKS), "eos_token": "<|return|>"})
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    edit_json(folder / "generation_config.json", lambda c: c.update(eos_token_id=tokenizer.eos_token_id))
    model = Qwen3ForCausalLM.from_pretrained(folder)
    answer = tokenizer(ANSWER, add_special_tokens=False)["input_ids"]
    contract = load_prompt("signals")
    prompts = [
        tokenizer.apply_chat_template(contract.messages(row), tokenize=False, add_generation_prompt=True)
        for row in signals_world.nano_rows(STEPS, 1, 3)[0]
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    falling = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS)
    losses = []
    for prompt in prompts:
        head = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        labels = torch.tensor([[-100] * len(head) + answer])
        loss = model(input_ids=torch.tensor([[*head, *answer]]), labels=labels).loss
        loss.backward()
        optimizer.step()
        falling.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert max(losses[-20:]) < 0.01, "it did not learn its answer"
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("engine", ["transformers", "vllm"])
def test_only_the_final_channel_is_the_answer(tmp_path, thinker, engine):
    if engine == "vllm" and (problem := interpreter_problem(DEFAULT_PYTHON)):
        pytest.skip(problem)
    job = job_in(tmp_path, make_dataset(tmp_path / "dataset", 6))
    config = GenerateConfig(engine=engine, model=str(thinker), max_new_tokens=64, max_refused_fraction=0)
    outcome = execute(STAGE, config, job)
    assert outcome["facts"]["channel_parser"] == "plumbline's own"
    answers = rows_of(job.out, "answers")
    assert {(one["text"], one["hidden_chars"], one["problem"]) for one in answers} == {(SAID, len(THOUGHT), "")}
    assert all(len(one["token_ids"]) > 10 for one in answers)


def test_thoughts_that_fill_the_room_are_asked_again_with_more(tmp_path, thinker):
    job = job_in(tmp_path, make_dataset(tmp_path / "dataset", 6))
    config = GenerateConfig(
        engine="transformers", model=str(thinker), max_new_tokens=9, attempts=4, max_refused_fraction=0
    )
    outcome = execute(STAGE, config, job)
    answers = rows_of(job.out, "answers")
    assert {one["text"] for one in answers} == {SAID} and min(one["attempts"] for one in answers) >= 2
    assert outcome["facts"]["asked_again"] == 6
    few = GenerateConfig(
        engine="transformers", model=str(thinker), max_new_tokens=9, attempts=1, max_refused_fraction=1
    )
    job = job_in(tmp_path / "few", make_dataset(tmp_path / "few-dataset", 6))
    assert execute(STAGE, few, job)["facts"]["refused"] == {"empty": 6}
