"""Chats asked of any OpenAI-compatible endpoint: vLLM, llama.cpp, Ollama, hosted.

A request that fails in a way that may pass is sent again with patience; one that the server refuses is told at once. A
prompt that it refuses, for its content or for want of room in the context, is an answer that nothing can be made of.
Keeping answers, so that none is asked for twice, is answer_log.py's part.
"""

from __future__ import annotations

import email.utils
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx

from tasks.clients.requests import Answer, Ask
from tasks.core.backoff import Backoff, FailedInPassing, with_retries
from tasks.core.errors import ConfigError, TransientError, redact
from tasks.prompts.chat_template import thinking_switch

LONGEST_WAIT_S = 300.0
"""A server that asks for a longer pause is told of at once: the watchdog would take the silence for a hang."""
LARGEST_BODY_BYTES = 16 << 20
"""No chat answer comes near; a body without end would fill the memory."""
_FIRST_WAIT_S, _WAIT_CAP_S = 1.0, 60.0
_CONNECT_S = 10.0
_TICK_S = 0.5
_SHOWN_CHARS = 300
_MAY_PASS = (408, 409, 425, 429)
"""Statuses below 500 that another try may change, as the openai client has them."""
_REFUSES_PROMPT = (400, 413, 422)
"""Statuses below 500 that may be about this one prompt."""
_MOST_TOKENS = 1 << 30
"""No prompt or answer comes near; a count beyond it is none."""
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_NO_ROOM_CODES = ("context_length_exceeded", "exceed_context_size_error")
"""`code` of OpenAI and of servers after it, `type` of llama.cpp's."""
_NO_ROOM_WORDS = re.compile(
    r"maximum context length"  # OpenAI, vLLM, SGLang, Mistral, llama_cpp.server
    r"|exceeds? the (?:available )?context (?:size|length|window)"  # llama.cpp, Ollama
    r"|longer than the (?:maximum model length|model's context length)"  # vLLM, SGLang
    r"|cannot be greater than max_model_len"  # vLLM, of max_tokens alone
    r"|exceed context window of"  # llama-cpp-python
    r"|inputs?` tokens \+ `max_new_tokens` must be"  # TGI
    r"|prompt is too long",  # Anthropic
    re.IGNORECASE,
)
"""How servers say that prompt and answer do not fit into their context. Most have no code for it."""


class ServerError(TransientError):
    """The server answered the last try with a status of 500 or above: it is there, and may not know what it is asked for."""


