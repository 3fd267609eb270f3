"""The server's side of Plumbline, made or brought up to date: work pool, queues, GPU limit, automation for dead runs.

    python -m deployments.bootstrap        (PREFECT_API_URL names the server; any number of times)

Only what prefect.yaml cannot say. Nothing that a user has changed elsewhere is touched.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events.schemas.automations import AutomationCore

POOL = "laptop-gpu"
QUEUES = {"gpu": 1, "cpu": 2}
"""Queue of the pool -> runs at a time. Training has the machine for itself; checks on rows do not wait for it."""
GPU_LIMIT = "gpu-0"
"""Global concurrency limit: one holder of the GPU, whatever pool it comes from."""
HEARTBEAT_S = 30
"""How often a run tells that it lives; set in the environment of what starts workers (deployments/ui.py)."""
DEAD_AFTER_S = 4 * HEARTBEAT_S
"""A run without a heartbeat for so long is marked as crashed: a worker that was stopped leaves it Running for ever."""


def bootstrap() -> list[str]:
    """Make or update everything; returns what exists now, one sentence each."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return [_pool(client), *_queues(client), _gpu_limit(client), _zombies(client)]


def _pool(client: SyncPrefectClient) -> str:
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectNotFound

    try:
        client.read_work_pool(POOL)
    except ObjectNotFound:
        about = "Runs on this machine, as processes of its worker."
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process", description=about))
    return f"work pool {POOL}"


def _queues(client: SyncPrefectClient) -> list[str]:
    known = {one.name: one for one in client.read_work_queues(work_pool_name=POOL)}
    for name, limit in QUEUES.items():
        if name not in known:
            client.create_work_queue(name, work_pool_name=POOL, concurrency_limit=limit)
        elif known[name].concurrency_limit != limit:
            client.update_work_queue(known[name].id, concurrency_limit=limit)
    return [f"queue {name}, {limit} at a time" for name, limit in QUEUES.items()]


def _gpu_limit(client: SyncPrefectClient) -> str:
    client.upsert_global_concurrency_limit_by_name(GPU_LIMIT, 1)
    return f"global concurrency limit {GPU_LIMIT}"


def _zombies(client: SyncPrefectClient) -> str:
    """The automation exists once, as described here, however often it was made before."""
    wanted = zombie_automation()
    old = client.read_automations_by_name(wanted.name)
    for extra in old[1:]:
        client.delete_automation(extra.id)
    if old:
        client.update_automation(old[0].id, wanted)
    else:
        client.create_automation(wanted)
    return f"automation {wanted.name}, after {DEAD_AFTER_S} s"


def zombie_automation() -> AutomationCore:
    """Marks a run as crashed when it stops telling that it lives."""
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
    from prefect.events.schemas.events import ResourceSpecification

    return AutomationCore(
        name="crash-zombie-runs",
        description="A run that stopped telling that it lives is over: its worker was stopped or its machine is gone.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.*"},
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=DEAD_AFTER_S),
        ),
        actions=[
            ChangeFlowRunState(
                name=None, state=StateType.CRASHED, message=f"no heartbeat for {DEAD_AFTER_S} s", force=False
            )
        ],
    )


if __name__ == "__main__":
    print("\n".join(bootstrap()))
