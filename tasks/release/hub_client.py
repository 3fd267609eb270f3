"""A client of the Hugging Face Hub where every wait ends, no secret is written out and only passing faults are retried.

It is `huggingface_hub`'s own `HfApi`, with what its defaults leave open closed while we use it:
- it has no timeout, and sleeps for as long as a server's `Retry-After` says;
- it retries uploads and listings, but neither the commit nor repository calls, and without jitter;
- with Xet on, uploads skip the LFS protocol, and a download may be put together from chunks that never left this
  machine, which proves nothing about the Hub;
- its warnings show upload addresses whole, signature included.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import httpx

from tasks.core.backoff import Backoff, FailedInPassing, with_retries
from tasks.core.errors import ArtifactError, ConfigError, PlumblineError, TransientError, redact

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo

T = TypeVar("T")

STAGE = "publish_model"
BRANCH = "main"
_TIMEOUTS_S = {"connect": 30.0, "read": 300.0, "write": 120.0, "pool": 300.0}
_MAX_RETRY_AFTER_S = 60
_PASSING_STATUS = (408, 429)
_PASSING = (
    httpx.TimeoutException,
    httpx.NetworkError,
    httpx.RemoteProtocolError,
    httpx.ProxyError,
    json.JSONDecodeError,
)
"""JSONDecodeError: a gateway answered in the Hub's place, with a page of HTML."""
_CAUGHT = (httpx.HTTPError, OSError, ValueError, RuntimeError, KeyError)
_CHATTY_LOGGERS = ("httpx", "huggingface_hub.utils._http", "huggingface_hub.file_download")


@contextmanager
def connect(endpoint: str | None) -> Iterator[HfApi]:
    """The Hub at `endpoint` (else HF_ENDPOINT, else the public one), with the token of HF_TOKEN and no other."""
    from huggingface_hub import HfApi, constants, set_client_factory
    from huggingface_hub.utils import _http

    token = os.environ.get("HF_TOKEN", "").strip()
    if not token:
        raise ConfigError(
            f"{STAGE}: HF_TOKEN is not set. Publishing to the Hub needs a token with write access. "
            "Make one in the Hub's settings and put it in the environment, never in a config."
        )
    # Both are read at each use, from the module; their environment variables only at import.
    switches = ("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY")
    before = {name: getattr(constants, name) for name in switches}
    factory_before = _http._GLOBAL_CLIENT_FACTORY
    loggers = [logging.getLogger(name) for name in _CHATTY_LOGGERS]
    try:
        for name in switches:
            setattr(constants, name, True)
        for logger in loggers:
            logger.addFilter(_clean_record)
        set_client_factory(_bounded_client)
        yield HfApi(endpoint=hub_address(endpoint), token=token)
    finally:
        set_client_factory(factory_before)
        for logger in loggers:
            logger.removeFilter(_clean_record)
        for name, value in before.items():
            setattr(constants, name, value)


def hub_address(endpoint: str | None) -> str:
    """`endpoint`, else HF_ENDPOINT as it is now (the library keeps what it was at import), else the public Hub."""
    from huggingface_hub import constants

    return (endpoint or os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def retrying(what: str, call: Callable[[], T], backoff: Backoff) -> T:
    """The call's answer; faults that may pass are tried again, everything else is explained at once.

    Raises:
        TransientError: it still failed in passing after `backoff.max_attempts`.
        ConfigError: the Hub refuses the token (401, 403), or the client is switched to offline.
        ArtifactError: any other refusal.
    """

    def tried() -> T:
        try:
            return call()
        except PlumblineError:
            raise
        except _CAUGHT as caught:
            error = _root(caught)
        # Raised outside the handlers: a chained traceback would print the server's words unredacted.
        if _may_pass(error):
            raise FailedInPassing(what, cause=error)
        raise _explained(what, error, 1)

    try:
        return with_retries(tried, backoff, time.sleep)
    except FailedInPassing as last:
        error = last.cause or last
    raise _explained(what, error, backoff.max_attempts)


def ask(what: str, call: Callable[[], Any], backoff: Backoff) -> tuple[Any, PlumblineError | None]:
    """(the answer, None), or (None, why there is none)."""
    try:
        return retrying(what, call, backoff), None
    except PlumblineError as refusal:
        return None, refusal


def find_repo(api: HfApi, repo_id: str) -> ModelInfo | None:
    """The repository at the head of its main branch; None when the Hub does not have it, or does not show it."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return api.model_info(repo_id, revision=BRANCH)
    except HfHubHTTPError as error:
        if _status_of(error) == 404:
            return None
        raise


def _status_of(error: BaseException | None) -> int | None:
    """The HTTP status behind an error; None when no answer came."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _root(error: BaseException) -> BaseException:
    """The fault itself, below the library's "error while uploading" and "not found in the cache"."""
    while not isinstance(error, httpx.HTTPError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _may_pass(error: BaseException) -> bool:
    status = _status_of(error)
    return isinstance(error, _PASSING) if status is None else status in _PASSING_STATUS or status >= 500


def _explained(what: str, error: BaseException, attempts: int) -> PlumblineError:
    from huggingface_hub.errors import OfflineModeIsEnabled

    said = _clean(" ".join(f"{type(error).__name__}: {error}".split()))[:500].rstrip(".")
    if _may_pass(error):
        return TransientError(
            f"{STAGE}: {what} failed {attempts} of {attempts} times. Last answer: {said}. "
            "Nothing counts as published. Run again when the Hub answers: what is already uploaded is not sent twice."
        )
    if isinstance(error, OfflineModeIsEnabled):
        return ConfigError(
            f"{STAGE}: {what} needs the Hub, and the client is offline. Unset HF_HUB_OFFLINE and run again."
        )
    status = _status_of(error)
    refused = f"{STAGE}: {what} was refused{'' if status is None else f' with status {status}'}: {said}. "
    if status in (401, 403):
        return ConfigError(refused + "Give HF_TOKEN a token with write access to this repository, then run again.")
    return ArtifactError(refused + "Nothing counts as published. Mend this and run again.")


def _bounded_client() -> httpx.Client:
    from huggingface_hub.utils._http import default_client_factory

    client = default_client_factory()
    hooks = client.event_hooks
    client.event_hooks = {
        "request": [*hooks["request"], _bound_request],
        "response": [*hooks["response"], _bound_retry_after],
    }
    return client


def _bound_request(request: httpx.Request) -> None:
    asked = request.extensions.get("timeout") or {}
    request.extensions["timeout"] = {
        name: limit if asked.get(name) is None else asked[name] for name, limit in _TIMEOUTS_S.items()
    }


def _bound_retry_after(response: httpx.Response) -> None:
    response.headers.pop("ratelimit", None)
    if response.headers.get("retry-after", "").isdigit():
        response.headers["retry-after"] = str(min(int(response.headers["retry-after"]), _MAX_RETRY_AFTER_S))


def _clean(text: str) -> str:
    """Without secrets, and without the query of an address: upload addresses carry their signature there."""
    return redact(re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\"]*", r"\1", text))


def _clean_record(record: logging.LogRecord) -> bool:
    record.msg, record.args = _clean(record.getMessage()), ()
    return True