class ChatEndpoint:
    """POST {base_url}/chat/completions, some at a time; use it in a `with` block.

    `timeout_s` bounds one whole try, however slowly the bytes drip; `retries` counts tries after the first.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        concurrency: int = 8,
        retries: int = 5,
        timeout_s: float = 120.0,
        token_limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens",
        first_wait_s: float = _FIRST_WAIT_S,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._key = (api_key or "").strip()
        self._concurrency, self._timeout_s, self._token_limit = concurrency, timeout_s, token_limit
        self._backoff = Backoff(max_attempts=retries + 1, first_wait_s=first_wait_s, max_wait_s=_WAIT_CAP_S)
        self._stop, self._lock, self._retried = threading.Event(), threading.Lock(), 0
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx.Timeout(timeout_s, connect=min(_CONNECT_S, timeout_s)),
            limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
            trust_env=urlsplit(self.base_url).hostname not in _LOOPBACK,  # no proxy stands before this machine
        )

    def __enter__(self) -> ChatEndpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._client.close()

    def answers(self, asks: Sequence[Ask], alive: Callable[[dict], None]) -> Iterator[tuple[Ask, Answer]]:
        """Each answer as it comes. After a failure nothing new is sent, and what is in flight is still handed out.

        Raises:
            ConfigError: the server refuses a request (4xx) for more than its prompt; with its own words.
            TransientError: a request failed on every try; ServerError when the server said so itself.
        """
        failure: BaseException | None = None
        told, unsent = 0, iter(asks)
        self._stop.clear()
        with ThreadPoolExecutor(self._concurrency, thread_name_prefix="chat") as pool:
            waiting = {pool.submit(self._ask, ask): ask for ask in islice(unsent, self._concurrency)}
            try:
                while waiting:
                    done, _ = wait(waiting, timeout=_TICK_S, return_when=FIRST_COMPLETED)
                    if self._retried > told:
                        told = self._retried
                        alive({"retries": told})
                    for future in done:
                        error = _error_of(future)
                        if error is None:
                            yield waiting[future], future.result()
                        elif not isinstance(error, CancelledError):
                            failure = failure or error
                            self._stop.set()
                        del waiting[future]
                        # Only now: a crash loses at most `concurrency` answers, however slow the disk that keeps them.
                        if not self._stop.is_set():
                            waiting |= {pool.submit(self._ask, ask): ask for ask in islice(unsent, 1)}
            finally:
                self._stop.set()
        if failure:
            raise failure

    def _ask(self, ask: Ask) -> Answer:
        try:
            return with_retries(lambda: self._try(ask), self._backoff, self._pause)
        except FailedInPassing as last:
            failed = last
        raise (ServerError if failed.status >= 500 else TransientError)(
            f"{self._who()} gave no answer in {self._backoff.max_attempts} tries; last: {failed}. "
            "Is the server running and not overloaded? Run again: answers that came are kept and not asked for again."
        )

    def _try(self, ask: Ask) -> Answer:
        try:
            return self._once(ask)
        except FailedInPassing as failed:
            if failed.wait_s is None or failed.wait_s <= LONGEST_WAIT_S:
                raise
            why = f"{failed.wait_s:,.0f} s ({failed})"
        raise TransientError(f"{self._who()} asks for a pause of {why}. Run again after it.")

    def _pause(self, seconds: float) -> None:
        with self._lock:
            self._retried += 1
        if self._stop.wait(seconds):
            raise CancelledError

    def _once(self, ask: Ask) -> Answer:
        try:
            status, headers, body = self._post(ask)
        except httpx.TimeoutException:
            raise FailedInPassing(f"no whole answer within {self._timeout_s:g} s") from None
        except httpx.RequestError as error:
            raise FailedInPassing(self._clean(f"{type(error).__name__}: {error}")) from None
        if status == 200:
            return _read(body)
        message, codes = _complaint(body)
        # One row's trouble, not the run's; llama.cpp and Ollama have said it with status 500 too.
        if (status in _REFUSES_PROMPT or status >= 500) and _says_no_room(message, codes):
            return Answer.without_room(self._clean(message))
        if status in _MAY_PASS or status >= 500:
            raise FailedInPassing(
                self._clean(f"status {status}: {message}"), wait_s=_retry_after_s(headers), status=status
            )
        if "content_filter" in codes:  # some hosts refuse a prompt this way
            return Answer("", "content_filter", self._clean(message))
        raise ConfigError(self._refused(status, message, headers))

    def _post(self, ask: Ask) -> tuple[int, httpx.Headers, bytes]:
        body: dict[str, Any] = {"model": ask.model, "messages": list(ask.messages), self._token_limit: ask.max_tokens}
        if ask.temperature is not None:
            body["temperature"] = ask.temperature
        if ask.thinking is not None:
            body["chat_template_kwargs"] = thinking_switch(ask.thinking)
        if ask.response_format is not None:
            body["response_format"] = ask.response_format
        if ask.seed is not None:
            body["seed"] = ask.seed
        deadline, parts, size = time.monotonic() + self._timeout_s, [], 0
        with self._client.stream("POST", f"{self.base_url}/chat/completions", json=body) as response:
            for part in response.iter_bytes():
                parts.append(part)
                size += len(part)
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout("the answer drips")
                if size > LARGEST_BODY_BYTES:
                    raise ConfigError(f"{self._who()} sends more than {LARGEST_BODY_BYTES:,} bytes for one answer.")
        return response.status_code, response.headers, b"".join(parts)

    def _refused(self, status: int, message: str, headers: httpx.Headers) -> str:
        advice = "Correct the settings."
        if status in (401, 403):
            sent = "the API key that was sent is not accepted" if self._key else "no API key was set in the environment"
            advice = f"{sent[0].upper()}{sent[1:]}; set the right one."
        elif status == 404:
            advice = "Check base_url (it usually ends in /v1) and the model's name."
        elif 300 <= status < 400:
            advice = (
                f"It points to {urlsplit(headers.get('location', '')).hostname}: give that as base_url if it is right."
            )
        return (
            f"{self._who()} refuses the request: status {status}: {self._clean(message)}. {advice} Nothing is retried."
        )

    def _who(self) -> str:
        return f"endpoint {self.base_url}"

    def _clean(self, text: str) -> str:
        text = text.replace(self._key, "<api key>") if self._key else text
        return " ".join(redact(text).split())[:_SHOWN_CHARS]


def url_problem(url: str) -> str:
    """What is wrong with a base URL, without repeating it: it may hold a password; empty when nothing is."""
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query or parts.fragment:
        return "holds a user, password, query or fragment; keep secrets in the environment and give the plain address"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return "is not an address such as http://127.0.0.1:8000/v1"
    return ""


def _error_of(future: Future) -> BaseException | None:
    return CancelledError() if future.cancelled() else future.exception()


def _read(body: bytes) -> Answer:
    """A chat completion; anything else that came with status 200 was cut off, or is a proxy's page."""
    try:
        value = json.loads(body)
        choice = value["choices"][0]
        message = choice["message"]
        content, usage = message.get("content"), value.get("usage") or {}
        thoughts = message.get("reasoning_content") or message.get("reasoning") or ""
        thoughts = thoughts if isinstance(thoughts, str) else ""
        return Answer(
            text=content if isinstance(content, str) else "",
            finish_reason=str(choice.get("finish_reason") or "unknown"),
            refusal=" ".join(str(message.get("refusal") or "").split()),
            hidden_chars=len(thoughts),
            thoughts=thoughts,
            prompt_tokens=_count(usage.get("prompt_tokens")),
            completion_tokens=_count(usage.get("completion_tokens")),
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        told = _complaint(body)[0]
        raise FailedInPassing(f"{len(body):,} bytes that are no chat completion: {told[:_SHOWN_CHARS]}") from None


def _count(value: Any) -> int:
    """Tokens as the server counted them; 0, which is "not told", for what can be no count: the answer itself is as good."""
    try:
        tokens = int(value or 0)
    except (ValueError, TypeError, OverflowError):
        return 0
    return tokens if 0 <= tokens <= _MOST_TOKENS else 0


def _complaint(body: bytes) -> tuple[str, set[str]]:
    """(message, its code and type) of an error body, in whichever of the usual shapes it came."""
    text = " ".join(body.decode("utf-8", "replace").split())
    try:
        value = json.loads(body)
        error = value.get("error", value.get("detail", value.get("message", value)))
        if isinstance(error, dict):
            return str(error.get("message", error)), {str(error.get(name) or "") for name in ("code", "type")}
        return str(error), set()
    except (ValueError, AttributeError, RecursionError):
        return text or "no message", set()


def _says_no_room(message: str, codes: set[str]) -> bool:
    return bool(codes & {*_NO_ROOM_CODES} or _NO_ROOM_WORDS.search(message))


def _retry_after_s(headers: httpx.Headers) -> float | None:
    """Seconds that the server asks to wait; it may also give a date."""
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None
