"""One Prefect server for all tests of flows: its own home and database, no heartbeats, no telemetry."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API's address. Flows called in a test that asks for this fixture run against it."""
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        PREFECT_HOME,
        PREFECT_SERVER_ANALYTICS_ENABLED,
        PREFECT_SERVER_LOGGING_LEVEL,
        temporary_settings,
    )
    from prefect.testing.utilities import prefect_test_harness

    home: Path = tmp_path_factory.mktemp("prefect-home")
    settings = {
        PREFECT_HOME: home,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,  # its thread costs a second a flow
        PREFECT_SERVER_ANALYTICS_ENABLED: False,
        PREFECT_SERVER_LOGGING_LEVEL: "CRITICAL",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DO_NOT_TRACK", "1")
        with temporary_settings(settings), prefect_test_harness(server_startup_timeout=120):
            yield PREFECT_API_URL.value()
