"""Thinking on and off: the template's own switch, in transformers, in a GGUF, at an endpoint; ignored, it is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_contracts.prompting.prompt import load_prompt
from tasks.compare_models import STAGE, CompareConfig
from tasks.comparison import preflight as askable
from tasks.comparison.checks import ANSWERS, BOARD
from tasks.comparison.model_entry import ModelEntry
from tasks.core.errors import ConfigError
from tasks.core.stage import Job
from tasks.core.stage_process import execute
from tasks.evaluation.local_models import AskingConfig, LocalModel, ask
from tasks.gguf_export.convert import convert
from tasks.recipes.signals import recipe as signals
from tests.fixtures.chat_server import ChatServer, Reply
from tests.fixtures.compared import THINKING_TEMPLATE, heldout, oracle, write_rows
from tests.fixtures.tiny_model import make_tiny_model

ROWS = heldout(8)
PROMPT = load_prompt("signals")
MESSAGES = PROMPT.messages(ROWS[0])


@pytest.fixture(scope="module")
def thinker(tmp_path_factory) -> Path:
    """A folder whose template knows the switch, with a GGUF of it beside the weights."""
    folder = make_tiny_model(tmp_path_factory.mktemp("thinker") / "model", hidden_size=64, context_tokens=1024)
    (folder / "chat_template.jinja").write_text(THINKING_TEMPLATE, "utf-8")
    convert(folder, folder.parent / "thinker.gguf", name="t", prompt_digest="0", tick=lambda _: None)
    return folder


def rendered(path: Path, thinking: bool | None) -> list[str]:
    """The prompts that the model was given."""
    seen: list[str] = []
    config = AskingConfig(max_new_tokens=8, repeated_rows=0)
    look = lambda model: seen.extend(model.render(row) for row in ROWS[:2])  # noqa: E731
    ask(config, LocalModel("m", path, PROMPT, thinking=thinking), ROWS[:2], look=look)
    return seen


@pytest.mark.parametrize("name", ["model", "thinker.gguf"])
def test_the_switch_changes_the_prompt_of_a_model_on_this_disk(thinker, name):
    plain, on, off = (rendered(thinker.parent / name, state) for state in (None, True, False))
    assert plain == on
    assert all(text.endswith("<|im_start|>assistant\n") for text in on)
    assert off == [text + "<think>\n\n</think>\n\n" for text in on]


def test_an_answer_without_its_trace_is_read_with_an_empty_one():
    answer = json.dumps(signals.answer_of(ROWS[0]))
    assert signals.parse_output(answer).answer is None
    read = signals.parse_output(signals.with_thoughts(answer))
    assert (read.answer, read.trace) == (signals.answer_of(ROWS[0]), "")
    assert signals.parse_output(signals.with_thoughts(answer, "hm")).trace == "hm"
    whole = signals.completion(ROWS[0])
    assert signals.with_thoughts(whole, "hm") == whole


def entry(**values) -> ModelEntry:
    return ModelEntry(name="m", **values)


def test_a_template_without_the_switch_is_refused(tiny_base, thinker):
    for source, ignored in (({"folder": str(tiny_base)}, True), ({"folder": str(thinker)}, False)):
        for state in (True, False):
            found = askable.disk_problems([entry(**source, thinking=state)], {}, "signals", ROWS)
            assert bool(found) is ignored, found
            assert not ignored or "renders the same prompt with thinking on and off" in found[0]
    assert not askable.disk_problems([entry(folder=str(tiny_base))], {}, "signals", ROWS)


def counting(obeys: bool, tokens: bool = True):
    """A server that renders the switch, or drops it without a word; it tells the length of its prompts, or does not."""

    def body(asked: dict) -> Reply:
        off = (asked.get("chat_template_kwargs") or {}).get("enable_thinking") is False
        usage = {"prompt_tokens": 40 + (4 if off and obeys else 0), "completion_tokens": 3} if tokens else {}
        choice = {"message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
        return Reply(body=json.dumps({"choices": [choice], "usage": usage}).encode())

    return body


class Template(ChatServer):
    """A chat server that answers by the whole request, not by its messages alone."""

    def __init__(self, by_body) -> None:
        super().__init__()
        self.by_body = by_body

    def came_in(self, record):
        super().came_in(record)
        return self.by_body(record.body)


@pytest.mark.parametrize(
    ("obeys", "tokens", "said"),
    [(True, True, ""), (False, True, "renders the same prompt"), (True, False, "cannot be told")],
)
def test_an_endpoint_that_ignores_the_switch_is_refused(obeys, tokens, said):
    with Template(counting(obeys, tokens)) as server:
        one = entry(endpoint={"base_url": server.url, "model": "m"}, thinking=False)
        problem, digest = askable.try_endpoint(one, MESSAGES, 16)
        asked = [record.body["chat_template_kwargs"] for record in server.requests]
    assert asked == [{"enable_thinking": False}, {"enable_thinking": True}]
    assert (problem is None) is (said == "") and said in (problem or "")
    assert digest


def test_llama_cpps_own_server_drops_the_switch_and_that_is_told(thinker):
    """llama_cpp.server takes the request and renders its template without chat_template_kwargs."""
    import threading

    import uvicorn

    from tasks.runtimes.llama_server import make_app

    server = uvicorn.Server(
        uvicorn.Config(make_app(thinker.parent / "thinker.gguf", "t"), port=0, log_level="error", lifespan="off")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
        port = server.servers[0].sockets[0].getsockname()[1]
        source = {"base_url": f"http://127.0.0.1:{port}/v1", "model": "t"}
        plain, digest = askable.try_endpoint(entry(endpoint=source), MESSAGES, 8)
        assert plain is None and len(digest) == 64
        assert askable.try_endpoint(entry(endpoint=source), MESSAGES, 8)[1] == digest, (
            "greedy: known again by its answer"
        )
        switched, _ = askable.try_endpoint(entry(endpoint=source, thinking=False), MESSAGES, 8)
        assert "renders the same prompt with thinking on and off" in switched
    finally:
        server.should_exit = True
        thread.join(timeout=10)


def test_both_ways_of_asking_stand_beside_each_other(thinker, tmp_path):
    """One model twice: a thinker that answers by its prompt, in transformers, in a GGUF, and behind an endpoint."""
    right = oracle(ROWS)

    def answer(body: dict) -> Reply:
        whole = right(body["messages"])
        off = body.get("chat_template_kwargs") == {"enable_thinking": False}
        thoughts, _, answer = whole.partition("</think>")
        return (
            Reply(answer.strip()) if off else Reply(answer.strip(), reasoning=thoughts.removeprefix("<think>").strip())
        )

    with Template(answer) as server:
        address = {"base_url": server.url, "model": "m"}
        models = [
            {"name": f"{name}-{'on' if state else 'off'}", **source, "thinking": state}
            for state in (True, False)
            for name, source in (
                ("folder", {"folder": str(thinker)}),
                ("gguf", {"gguf": str(thinker.parent / "thinker.gguf"), "tokenizer": str(thinker)}),
                ("endpoint", {"endpoint": address}),
            )
        ]
        config = CompareConfig(
            models=[one for one in models if not one["name"].startswith("gguf")],
            rows_file=write_rows(tmp_path / "r.jsonl", ROWS),
            max_new_tokens=8,
            repeated_rows=8,
            metamorphic_rows=0,
        )
        job = Job("signals", tmp_path / "out", work=tmp_path / "work")
        job.out.mkdir()
        job.work.mkdir()
        execute(STAGE, config, job)
    board = {row["model"]: row for row in json.loads((job.out / BOARD).read_text())["models"]}
    for name in ("endpoint-on", "endpoint-off"):
        assert board[name]["scores"]["valid_json_fraction"]["value"] == 1, name
    assert (board["endpoint-on"]["thinking"], board["endpoint-off"]["thinking"]) == (True, False)
    assert "thinking off" in (job.out / "comparison.md").read_text()
    lines = [json.loads(line) for line in (job.out / ANSWERS).read_text().splitlines()]
    assert lines[0]["answers"]["endpoint-on"] == signals.completion(ROWS[0])
    assert lines[0]["answers"]["endpoint-off"].startswith("<think>\n\n</think>\n\n{")
    with pytest.raises(ConfigError, match=r"gguf-on: thinker\.gguf was made for another prompt contract"):
        execute(STAGE, config.model_copy(update={"models": [ModelEntry(**models[1])]}), job)
