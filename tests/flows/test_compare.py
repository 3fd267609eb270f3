"""The flow `compare`: lists of models and the last run of a profile, from config to the folder where people look."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from data_contracts.prompting.prompt import load_prompt
from flows import comparison
from flows.comparison import comparison_of, from_last_runs, load_comparison
from flows.config import CONFIGS_FOLDER, load_config, profile_path, profiles
from tasks.core.artifact import Store
from tasks.core.errors import ArtifactError, ConfigError
from tasks.core.keys import KeyParts
from tasks.core.settings import split_settings
from tasks.core.stage import Run, remember
from tasks.gguf_export.convert import convert
from tasks.prompts.prompt_digest import contract_digest
from tasks.release.hub import publish_to_hub
from tests.fixtures.chat_server import ChatServer
from tests.fixtures.compared import heldout, oracle, write_rows
from tests.fixtures.hub_server import HubServer
from tests.fixtures.tiny_chain import publish_folder

ROWS = heldout(12)
TOKEN = "hf_loopbackTokenOfNobody0123456789"
ASKING = {"max_new_tokens": 8, "repeated_rows": 12, "metamorphic_rows": 0}


@dataclass
class Shop:
    """A folder to compare in."""

    folder: Path

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def config(self, models: list[dict], name: str = "tiny", **more) -> Path:
        rows = {} if "rows_run" in more else {"rows_file": write_rows(self.folder / "rows.jsonl", ROWS)}
        places = {"store": str(self.store), "folder": str(self.folder / "comparison")}
        path = self.folder / f"{name}.yaml"
        compare = {"models": models, **ASKING, **rows, **more}
        path.write_text(
            yaml.safe_dump({"name": name, "recipe": "signals", "flow": "compare", **places, "compare": compare})
        )
        return path

    def run(self, path: Path) -> dict[str, dict]:
        """One run of the flow; model -> its row of the board."""
        from flows.compare import compare

        placed = Path(compare(profile=str(path)))
        assert {one.name for one in placed.iterdir()} == {
            "comparison.json", "comparison.md", "comparison.png", "answers.jsonl", "probes.jsonl",
        }  # fmt: skip
        return {row["model"]: row for row in json.loads((placed / "comparison.json").read_text())["models"]}


@pytest.fixture
def shop(tmp_path) -> Shop:
    return Shop(tmp_path)


# --- configs


def test_every_list_that_ships_is_valid_says_its_command_and_is_no_finetune_profile():
    found = profiles("compare")
    assert found == ["proofkit/qwen2.5-3b-baseline", "signals/compare-serving", "signals/compare-thinking"]
    for name in found:
        config = load_comparison(name)
        assert config.recipe == name.split("/")[0] and len(config.compare.models) >= 4
        assert name in (CONFIGS_FOLDER / f"{name}.yaml").read_text().splitlines()[0]
    assert not set(found) & set(profiles()), "profiles() are what finetune takes"
    with pytest.raises(ConfigError, match="is for the flow compare, not finetune. Run: python -m flows compare"):
        load_config(profile_path("signals/compare-thinking"))
    story = {(one.hub, one.thinking) for one in load_comparison("signals/compare-thinking").compare.models}
    assert {("Qwen/Qwen3-0.6B", True), ("Qwen/Qwen3-0.6B", False)} <= story and len(story) == 6


def test_what_a_comparison_needs_is_in_the_set_that_its_command_installs(monkeypatch):
    """`make compare` sets up the core alone, and says that this is what to run when something is missing."""
    monkeypatch.setattr(comparison, "find_spec", lambda _: None)
    needed = comparison._lacking(comparison_of(load_config(profile_path("signals/nano"))).compare)
    core = (CONFIGS_FOLDER.parent / "deployments" / "stacks" / "core.txt").read_text()
    assert len(needed) >= 2 and [name for name in needed if f"\n{name}==" not in core] == []


def test_all_mistakes_of_a_list_are_told_at_once(shop):
    path = shop.config([{"name": "a", "hub": "x/y", "thinkin": True}, {"name": "b"}], max_rows=0, modles=[])
    with pytest.raises(ConfigError) as caught:
        load_comparison(str(path))
    for said in (
        "4 problem(s). Nothing was run.",
        "compare.models.0.thinkin: unknown setting. Allowed here: adapter, endpoint, folder",
        "give exactly one of hub, folder, gguf, run, endpoint",
        "compare.max_rows: found 0",
        "compare.modles: unknown setting. Allowed here: batch_rows",
    ):
        assert said in str(caught.value), said


def test_a_profile_without_a_run_is_told_what_to_do(shop):
    with pytest.raises(ConfigError, match="holds nothing of a run signals-nano. Make it first"):
        load_comparison("signals/nano", {"store": str(shop.store)})
    with pytest.raises(ConfigError, match=r"signals/compare-thinking, .*signals/nano"):
        load_comparison("no/such")


# --- a run in a store, as finetune leaves it


@pytest.fixture(scope="module")
def left_behind(tiny_base, tiny_rows, tiny_adapter, tiny_merged, tmp_path_factory):
    """What a run named signals-nano left in a store: (folder of the store, role -> artifact)."""
    folder = tmp_path_factory.mktemp("run")
    folders = {"base": tiny_base, "adapter": tiny_adapter.out, "merged": tiny_merged.out}
    folders |= {name: folder / name for name in ("dataset", "rows", "gguf")}
    shutil.copytree(tiny_rows, folders["rows"])
    for name in ("dataset", "gguf"):
        folders[name].mkdir()
    write_rows(folders["rows"] / "heldout.jsonl", ROWS)
    write_rows(folders["rows"] / "train.jsonl", heldout(8, seed=5))
    write_rows(folders["dataset"] / "heldout.jsonl", ROWS)
    digest = contract_digest(load_prompt("signals"), tiny_base)
    convert(tiny_merged.out, folders["gguf"] / "model-f16.gguf", name="t", prompt_digest=digest, tick=lambda _: None)
    store, profile, made = Store(folder / "store"), load_config(profile_path("signals/nano")), {}
    given = {
        "rows": ("dataset", "base"),
        "adapter": ("base", "rows"),
        "merged": ("base", "adapter"),
        "gguf": ("merged",),
    }
    run = Run(name="signals-nano", recipe="signals", store=str(store.root))
    for role, (stage, block) in comparison._MAKERS.items():
        made[role] = publish_folder(store, stage.kind, folders[role])
        named = {name: f"{made[name].kind}:{made[name].digest}" for name in given.get(role, ())}
        work, checks = split_settings(getattr(profile, block))
        parts = KeyParts({"config": work, "inputs": named}, {"config": checks, "inputs": {}})
        remember(stage, run, store, parts, made[role])
    return store.root, made


@pytest.fixture
def finetuned(shop, left_behind):
    """A copy of it in a shop, free to be broken; (shop, role -> artifact)."""
    root, made = left_behind
    shutil.copytree(root, shop.store)
    return shop, made


def test_a_finetune_profile_becomes_every_step_of_its_run(finetuned):
    shop, made = finetuned
    config = load_comparison("signals/nano", {"store": str(shop.store)})
    names = {one.name: one.role for one in config.compare.models}
    assert names == {
        "base": "base",
        "adapter": None,
        "merged": None,
        "merged-nf4": "control",
        "f16": None,
        "q8_0": None,
        "q4_k_m": None,
    }
    assert (config.compare.rows_run, config.compare.distance_to, config.compare.max_new_tokens) == (
        "signals-nano",
        "adapter",
        192,
    )
    inputs = from_last_runs(config)
    assert inputs["merged of signals-nano"] == made["merged"] and "dataset of signals-nano" not in inputs


def test_a_run_made_with_other_settings_is_refused_by_their_names(finetuned):
    shop, _ = finetuned
    with pytest.raises(ConfigError) as caught:
        load_comparison(
            "signals/nano", {"store": str(shop.store), "train.epochs": 9, "export.quantizations": ["f16", "q8_0"]}
        )
    assert "train.epochs: 8.0 -> 9.0 since train_lora of the last run" in str(caught.value)
    assert "export.quantizations" in str(caught.value) and "Give --set as that run did" in str(caught.value)
    assert load_comparison("signals/nano", {"store": str(shop.store), "evaluate.batch_rows": 7}).compare.batch_rows == 7


def test_a_setting_that_came_after_the_run_is_no_difference(finetuned):
    shop, _ = finetuned
    path = shop.store / "last" / "signals-nano" / "train_lora.json"
    last = json.loads(path.read_text())
    del last["key_parts"]["work"]["config"]["gradient_checkpointing"]
    last["key_parts"]["work"]["config"]["long_gone"] = 1
    path.write_text(json.dumps(last))
    load_comparison("signals/nano", {"store": str(shop.store)})


def test_a_run_that_stopped_half_way_is_not_mixed_with_the_one_before(finetuned):
    shop, _ = finetuned
    path = shop.store / "last" / "signals-nano" / "merge_adapter.json"
    last = json.loads(path.read_text())
    last["key_parts"]["work"]["inputs"]["adapter"] = f"lora-adapter:{'0' * 64}"
    path.write_text(json.dumps(last))
    with pytest.raises(ConfigError, match="stopped half-way: merged was made from another adapter"):
        load_comparison("signals/nano", {"store": str(shop.store)})


def test_a_file_that_changed_in_the_store_is_refused(finetuned):
    shop, made = finetuned
    weights = Store(shop.store).folder(made["merged"]) / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"model\.safetensors changed"):
        from_last_runs(load_comparison("signals/nano", {"store": str(shop.store)}))


def test_the_parts_of_a_run_in_one_list_with_the_control_made_for_it(prefect_server, finetuned):
    shop, _ = finetuned
    parts = ("base", "adapter", "merged", "merged-nf4", "f16")
    roles = {"base": "base", "merged-nf4": "control"}
    models = [{"name": part, "run": "signals-nano", "part": part, "role": roles.get(part)} for part in parts]
    board = shop.run(shop.config(models, rows_run="signals-nano", distance_to="adapter", distance_rows=4))
    assert list((shop.store / "objects" / "nf4-control").iterdir()), "the control is an artifact like any other"
    lost, kept = (board[name]["facts"]["update"] for name in ("merged-nf4", "merged"))
    assert lost["error_ratio"] > 3 * kept["error_ratio"]
    kl = {name: board[name]["distance"]["mean_kl_nats"] for name in parts}
    assert kl["adapter"] == 0 and kl["merged-nf4"] > 3 * kl["merged"] > 0
    text = (shop.folder / "comparison" / "tiny" / "comparison.md").read_text()
    assert "merged-nf4 is broken on purpose and never published." in text and "times that of" in text


# --- lists


def test_an_endpoint_is_known_again_by_its_answer_and_another_model_there_is_asked_anew(
    prefect_server, shop, tiny_base
):
    from prefect.client.orchestration import get_client

    with ChatServer(oracle(ROWS)) as server:
        models = [
            {"name": "here", "folder": str(tiny_base)},
            {"name": "there", "endpoint": {"base_url": server.url, "model": "m"}},
        ]
        path = shop.config(models, name="list")
        board = shop.run(path)
        assert (board["there"]["rank"], board["here"]["rank"], board["ceiling"]["rank"]) == (1, 2, None)
        first = len(server.requests)
        assert first == 1 + 12 + 3 + 12, "one question beforehand, every row, and twelve of them again"
        shop.run(path)
        assert len(server.requests) == first + 1, "a finished comparison is reused: one question says who is there"
        server.reply = lambda _messages: "another model"
        assert shop.run(path)["there"]["scores"]["valid_json_fraction"]["value"] == 0
    with get_client(sync_client=True) as client:
        pages = {one.key: one.data for one in client.read_artifacts() if one.key == "list-comparison"}
    assert "| there |" in pages["list-comparison"]


def test_a_model_of_the_hub_is_pinned_to_its_commit_and_what_is_missing_is_told_before_a_byte_is_fetched(
    prefect_server, shop, tiny_base, monkeypatch
):
    from tasks.core.artifact import hash_folder

    with HubServer(TOKEN) as hub:
        for name, value in {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "NO_PROXY": "127.0.0.1,localhost"}.items():
            monkeypatch.setenv(name, value)
        files = hash_folder(tiny_base)
        commit = publish_to_hub(tiny_base, files, "alice/tiny", private=True, commit_message="x", endpoint=hub.url)
        gone = [{"name": "tiny", "hub": "alice/tiny"}, {"name": "a", "hub": "alice/a"}, {"name": "b", "gguf": "b.gguf"}]
        with pytest.raises(
            ConfigError,
            match=r"2 problem\(s\) with 3 models. None was asked.[\s\S]*b: there is no file[\s\S]*a: alice/a",
        ):
            shop.run(shop.config(gone))
        assert not hub.seen("GET", "resolve/"), "nothing was fetched"
        board = shop.run(shop.config([{"name": "tiny", "hub": "alice/tiny"}, {"name": "again", "hub": "alice/tiny"}]))
    assert board["tiny"]["facts"]["commit"] == board["again"]["facts"]["commit"] == commit.commit_sha
    assert board["tiny"]["rank"] == board["again"]["rank"] == 1
