"""Real vLLM: the same answers as transformers, batch after batch, and the truth about a worker that dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from data_contracts.verdict import Verdict
from tasks.clients.chat_tokens import Prompts
from tasks.clients.local_model import LocalChat
from tasks.clients.requests import Ask
from tasks.clients.vllm_client import VllmSource
from tasks.clients.vllm_parity import parity_checks, serving_parity
from tasks.clients.vllm_settings import DEFAULT_PYTHON, VllmSettings, interpreter_problem, stack_files
from tasks.core.errors import ArtifactError, ChildError, ConfigError
from tasks.runtimes import hf_model
from tests.fixtures.tiny_model import edit_json, make_tiny_model

ROOT = Path(__file__).resolve().parents[3]
WORDS = ("inflation", "the port strike", "rents", "a late frost", "wheat", "the ECB", "steel", "the vote")
needs_vllm = pytest.mark.skipif(bool(interpreter_problem(DEFAULT_PYTHON)), reason=interpreter_problem(DEFAULT_PYTHON))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny model with heads of 64: vLLM's CPU attention takes no smaller ones than 32."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model", hidden_size=256, context_tokens=512)


@pytest.fixture(scope="module")
def source(folder, tmp_path_factory) -> Iterator[VllmSource]:
    with VllmSource(folder, VllmSettings(), DEFAULT_PYTHON, tmp_path_factory.mktemp("logs")) as one:
        yield one


def asks(count: int = 8, max_tokens: int = 24) -> list[Ask]:
    return [
        Ask("here", "tiny", ({"role": "user", "content": f"Tell of {WORDS[i % 8]}, case {i}."},), max_tokens, 0.0)
        for i in range(count)
    ]


def texts(found) -> dict[str, str]:
    return {ask.messages[0]["content"]: answer.text for ask, answer in found}


@needs_vllm
def test_vllm_answers_as_transformers_does(source, folder):
    with LocalChat(folder) as chat:
        expected = {ask.messages[0]["content"]: answer for ask, answer in chat.answers(asks(), lambda _n: None)}
    seen: list[dict] = []
    found = {ask.messages[0]["content"]: answer for ask, answer in source.answers(asks(), seen.append)}
    assert {k: v.token_ids for k, v in found.items()} == {k: v.token_ids for k, v in expected.items()}
    assert {k: (v.text, v.finish_reason) for k, v in found.items()} == {
        k: (v.text, v.finish_reason) for k, v in expected.items()
    }
    assert any("loaded_s" in one for one in seen)


@needs_vllm
def test_tokens_move_while_the_answers_are_written(source):
    """Long answers, all at once for some seconds: the count reported of them grows, and is not repeated when it stands."""
    seen: list[dict] = []
    answers = [answer for _, answer in source.answers(asks(64, max_tokens=440), seen.append)]
    counts = [numbers["tokens"] for numbers in seen if "tokens" in numbers]
    assert sum(answer.completion_tokens for answer in answers) > 4_000
    assert len(counts) >= 2 and counts == sorted(set(counts)) and 0 < counts[0] < counts[-1] <= 64 * 440, counts


@needs_vllm
def test_one_worker_answers_batch_after_batch_and_keeps_the_room_of_each(source):
    list(source.answers(asks(1, max_tokens=3), lambda _n: None))
    workers = [one.process.pid for one in source.workers]
    found = list(source.answers(asks(20, max_tokens=7), lambda _n: None))
    assert len(texts(found)) == 20 and {answer.completion_tokens for _, answer in found} == {7}
    assert workers and workers == [one.process.pid for one in source.workers]
    assert list(source.answers([], lambda _n: None)) == []


@needs_vllm
def test_a_chat_is_rendered_once_for_its_room_and_for_each_time_it_is_asked(source, monkeypatch):
    some = [
        Ask(a.where, a.model, ({"role": "user", "content": f"once: {a.messages[0]['content']}"},), 4) for a in asks()
    ]
    rendered = []
    render = source.prompts.render
    monkeypatch.setattr(source.prompts, "render", lambda *chat: rendered.append(chat) or render(*chat))
    room = [source.room_tokens(ask.messages) for ask in some]
    assert len(set(texts(source.answers(some, lambda _n: None)))) == len(some) == len(rendered)
    assert min(room) > 0 and source.room_tokens(some[0].messages) == room[0] and len(rendered) == len(some)


@needs_vllm
def test_seeds_repeat_sampled_answers(source):
    def drawn(seed: int) -> dict[str, str]:
        some = [Ask(a.where, a.model, a.messages, 24, 1.0, seed=seed) for a in asks()]
        return texts(source.answers(some, lambda _n: None))

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


@needs_vllm
def test_the_room_is_cut_to_the_context_and_a_prompt_beyond_it_is_refused_alone(source):
    ((_, answer),) = source.answers(asks(1, max_tokens=9999), lambda _n: None)
    assert answer.finish_reason in ("stop", "length")
    assert answer.prompt_tokens + answer.completion_tokens <= 512
    long = Ask("here", "tiny", ({"role": "user", "content": "rates " * 600},), 8, 0.0)
    (_, refused), (_, answer) = source.answers([long, *asks(1)], lambda _n: None)
    assert refused.no_room and "the context 512" in refused.trouble
    assert answer.completion_tokens


@needs_vllm
def test_two_copies_share_the_prompts(folder, tmp_path):
    with VllmSource(folder, VllmSettings(data_parallel=2, cpu_kv_cache_gib=0.25), DEFAULT_PYTHON, tmp_path) as one:
        found = texts(one.answers(asks(), lambda _n: None))
        pids = [worker.process.pid for worker in one.workers]
        cores = [worker.cores for worker in one.workers]
    assert len(pids) == 2 and len(found) == 8
    assert not set(cores[0]) & set(cores[1]) or os.cpu_count() == 1
    with LocalChat(folder) as chat:
        assert found == texts(chat.answers(asks(), lambda _n: None))
    assert not any(alive(pid) for pid in pids)


@needs_vllm
def test_settings_reach_the_engine(folder, tmp_path):
    """A context of 64 tokens ends answers, and is too short for a prompt, only if it is the engine's."""
    with VllmSource(folder, VllmSettings(max_model_len_tokens=64, dtype="bfloat16"), DEFAULT_PYTHON, tmp_path) as one:
        (_, answer) = next(iter(one.answers(asks(1, max_tokens=500), lambda _n: None)))
        assert answer.prompt_tokens + answer.completion_tokens <= 64
        lines = [{"id": 0, "ids": [5] * 80, "max_tokens": 4, "temperature": 0.0}]
        # vLLM drops a prompt beyond its context without a word: the count is what sees it
        with pytest.raises(ChildError, match="0 of 1 prompts came back"):
            list(one.run(lines, [1], lambda _n: None))


