"""What cannot be asked is told before anything is: each problem by model and with what to do, all of them in one list."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import pytest

from data_contracts.prompting.prompt import load_prompt
from tasks.compare_models import STAGE, CompareConfig
from tasks.comparison import preflight as askable
from tasks.comparison.model_entry import ModelEntry, Place
from tasks.core.errors import ConfigError
from tasks.core.stage import Job
from tasks.core.stage_process import execute
from tasks.gguf_export.convert import convert
from tasks.prompts.prompt_digest import contract_digest, read_carried, write_carried
from tests.fixtures.chat_server import ChatServer, Reply
from tests.fixtures.compared import heldout, write_rows
from tests.fixtures.hub_endpoints import File
from tests.fixtures.hub_server import HubServer
from tests.fixtures.tiny_model import edit_json, make_tiny_model

TOKEN = "hf_loopbackTokenOfNobody0123456789"
ROWS = heldout(4)
PROMPT = load_prompt("signals")
MESSAGES = PROMPT.messages(ROWS[0])


def on_disk(**source) -> str:
    """The problems of one entry, as one text."""
    return "\n".join(askable.disk_problems([ModelEntry(name="m", **source)], {}, "signals", ROWS))


@pytest.fixture
def base(tiny_base, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(tiny_base, tmp_path / "base"))


def test_sound_models_have_no_problem(tiny_base, tiny_adapter):
    assert on_disk(folder=str(tiny_base)) == ""
    assert on_disk(folder=str(tiny_base), adapter=str(tiny_adapter.out)) == ""


def drop_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    edit_json(folder / "tokenizer_config.json", lambda config: config.pop("chat_template", None))


DAMAGE = {
    "no config": (lambda f: (f / "config.json").unlink(), "not a whole model folder: config.json missing"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no safetensors file"),
    "truncated": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9]),
        "truncated",
    ),
    "a pickle": (lambda f: (f / "pytorch_model.bin").write_bytes(b"x"), "pickle file"),
    "no template": (drop_template, "has no chat template"),
    "4 bits": (
        lambda f: edit_json(
            f / "config.json", lambda c: c.update(quantization_config={"quant_method": "bitsandbytes"})
        ),
        "holds bitsandbytes-quantised weights, which are not loaded here",
    ),
    "a template that refuses": (
        lambda f: (f / "chat_template.jinja").write_text("{{ raise_exception('no system role') }}"),
        "no system role",
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_folder_that_cannot_be_asked(base, what):
    spoil, said = DAMAGE[what]
    spoil(base)
    assert said in on_disk(folder=str(base))


def test_an_adapter_of_another_base_or_another_contract(tmp_path, tiny_base, tiny_adapter):
    other = make_tiny_model(tmp_path / "other", hidden_size=128)
    assert "was made for another base: 14 of 14 modules do not fit" in on_disk(
        folder=str(other), adapter=str(tiny_adapter.out)
    )
    copy = Path(shutil.copytree(tiny_adapter.out, tmp_path / "adapter"))
    edit_json(copy / "lineage.json", lambda lineage: lineage.update(prompt_contract="f" * 64))
    assert "was made for another prompt contract: it carries ffffffffffff" in on_disk(
        folder=str(tiny_base), adapter=str(copy)
    )


def test_a_merge_of_ours_is_held_to_its_contract_and_a_folder_of_others_is_not(base):
    assert read_carried(base) is None and on_disk(folder=str(base)) == ""
    write_carried(base, contract_digest(PROMPT, base))
    assert on_disk(folder=str(base)) == ""
    write_carried(base, "e" * 64)
    assert "was made for another prompt contract: it carries eeeeeeeeeeee" in on_disk(folder=str(base))


def test_a_gguf_of_ours_is_held_to_its_contract_and_one_of_others_is_not(tmp_path, tiny_base):
    def made(name: str, digest: str) -> Path:
        (tmp_path / name).mkdir()
        convert(tiny_base, tmp_path / name / "m.gguf", name="tiny", prompt_digest=digest, tick=lambda _: None)
        return tmp_path / name / "m.gguf"

    ours, reworded = made("ours", contract_digest(PROMPT, tiny_base)), made("reworded", "d" * 64)
    assert on_disk(gguf=str(ours), tokenizer=str(tiny_base)) == ""
    assert "cannot be told without the tokenizer" in on_disk(gguf=str(ours))
    assert "made for another prompt contract: it carries dddd" in on_disk(gguf=str(reworded), tokenizer=str(tiny_base))
    (tmp_path / "none").write_bytes(b"")
    foreign = tmp_path / "foreign.gguf"
    foreign.write_bytes(ours.read_bytes().replace(b"plumbline.prompt_contract", b"elsewhere.prompt_contract"))
    assert on_disk(gguf=str(foreign)) == ""
    assert "there is no file" in on_disk(gguf=str(tmp_path / "ours" / "q8.gguf"))
    assert "m.gguf" in on_disk(gguf=str(tmp_path / "ours" / "q8.gguf"))
    (tmp_path / "broken.gguf").write_bytes(b"GGUF nonsense")
    assert "cannot be read as GGUF" in on_disk(gguf=str(tmp_path / "broken.gguf"))


def test_a_release_folder_brings_its_own_tokenizer(tmp_path, tiny_base):
    from tasks.comparison.model_entry import place_of

    (tmp_path / "model").mkdir()
    entry = ModelEntry(name="m", gguf=str(tmp_path / "gguf" / "x.gguf"))
    assert place_of(entry, {}) == Place(tmp_path / "gguf" / "x.gguf", tokenizer=tmp_path / "model")


def test_rows_that_a_run_was_trained_on_are_told(tmp_path, tiny_base):
    rows = tmp_path / "rows"
    rows.mkdir()
    (rows / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [ROWS[1], *heldout(3, seed=9)]))
    entry = ModelEntry(name="m", run="signals-nano", part="base")
    folders = {"base of signals-nano": tiny_base, "rows of signals-nano": rows}
    (found,) = askable.disk_problems([entry], folders, "signals", ROWS)
    assert "it was trained on 1 of the 4 rows" in found
    assert askable.disk_problems([entry], folders, "signals", ROWS[2:]) == []


def at(url: str, **more) -> ModelEntry:
    return ModelEntry(name="m", endpoint={"base_url": url, "model": "big", "retries": 0, "timeout_s": 5, **more})


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def test_an_endpoint_that_cannot_be_asked(monkeypatch):
    with ChatServer(api_key="right-key-123456") as server:
        monkeypatch.setenv("PLUMBLINE_ENDPOINT_API_KEY", "wrong-key-123456")
        problem, _ = askable.try_endpoint(at(server.url), MESSAGES, 8)
        assert "401" in problem and "wrong-key-123456" not in problem
        monkeypatch.setenv("OTHER_API_KEY", "right-key-123456")
        problem, digest = askable.try_endpoint(at(server.url, api_key_env="OTHER_API_KEY"), MESSAGES, 8)
        assert problem is None and len(digest) == 64
        problem, _ = askable.try_endpoint(
            at(server.url.replace("/v1", "/v2"), api_key_env="OTHER_API_KEY"), MESSAGES, 8
        )
        assert "404" in problem and "Check base_url" in problem
    problem, _ = askable.try_endpoint(at(f"http://127.0.0.1:{closed_port()}/v1"), MESSAGES, 8)
    assert "Is the server running" in problem


def test_another_answer_is_another_model():
    with ChatServer(lambda _m: "one") as server:
        first = askable.try_endpoint(at(server.url), MESSAGES, 8)[1]
        assert askable.try_endpoint(at(server.url), MESSAGES, 8)[1] == first
        server.reply = lambda _m: Reply("one", reasoning="but thought about")
        assert askable.try_endpoint(at(server.url), MESSAGES, 8)[1] != first


@pytest.fixture
def hub(monkeypatch):
    with HubServer(TOKEN) as server:
        for name, value in {"HF_ENDPOINT": server.url, "HF_TOKEN": TOKEN, "NO_PROXY": "127.0.0.1,localhost"}.items():
            monkeypatch.setenv(name, value)
        for name in ("sound", "gated", "pickles", "quantised"):
            repo = server.create(f"alice/{name}", private=False)
            repo.commit({"pytorch_model.bin" if name == "pickles" else "model.safetensors": File(b"x")}, "weights")
        server.repos["alice/gated"].gated = True
        server.repos["alice/quantised"].config = {"quantization_config": {"quant_method": "mxfp4"}}
        yield server


@pytest.mark.parametrize(
    ("name", "revision", "said"),
    [
        ("sound", "main", None),
        ("sound", "v9", "has no revision 'v9'"),
        ("gone", "main", "was not found on the Hub"),
        ("gated", "main", "is gated. Accept its licence"),
        ("pickles", "main", "holds no safetensors file"),
        ("quantised", "main", "holds mxfp4-quantised weights"),
    ],
)
def test_a_repository_that_cannot_be_asked(hub, name, revision, said):
    problem = askable.hub_problem(ModelEntry(name="m", hub=f"alice/{name}", revision=revision))
    assert problem is None if said is None else said in problem


def test_a_hub_that_does_not_answer_is_told(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    assert "cannot be looked up" in askable.hub_problem(ModelEntry(name="m", hub="alice/x"))


def test_every_problem_of_a_list_is_told_before_the_first_model_is_asked(hub, base, tmp_path):
    drop_template(base)
    with ChatServer(api_key="k" * 16) as server:
        entries = [
            ModelEntry(name="lost", hub="alice/gone"),
            ModelEntry(name="mute", folder=str(base)),
            ModelEntry(name="nowhere", gguf=str(tmp_path / "no.gguf")),
            ModelEntry(name="locked", endpoint={"base_url": server.url, "model": "big"}),
        ]
        found, _ = askable.network_problems(entries, "signals", ROWS[0], 8)
        found += askable.disk_problems(entries, {}, "signals", ROWS)
        assert [line.strip().split(":")[0] for line in found] == ["lost", "locked", "mute", "nowhere"]
        config = CompareConfig(models=entries[1:3], rows_file=write_rows(tmp_path / "rows.jsonl", ROWS))
        job = Job("signals", tmp_path / "out", work=tmp_path / "work")
        with pytest.raises(
            ConfigError, match=r"2 problem\(s\) with 2 models. None was asked.[\s\S]*mute[\s\S]*nowhere"
        ):
            execute(STAGE, config, job)
        assert not job.out.exists()
