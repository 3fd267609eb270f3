"""Passing faults are retried within bounds, final ones never, and no message, log or traceback holds a secret."""

from __future__ import annotations

import logging
import traceback
from types import SimpleNamespace

import pytest

from data_contracts.verdict import Verdict, overall
from tasks.core.errors import ArtifactError, ConfigError, PlumblineError, TransientError
from tasks.release import hub_client
from tasks.release.hub import Backoff, verify_published
from tests.fixtures.hub_case import QUICK, REPO, TOKEN, commits_made, publish, verify

pytest_plugins = ["tests.fixtures.hub_fixtures"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/revision/main", 503),
        ("GET", "/tree/", 500),
        ("POST", "/api/repos/create", 500),
        ("POST", "/api/validate-yaml", 502),
        ("POST", "/preupload/", 429),
        ("POST", "/objects/batch", 504),
        ("PUT", "/upload/", 500),
        ("POST", "/verify/", 500),
        ("POST", "/commit/", 500),
        ("POST", "/commit/", 429),
    ],
)
def test_a_passing_error_is_retried_on_every_route(hub, hub_release, method, path, status):
    hub.fail(method, path, status, body=b"<html>bad gateway</html>")
    publish(hub, hub_release)
    assert commits_made(hub) == 1
    assert set(hub.stored(REPO)) == {".gitattributes", *hub_release[1]}
    assert not hub.faults, "the fault was never met"


@pytest.mark.parametrize("path", ["/tree/", "/resolve/", "/cdn/", "/revision/"])
def test_a_passing_error_while_verifying_is_retried(hub, hub_release, tmp_path, path):
    commit = publish(hub, hub_release)
    hub.fail("HEAD" if path == "/resolve/" else "GET", path, 502)
    assert overall(verify(hub, commit, hub_release, tmp_path / "cache")) is Verdict.PASS
    assert not hub.faults, "the fault was never met"


@pytest.mark.parametrize("path", ["/upload/", "/commit/", "/objects/batch"])
def test_a_server_that_fails_for_ever_is_a_clear_error_and_no_commit(hub, hub_release, path):
    method = "PUT" if path == "/upload/" else "POST"
    hub.fail(method, path, 500, times=float("inf"))
    with pytest.raises(TransientError, match=r"publish_model: publishing 5 files to .* failed 3 of 3 times.*500"):
        publish(hub, hub_release)
    assert commits_made(hub) == 0
    assert set(hub.stored(REPO)) == {".gitattributes"}


def test_the_waits_are_bounded_whatever_the_server_asks(hub, hub_release, client_waits):
    hub.fail("POST", "/preupload/", 429, headers={"Retry-After": "86400"})
    hub.fail("PUT", "/upload/", 429, headers={"RateLimit": '"api";r=0;t=86400'})
    publish(hub, hub_release)
    assert len(client_waits) == 2
    assert max(client_waits) <= 61


def test_the_backoff_doubles_with_jitter_up_to_its_limit(hub, hub_release, monkeypatch):
    slept: list[float] = []
    monkeypatch.setattr("tasks.release.hub_client.time", SimpleNamespace(sleep=slept.append))
    hub.fail("POST", "/commit/", 503, times=float("inf"))
    with pytest.raises(TransientError):
        publish(hub, hub_release, backoff=Backoff(max_attempts=5, first_wait_s=2.0, max_wait_s=6.0))
    assert len(hub.seen("POST", "/commit/")) == 5
    assert len(slept) == 4
    for wait, step in zip(slept, [2, 4, 6, 6], strict=True):
        assert step / 2 <= wait <= step
    assert len(set(slept)) == 4


def test_a_connection_dropped_in_an_upload_is_retried(hub, hub_release, tmp_path):
    hub.drop("PUT", "/upload/", times=2, after_bytes=10_000)
    commit = publish(hub, hub_release)
    assert len(hub.seen("PUT", "/upload/")) == 4
    assert overall(verify(hub, commit, hub_release, tmp_path / "cache")) is Verdict.PASS


def test_an_upload_that_always_drops_is_refused(hub, hub_release):
    hub.drop("PUT", "/upload/", times=float("inf"), after_bytes=10_000)
    with pytest.raises(TransientError, match="failed 3 of 3 times"):
        publish(hub, hub_release)
    assert commits_made(hub) == 0