@needs_vllm
def test_a_killed_worker_is_told_and_leaves_nobody_behind(folder, tmp_path):
    with VllmSource(folder, VllmSettings(), DEFAULT_PYTHON, tmp_path) as one:
        answers = one.answers(asks(64, max_tokens=400), lambda _n: None)
        next(answers)
        (pid,) = [worker.process.pid for worker in one.workers]
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(ChildError, match="killed by SIGKILL before it had answered everything"):
            list(answers)
    assert not alive(pid)


@needs_vllm
def test_a_worker_dies_with_its_parent(folder, tmp_path):
    code = f"""
    import sys; sys.path.insert(0, {str(ROOT)!r})
    from pathlib import Path
    from tasks.clients.vllm_settings import DEFAULT_PYTHON, VllmSettings
    from tasks.clients.vllm_client import VllmSource
    from tests.tasks.clients.test_vllm_client import asks
    source = VllmSource(Path({str(folder)!r}), VllmSettings(), {DEFAULT_PYTHON!r}, Path({str(tmp_path)!r}))
    answers = source.answers(asks(64, max_tokens=400), lambda _n: None)
    next(answers)
    print(source.workers[0].process.pid, flush=True)
    list(answers)
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(pid)


@needs_vllm
def test_a_model_that_vllm_cannot_run_is_told_in_its_words(tmp_path):
    folder = make_tiny_model(tmp_path / "model", hidden_size=256, context_tokens=256)
    edit_json(folder / "config.json", lambda c: c.update(architectures=["AbacusForCausalLM"], model_type="abacus"))
    with VllmSource(folder, VllmSettings(), DEFAULT_PYTHON, tmp_path) as one, pytest.raises(ChildError, match="abacus"):
        list(one.run([{"id": 0, "ids": [1], "max_tokens": 1, "temperature": 0.0}], [1], lambda _n: None))


def test_a_pickle_is_refused_before_vllm_starts(folder, tmp_path):
    import shutil

    bad = tmp_path / "model"
    shutil.copytree(folder, bad)
    (bad / "model.safetensors").rename(bad / "pytorch_model.bin")
    source = VllmSource(bad, VllmSettings(), sys.executable, tmp_path)
    with pytest.raises(ArtifactError, match=r"pytorch_model\.bin"):
        list(source.run([{"id": 0}], [1], lambda _n: None))
    assert source.workers == []


# --- loads unchanged in the engine that serves it


def prompts_of(folder: Path) -> list[list[int]]:
    prompts = Prompts.of(folder)
    return [prompts.render(ask.messages)[0] for ask in asks()]


@needs_vllm
def test_a_folder_is_served_as_transformers_has_it(folder, tmp_path):
    found = serving_parity(folder, prompts_of(folder), tmp_path)
    assert found.tokens >= 100 and found.top1_fraction == 1.0 and found.mean_difference_nats < 1e-4
    assert {one.verdict for one in parity_checks(found)} == {Verdict.PASS}


@needs_vllm
def test_another_model_is_not_the_same(folder, tmp_path):
    """The check must be able to fail: a folder whose weights differ by one part in twenty."""
    from tests.fixtures.tiny_chain import edit_tensors

    other = make_tiny_model(tmp_path / "other", hidden_size=256, context_tokens=512)
    edit_tensors(other / "model.safetensors", lambda tensors: [one.mul_(1.05) for one in tensors.values()])
    found = serving_parity(folder, prompts_of(folder), tmp_path, reference=other)
    assert Verdict.FAIL in {one.verdict for one in parity_checks(found)}


def test_a_few_tokens_cannot_tell():
    from tasks.clients.vllm_parity import ServingParity

    few = parity_checks(ServingParity(1, 20, 1.0, 0.0, 0.0, "float32"))
    none = parity_checks(ServingParity(1, 0, None, None, None, "float32"))
    assert {one.verdict for one in few[:2]} == {one.verdict for one in none[:2]} == {Verdict.CANNOT_TELL}


# --- where vLLM lives


def test_a_missing_interpreter_says_how_to_get_it(folder, tmp_path):
    with pytest.raises(ConfigError, match="Run: python deployments/setup.py --with vllm"):
        VllmSource(folder, VllmSettings(), "no/such/python", tmp_path)
    assert stack_files("no/such/python") == []


@needs_vllm
def test_the_versions_over_there_are_in_the_key():
    names = [Path(one).parent.name.partition("-")[0] for one in stack_files(DEFAULT_PYTHON)]
    assert "torch" in names and "transformers" in names and any(name.startswith("vllm") for name in names)


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_template_that_opens_the_thoughts_gives_the_answer_its_tag(folder, tmp_path):
    import shutil

    thinking = tmp_path / "model"
    shutil.copytree(folder, thinking)
    template = thinking / "chat_template.jinja"
    template.write_text(
        template.read_text().replace("assistant\\n' }}{% endif %}", "assistant\\n<think>\\n' }}{% endif %}")
    )
    ids, opening = Prompts.of(thinking).render(asks(1)[0].messages)
    assert opening == "<think>\n" and hf_model.load_tokenizer(thinking).decode(ids).endswith("<think>\n")
    assert Prompts.of(folder).render(asks(1)[0].messages)[1] == ""
