"""`python -m flows serve`: the file that was evaluated, its own template and stops, and the answers it gives directly."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from data_contracts.paths import CONTRACTS_FOLDER
from data_contracts.prompting.prompt import load_prompt
from flows.serve import locate
from tasks.core.errors import ArtifactError, ConfigError
from tasks.gguf_export.convert import convert
from tasks.prompts.prompt_digest import contract_digest
from tasks.release.released import open_release
from tasks.runtimes.llama_model import LlamaEngine
from tests.fixtures.tiny_model import CHATML, make_tiny_model

ROOT = Path(__file__).resolve().parents[2]
MAX_TOKENS = 24
# Not a template that anyone could guess: the prompt shows whether the file's own was used.
TEMPLATE = CHATML.replace("{% if add_generation_prompt %}", "{{ 'Think of YES.' }}{% if add_generation_prompt %}")
CHATS = [
    [
        {"role": "system", "content": "Read the headline."},
        {"role": "user", "content": f"Headline: {text}\nQuestion: Why?"},
    ]
    for text in ("ECB holds rates", "Ünder 3.14 % <|im_end|> x", "<think> 12345", "the strike ended on Friday", "")
]
HOSTILE = {"LORA_PATH": "/nowhere", "N_CTX": "16", "CHAT_FORMAT": "llama-2", "TEMPERATURE": "2", "HOST": "0.0.0.0"}
"""Variables that llama_cpp.server reads by itself."""


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release folder around a random model."""
    folder = tmp_path_factory.mktemp("release") / "tiny"
    model = make_tiny_model(folder / "model", hidden_size=192, context_tokens=512, weight_std=0.2)
    (model / "chat_template.jinja").write_text(TEMPLATE, "utf-8")
    (folder / "gguf").mkdir()
    path = folder / "gguf" / "tiny-f16.gguf"
    contract = contract_digest(load_prompt("signals"), model)
    convert(model, path, name="tiny", prompt_digest=contract, tick=lambda _: None)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    row = {"model": "f16", "path": "gguf/tiny-f16.gguf", "file_digest": digest}
    board = {"name": "tiny", "recipe": "signals", "rows": [{"model": "base", "path": None, "file_digest": None}, row]}
    (folder / "leaderboard.json").write_text(json.dumps(board), "utf-8")
    (folder / "manifest.json").write_text(json.dumps({"gguf": {"files": {"model-f16.gguf": digest}}}), "utf-8")
    shutil.copyfile(CONTRACTS_FOLDER / "signals" / "examples" / "gold.jsonl", folder / "heldout.jsonl")
    return folder


@pytest.fixture
def copy(release: Path, tmp_path: Path) -> Path:
    """The same, free to be broken."""
    return Path(shutil.copytree(release, tmp_path / "tiny", ignore=shutil.ignore_patterns("model.safetensors")))


