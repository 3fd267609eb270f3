"""prefect.yaml: every entrypoint loads, its form explains itself, and a server takes it; bootstrap can run twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest
import yaml

from deployments.bootstrap import DEAD_AFTER_S, GPU_LIMIT, POOL, QUEUES, bootstrap, zombie_automation

ROOT = Path(__file__).resolve().parents[2]
PLAN = yaml.safe_load((ROOT / "prefect.yaml").read_text("utf-8"))
ENTRYPOINTS = [one["entrypoint"] for one in PLAN["deployments"]]


def load(entrypoint: str):
    """The flow itself. Prefect's own default makes up a placeholder for a flow that cannot be imported."""
    from prefect.flows import load_flow_from_entrypoint

    return load_flow_from_entrypoint(entrypoint, use_placeholder_flow=False)


def schema_of(entrypoint: str) -> dict:
    return json.loads(load(entrypoint).parameters.model_dump_json())


def unexplained(schema: dict) -> list[str]:
    """Fields of the form, nested ones included, that say nothing about themselves."""
    blocks = {"": schema, **schema.get("definitions", {})}
    return [
        f"{name}.{field}"
        for name, block in blocks.items()
        for field, about in block.get("properties", {}).items()
        if not ({"$ref", "allOf"} & about.keys()) and not (about.get("title") and about.get("description"))
    ]


def test_the_flows_are_deployed():
    modules = ("compare", "distill", "finetune", "validate_contract")
    assert sorted(ENTRYPOINTS) == [f"flows.{name}.{name}" for name in modules]


@pytest.mark.parametrize("entrypoint", ENTRYPOINTS)
def test_entrypoint_is_a_module_and_its_form_explains_itself(entrypoint):
    assert ":" not in entrypoint, "a file entrypoint puts flows/ on sys.path, where it shadows libraries"
    schema = schema_of(entrypoint)
    assert schema["properties"] and unexplained(schema) == []
    assert load(entrypoint).description, "the page of the flow is empty"


def test_a_field_without_help_is_seen():
    schema = schema_of(ENTRYPOINTS[0])
    del schema["properties"]["profile"]["description"]
    next(iter(schema["definitions"]["TrainConfig"]["properties"].values())).pop("description", None)
    assert len(unexplained(schema)) == 2


def test_the_recipe_is_a_choice():
    from tasks.recipes import RECIPES

    assert schema_of("flows.validate_contract.validate_contract")["properties"]["recipe"]["enum"] == list(RECIPES)


@pytest.mark.parametrize("deployment", PLAN["deployments"], ids=lambda one: one["name"])
def test_parameters_of_a_deployment_fit_its_flow(deployment):
    accepted = load(deployment["entrypoint"]).validate_parameters(deployment["parameters"])
    assert accepted.keys() >= deployment["parameters"].keys()
    assert deployment["work_pool"]["name"] == POOL and deployment["work_pool"]["work_queue_name"] in QUEUES


def test_no_secret_and_no_path_of_a_machine():
    """Prefect stores what a deployment holds in plain text."""
    text = (ROOT / "prefect.yaml").read_text("utf-8")
    assert "prefect.blocks" not in text and "job_variables" not in text and str(ROOT) not in text
    assert "{{ $PLUMBLINE_HOME }}" in text


@pytest.fixture(scope="module")
def deployed(prefect_server: str) -> dict[str, dict]:
    """What the server holds after bootstrap and `prefect deploy --all`, each done twice; names -> deployments."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_HOME

    assert bootstrap() == bootstrap()
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "PLUMBLINE_"))}
    env |= {"PREFECT_API_URL": prefect_server, "PREFECT_HOME": str(PREFECT_HOME.value()), "DO_NOT_TRACK": "1"}
    for _ in range(2):
        argv = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
        done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
    with get_client(sync_client=True) as client:
        return {one.name: one.model_dump(mode="json") for one in client.read_deployments()}


def test_the_server_takes_the_deployments(deployed):
    assert deployed.keys() == {"laptop-nano", "laptop-distill", "laptop-compare", "laptop"}
    nano = deployed["laptop-nano"]
    assert nano["parameters"] == {"profile": "signals/nano"} and nano["enforce_parameter_schema"]
    assert nano["global_concurrency_limit"]["limit"] == 1
    assert nano["concurrency_options"]["collision_strategy"] == "ENQUEUE"
    for one in deployed.values():
        assert UUID(one["id"]) and one["tags"][0] == "plumbline" and one["description"]
        (step,) = one["pull_steps"]
        assert step["prefect.deployments.steps.set_working_directory"]["directory"] == "{{ $PLUMBLINE_HOME }}"


def test_the_server_refuses_impossible_parameters(deployed):
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError

    with get_client(sync_client=True) as client, pytest.raises(PrefectHTTPStatusError, match="409|422"):
        client.create_flow_run_from_deployment(UUID(deployed["laptop"]["id"]), parameters={"recipe": "nope"})


def test_bootstrap_makes_each_thing_once(deployed):
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        assert client.read_work_pool(POOL).type == "process"
        queues = {one.name: one.concurrency_limit for one in client.read_work_queues(work_pool_name=POOL)}
        assert {name: queues[name] for name in QUEUES} == QUEUES
        assert client.read_global_concurrency_limit_by_name(GPU_LIMIT).limit == 1
        (zombies,) = client.read_automations_by_name(zombie_automation().name)
        assert zombies.enabled and zombies.trigger.within.total_seconds() == DEAD_AFTER_S


def test_bootstrap_mends_what_drifted(deployed):
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        queue = client.read_work_queue_by_name("gpu", work_pool_name=POOL)
        client.update_work_queue(queue.id, concurrency_limit=9)
        client.create_automation(zombie_automation())
        bootstrap()
        assert client.read_work_queue_by_name("gpu", work_pool_name=POOL).concurrency_limit == 1
        assert len(client.read_automations_by_name(zombie_automation().name)) == 1


def test_a_flag_that_the_compiler_does_not_know_is_not_given_to_it():
    from deployments.setup import NO_AMX, knows

    assert knows([])
    assert not knows(["-mno-such-thing"])
    assert not knows([*NO_AMX.split(), "-mno-such-thing"])