def test_a_connection_dropped_in_a_download_is_retried(hub, hub_release, tmp_path):
    commit = publish(hub, hub_release)
    hub.drop("GET", "/cdn/")
    assert overall(verify(hub, commit, hub_release, tmp_path / "cache")) is Verdict.PASS


def test_a_commit_whose_answer_was_lost_is_found_not_made_twice(hub, hub_release, tmp_path):
    hub.drop("POST", "/commit/", after_answering=True)
    commit = publish(hub, hub_release)
    assert commits_made(hub) == 1
    assert commit.commit_sha == hub.repos[REPO].head
    assert overall(verify(hub, commit, hub_release, tmp_path / "cache")) is Verdict.PASS


@pytest.mark.parametrize(
    ("status", "error"), [(401, ConfigError), (403, ConfigError), (400, ArtifactError), (413, ArtifactError)]
)
@pytest.mark.parametrize("path", ["/preupload/", "/commit/"])
def test_a_permanent_error_is_not_retried(hub, hub_release, status, error, path):
    hub.fail("POST", path, status, times=float("inf"), body=b'{"error": "no means no"}')
    with pytest.raises(error, match=f"{status}.*no means no"):
        publish(hub, hub_release)
    assert len(hub.seen("POST", path)) == 1
    assert commits_made(hub) == 0


@pytest.mark.parametrize("route", ["/preupload/", "/commit/", "/upload/"])
def test_the_token_is_in_no_message_log_or_traceback(hub, hub_release, caplog, route):
    """The Hub itself throws the token back at us, once as a passing and once as a final error."""
    caplog.set_level(logging.DEBUG)
    echo = f'{{"error": "what is {TOKEN}?"}}'.encode()
    method = "PUT" if route == "/upload/" else "POST"
    hub.fail(method, route, 500, body=echo)
    hub.fail(method, route, 400, times=float("inf"), body=echo)
    with pytest.raises(PlumblineError) as caught:
        publish(hub, hub_release)
    shown = "".join(traceback.format_exception(caught.value))
    assert "what is <HF_TOKEN>?" in str(caught.value)
    for text in (str(caught.value), shown, caplog.text):
        assert TOKEN not in text
        assert "S3CR3T" not in text, "a signed upload address was written out"
    assert "/preupload/main" in caplog.text, "the log of requests was not captured"


def test_the_libraries_are_left_as_they_were_found(hub, hub_release, monkeypatch):
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    for name in ("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.setattr(constants, name, False)  # whatever the environment of the test run says
    hub.fail("POST", "/commit/", 403)
    with pytest.raises(ConfigError):
        publish(hub, hub_release)
    assert not hub.faults, "the fault was never met"
    assert not constants.HF_HUB_DISABLE_XET
    assert not constants.HF_HUB_DISABLE_TELEMETRY
    assert _http._GLOBAL_CLIENT_FACTORY is _http.default_client_factory
    for name in hub_client._CHATTY_LOGGERS:
        assert hub_client._clean_record not in logging.getLogger(name).filters


def test_a_server_that_hangs_meets_a_timeout(hub, hub_release, monkeypatch):
    """The library sets none; the listing even switches it off."""
    monkeypatch.setitem(hub_client._TIMEOUTS_S, "read", 0.1)
    hub.fail("GET", "/tree/", 200, body=b"[]", delay_s=1.0)
    with pytest.raises(TransientError, match="ReadTimeout"):
        publish(hub, hub_release, backoff=Backoff(max_attempts=1))


def test_the_endpoint_of_the_environment_is_used(hub, hub_release, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", f"{hub.url}/")
    commit = publish(hub, hub_release, endpoint=None)
    assert commit.url.startswith(hub.url)
    assert overall(verify_published(commit, hub_release[1], tmp_path / "cache", backoff=QUICK)) is Verdict.PASS


def test_an_offline_client_is_a_config_error(hub, hub_release, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="Unset HF_HUB_OFFLINE"):
        publish(hub, hub_release)


def test_a_hub_that_is_not_there_is_transient(hub, hub_release, monkeypatch):
    with pytest.raises(TransientError, match="ConnectError"):
        publish(hub, hub_release, endpoint="http://127.0.0.1:9")
