"""Prefect's server, one worker and the deployments of prefect.yaml on loopback, until Ctrl-C: `make ui`.

    python -m deployments.ui [--port 4200]

Everything that it starts is stopped with it, runs of a flow and their training included. Its database and logs lie in
.prefect/ui, apart from those of runs from a terminal: two servers on one SQLite file lock each other out.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from deployments.processes import ROOT, Processes, StartError

HOST = "127.0.0.1"
START_S = 180.0
"""Longest start of the server or the worker; a new database on a busy laptop takes most of a minute."""


def environment(home: Path, port: int) -> dict[str, str]:
    """The user's environment with Prefect's part of it replaced by ours; PLUMBLINE_HOME is the worker's alone."""
    from deployments.bootstrap import HEARTBEAT_S

    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    kept.pop("PLUMBLINE_HOME", None)
    loopback = ",".join(filter(None, [os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), HOST, "localhost"]))
    url = f"http://{HOST}:{port}"
    return kept | {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"{url}/api",
        "PREFECT_UI_API_URL": f"{url}/api",  # the page asks port 4200 otherwise, whatever port the server has
        "PREFECT_SERVER_API_HOST": HOST,
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S),
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "PREFECT_SHOW_ALEMBIC_WARNING": "false",
        "DO_NOT_TRACK": "1",
        "NO_PROXY": loopback,
        "no_proxy": loopback,
    }


def start(processes: Processes, home: Path, port: int) -> str:
    """Server, pool, deployments, worker, in this order; returns the address of the UI."""
    env = environment(home, port)
    os.environ.clear()
    os.environ.update(env)  # before Prefect is imported here: it reads its settings once
    url = f"http://{HOST}:{port}"
    processes.start("server", "server", "start", "--host", HOST, "--port", str(port), env=env)
    _wait("the server", lambda: _answers(f"{url}/api/health"), processes)
    from deployments.bootstrap import POOL, bootstrap

    bootstrap()
    worker = ["worker", "start", "--pool", POOL, "--type", "process", "--name", "laptop"]
    processes.start("worker", *worker, env=env | {"PLUMBLINE_HOME": str(ROOT)})
    deploy = processes.start("deploy", "--no-prompt", "deploy", "--all", env=env)
    if deploy.wait(START_S) == 0:
        del processes.running["deploy"]
    _wait("the worker", lambda: _worker_is_online(POOL), processes)
    return url


def _wait(what: str, ready: Callable[[], bool], processes: Processes) -> None:
    deadline = time.monotonic() + START_S
    while not ready():
        processes.check()
        if time.monotonic() > deadline:
            raise StartError(f"ui: {what} did not start within {START_S:g} s. Logs: {processes.home}")
        time.sleep(0.3)
    processes.check()


def _answers(url: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
        return answer.status == 200
    return False


def _worker_is_online(pool: str) -> bool:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return any(one.status == "ONLINE" for one in client.read_workers_for_work_pool(pool))


def end_runs() -> int:
    """Mark the runs that were stopped with their worker as crashed; Prefect would show them running for ever."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    states = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
    left = FlowRunFilter.model_validate({"state": {"type": {"any_": states}}})
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=left)
        for run in runs:
            client.set_flow_run_state(run.id, Crashed(message="stopped together with the UI"), force=True)
    return len(runs)


def stop(processes: Processes) -> None:
    """Worker first, then the record of its runs, then the server."""
    for name in ("deploy", "worker"):
        processes.stop(name)
    if (server := processes.running.get("server")) and server.poll() is None and "prefect" in sys.modules:
        with contextlib.suppress(Exception):  # a server that answers no more shall not keep anything from ending
            if ended := end_runs():
                print(f"{ended} unfinished run(s) marked as crashed", flush=True)
    processes.stop("server")
    processes.record.unlink(missing_ok=True)


def _free_port(wanted: int) -> int:
    for port in (wanted, 0):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return probe.getsockname()[1]
    raise StartError(f"ui: no port of {HOST} is free.")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Start everything, print the address, stop everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=4200, help="port on loopback; another one when it is taken")
    parser.add_argument("--home", type=Path, default=ROOT / ".prefect" / "ui", help="folder of database and logs")
    options = parser.parse_args()
    home = options.home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    for name in names:  # set here, so that a start with `&`, which ignores SIGINT, can be stopped too
        signal.signal(getattr(signal, name), _interrupt)
    processes = Processes(home)
    try:
        with FileLock(home / "lock", timeout=0):
            return _run(processes, home, options.port, names)
    except Timeout:
        print(f"ui: already running from {home}. Stop that one with Ctrl-C, or name another --home.", file=sys.stderr)
        return 1


def _run(processes: Processes, home: Path, port: int, signals: list[str]) -> int:
    started = time.monotonic()
    code = 0
    print("starting Prefect's server, a worker and the deployments ...", flush=True)
    try:
        processes.stop_leftovers()
        url = start(processes, home, _free_port(port))
        print(f"ready after {time.monotonic() - started:.0f} s   {url}/v2/deployments   (logs: {home})", flush=True)
        print("Ctrl-C stops everything.", flush=True)
        while True:
            processes.check()
            time.sleep(0.5)
    except KeyboardInterrupt:
        print("\nstopping ...", flush=True)
    except StartError as error:
        print(error, file=sys.stderr)
        code = 1
    finally:
        for name in signals:  # stopping is bounded; a second Ctrl-C must not leave half of it alive
            signal.signal(getattr(signal, name), signal.SIG_IGN)
        stop(processes)
    print("stopped", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
