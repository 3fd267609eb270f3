"""What the gauntlet needs besides the session's tiny chain: the server of the flows' tests."""

from __future__ import annotations

from tests.flows.conftest import prefect_server

__all__ = ["prefect_server"]