@pytest.fixture(scope="module")
def served(release: Path, tmp_path_factory: pytest.TempPathFactory):
    """(what the command printed, its process), in an environment that tries to change the model."""
    config = tmp_path_factory.mktemp("hostile") / "config.json"
    config.write_text(json.dumps({"models": [{"model": "/nowhere.gguf"}]}), "utf-8")
    argv = [sys.executable, "-m", "flows", "serve", str(release), "--quantization", "f16", "--port", "0"]
    env = {**os.environ, **HOSTILE, "CONFIG_FILE": str(config)}
    process = subprocess.Popen(argv, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        said = []
        for line in process.stdout:
            said.append(line)
            if "Ctrl-C" in line:
                break
        yield "".join(said), process
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def client(served):
    from openai import OpenAI

    found = re.search(r"base URL +(http://127\.0\.0\.1:\d+/v1)", served[0])
    assert found, served[0]
    return OpenAI(base_url=found[1], api_key="none", max_retries=0, timeout=60)


def test_same_prompt_tokens_and_same_greedy_answer_as_the_file(release, client):
    answers = set()
    with LlamaEngine(release / "gguf" / "tiny-f16.gguf", n_threads=1) as engine:
        for chat in CHATS:
            text = engine.render_chat(chat)
            assert "Think of YES." in text
            ids = engine.tokenize(text)
            direct = engine.generate([ids], MAX_TOKENS)[0]
            got = client.chat.completions.create(model="tiny-f16", messages=chat, max_tokens=MAX_TOKENS)
            tokens = client.post("/../extras/tokenize", body={"input": text}, cast_to=object)
            assert tokens["tokens"] == ids
            assert got.usage.prompt_tokens == len(ids)
            # half a character, which a random model writes, is dropped by the server and shown as U+FFFD by the engine
            assert got.choices[0].message.content == direct.text.replace("\ufffd", "")
            assert got.choices[0].finish_reason == {"eos": "stop", "length": "length"}[direct.stopped]
            answers.add(direct.text)
    assert len(answers) == len(CHATS), "a model that always says the same proves nothing"


def test_a_template_that_the_server_knows_is_still_the_files_own(release, tmp_path):
    """The server replaces templates of its table by code of its own, which drops all but one system message."""
    import asyncio

    import httpx
    from llama_cpp.llama_chat_format import CHATML_CHAT_TEMPLATE

    from tasks.runtimes.llama_server import make_app

    model = Path(shutil.copytree(release / "model", tmp_path / "model"))
    (model / "chat_template.jinja").write_text(CHATML_CHAT_TEMPLATE, "utf-8")
    convert(model, tmp_path / "known.gguf", name="known", prompt_digest="0", tick=lambda _: None)
    chat = [{"role": role, "content": f"say {role}"} for role in ("system", "user", "system", "user")]
    with LlamaEngine(tmp_path / "known.gguf", n_threads=1) as engine:
        ids = engine.tokenize(engine.render_chat(chat))

    async def ask() -> dict:
        transport = httpx.ASGITransport(make_app(tmp_path / "known.gguf", "known"))
        async with httpx.AsyncClient(transport=transport, base_url="http://known", timeout=60) as client:
            return (await client.post("/v1/chat/completions", json={"messages": chat, "max_tokens": 1})).json()

    assert asyncio.run(ask())["usage"]["prompt_tokens"] == len(ids)


def test_streamed_text_and_a_second_client_change_nothing(client):
    whole = client.chat.completions.create(model="any", messages=CHATS[0], max_tokens=MAX_TOKENS)
    stream = client.chat.completions.create(model="any", messages=CHATS[0], max_tokens=MAX_TOKENS, stream=True)
    text = "".join(one.choices[0].delta.content or "" for one in stream)
    assert text == whole.choices[0].message.content


def test_context_is_the_files_own_and_too_long_is_refused(client):
    from openai import BadRequestError

    long = [{"role": "user", "content": "word " * 600}]
    with pytest.raises(BadRequestError, match="512"):
        client.chat.completions.create(model="any", messages=long)


def test_a_web_page_cannot_read_answers(client):
    answer = client.models.with_raw_response.list(extra_headers={"Origin": "https://example.org"})
    assert "tiny-f16" in answer.text and "access-control-allow-origin" not in answer.headers


def test_the_printed_example_works_as_it_stands(served):
    command = served[0].partition("example   ")[2].partition("\nIt sends a row")[0]
    done = subprocess.run(["bash", "-c", f"{command} -s"], capture_output=True, text=True, timeout=120)
    row = json.loads((CONTRACTS_FOLDER / "signals" / "examples" / "gold.jsonl").read_text().splitlines()[0])
    assert json.loads(done.stdout)["messages"] == load_prompt("signals").messages(row), done


def test_a_row_is_asked_in_the_words_of_training_and_its_answer_read_back(release, served):
    import httpx

    url = re.search(r"base URL +(\S+)", served[0])[1] + "/rows"
    row = {"headline": "ECB holds rates", "question": "Will the ECB cut by {June}?"}
    lines = [("Market closes", "2026-06-30")]
    got = httpx.post(url, json={"row": row, "context": lines, "max_tokens": MAX_TOKENS}, timeout=60).json()
    expected = load_prompt("signals").messages(row, lines)
    assert got["messages"] == expected and expected[1]["content"].endswith("Market closes: 2026-06-30")
    with LlamaEngine(release / "gguf" / "tiny-f16.gguf", n_threads=1) as engine:
        direct = engine.generate([engine.tokenize(engine.render_chat(expected))], MAX_TOKENS)[0]
    assert got["text"] == direct.text.replace("\ufffd", "")
    assert (got["answer"], got["problem"]) == (None, "no closing </think>")  # a random model writes no answer


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"row": {"headline": "ECB holds rates"}}, "question"),
        ({"row": {"headline": "x", "question": "y"}, "context": [["Headline", "another"]]}, "1 of 1 context lines"),
        ({"rows": {"headline": "x", "question": "y"}}, "rows"),
        ({"row": {"headline": "word " * 600, "question": "y"}}, "512"),
    ],
)
def test_a_row_that_cannot_be_asked_is_refused_with_the_reason(served, body, said):
    import httpx

    answer = httpx.post(re.search(r"base URL +(\S+)", served[0])[1] + "/rows", json=body, timeout=60)
    assert 400 <= answer.status_code < 500 and said in answer.text, answer.text


def test_ctrl_c_stops_it_without_a_traceback(release):
    argv = [sys.executable, "-m", "flows", "serve", str(release), "--quantization", "f16", "--port", "0"]
    process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while "Ctrl-C" not in process.stdout.readline():
        assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert "Traceback" not in errors and process.returncode in (0, 130)


def test_another_file_under_the_same_name_is_refused(copy):
    path = copy / "gguf" / "tiny-f16.gguf"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"not what was evaluated.*leaderboard\.json says.*manifest\.json says"):
        open_release(copy, "f16")
    argv = [sys.executable, "-m", "flows", "serve", str(copy), "--quantization", "f16", "--port", "0"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "not what was evaluated" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["leaderboard", "manifest"])
def test_each_record_counts(copy, name):
    path = copy / f"{name}.json"
    path.write_text(path.read_text("utf-8").replace(open_release(copy, "f16").digest, "f" * 64), "utf-8")
    with pytest.raises(ArtifactError, match=rf"{name}\.json says ffffffffffff"):
        open_release(copy, "f16")


def test_what_is_not_there_is_told_with_what_is(copy, tmp_path):
    with pytest.raises(ConfigError, match=r"holds no q8_0\. It was made with f16"):
        open_release(copy, "q8_0")
    with pytest.raises(ConfigError, match="not a whole release"):
        open_release(tmp_path / "nothing", "f16")
    with pytest.raises(ConfigError, match="Give a path, or one of: .*signals/nano"):
        locate("signals/unknown")
    assert locate(str(copy)) == (copy, "q8_0")


def test_a_taken_port_is_told_before_the_model_loads(release):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        argv = ["serve", str(release), "--quantization", "f16", "--port", str(taken.getsockname()[1])]
        done = subprocess.run(
            [sys.executable, "-m", "flows", *argv], cwd=ROOT, capture_output=True, text=True, timeout=120
        )
    assert done.returncode == 1 and "cannot be used" in done.stderr, done


def test_a_file_of_another_prompt_contract_is_not_served(copy):
    """A reworded prompt.md, or another tokenizer beside the file, would give fluent answers that mean nothing."""
    tokenizer = copy / "model" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + " ")
    with pytest.raises(ArtifactError, match="tiny-f16.gguf was made for another prompt contract"):
        open_release(copy, "f16")
