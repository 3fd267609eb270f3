"""vLLM as a source of answers: prompts rendered here, token ids sent to workers in vLLM's own interpreter.

vLLM's chat and tokenizer are never used: what is sent are the ids that the model's own template gives, as in training.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tasks.clients.chat_tokens import Prompts
from tasks.clients.requests import LOADED, Answer, Ask
from tasks.clients.vllm_settings import VllmSettings, vllm_interpreter
from tasks.core.artifact import canonical_json
from tasks.core.child import environment
from tasks.core.errors import ChildError, redact
from tasks.formats.safetensors_file import read_folder

_WORKER = Path(__file__).with_name("vllm_worker.py")
_GRACE_S = 5.0
_TAIL_LINES, _SHOWN_CHARS = 4, 300
_ERROR = re.compile(r"\b\w*(?:Error|Exception): .*")


@dataclass(frozen=True)
class Finished:
    """One answer of a worker."""

    ids: list[int]
    """Without the stop token."""
    finish: str
    logprobs: list[float] | None = None
    """Natural logarithm of each token's probability, where asked for."""


class VllmSource:
    """A folder of safetensors, asked through vLLM; use it in a `with` block. `logs` is a folder for the workers' output."""

    def __init__(self, folder: Path, settings: VllmSettings, python: str, logs: Path) -> None:
        self.folder, self.settings, self.logs = folder, settings, logs
        self.python = vllm_interpreter(python)
        self.workers: list[_Worker] = []
        self._heard: queue.SimpleQueue = queue.SimpleQueue()
        self._made: dict[str, tuple[list[int], str]] = {}

    def __enter__(self) -> VllmSource:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.end()

    def answers(self, asks: Sequence[Ask], alive: Callable[[dict], None]) -> Iterator[tuple[Ask, Answer]]:
        """Each answer as vLLM finishes it.

        Raises:
            ArtifactError: the model cannot be loaded, or its template refuses a prompt.
            ChildError: a worker died; with the end of what it printed.
        """
        prompts = self.prompts
        sent = [self._rendered(ask.messages, ask.thinking) for ask in asks]
        lines = []
        for number, (ask, (ids, _)) in enumerate(zip(asks, sent, strict=True)):
            if room := prompts.room_tokens(ids):
                limit = {"max_tokens": min(ask.max_tokens, room)}
                lines.append(
                    {"id": number, "ids": ids, **limit, "temperature": ask.temperature or 0.0, "seed": ask.seed}
                )
            else:
                yield ask, Answer.too_long(len(ids), prompts.context_tokens)
        for number, made in self.run(lines, prompts.stop_ids, alive):
            ids, opening = sent[number]
            reason = "length" if made.finish == "length" else "stop"
            text = opening + prompts.decode(made.ids)
            yield (
                asks[number],
                Answer(
                    text,
                    reason,
                    prompt_tokens=len(ids),
                    completion_tokens=len(made.ids) + (reason == "stop"),
                    token_ids=tuple(made.ids),
                ),
            )

    @cached_property
    def prompts(self) -> Prompts:
        """How the model writes a chat, in the context that it is given."""
        return Prompts.of(self.folder, self.settings.max_model_len_tokens)

    def room_tokens(self, messages: Sequence[dict[str, str]], thinking: bool | None = None) -> int:
        """Longest answer that the context leaves to a chat; 0 where it leaves none."""
        return self.prompts.room_tokens(self._rendered(messages, thinking)[0])

    def _rendered(self, messages: Sequence[dict[str, str]], thinking: bool | None) -> tuple[list[int], str]:
        """A chat's ids, as Prompts.render has them; made once for its room, each time it is asked, and its answer."""
        key = canonical_json([list(messages), thinking])
        if key not in self._made:
            self._made[key] = self.prompts.render(messages, thinking)
        return self._made[key]

    def run(
        self, lines: list[dict], stop_ids: list[int], alive: Callable[[dict], None]
    ) -> Iterator[tuple[int, Finished]]:
        """The worker's own protocol: (id, what came) of each line, in the order in which they end."""
        if not lines:
            return
        if not self.workers:
            self._start(stop_ids, min(self.settings.data_parallel, len(lines)))
        copies = len(self.workers)
        for number, worker in enumerate(self.workers):
            worker.send([*lines[number::copies], {"end": True}])
        yield from self._listen(len(lines), alive)

    def _start(self, stop_ids: list[int], copies: int) -> None:
        """The workers load the model once and stay for further batches."""
        read_folder(self.folder)  # safetensors only, whole
        head = {"model": str(self.folder.resolve()), "engine": self.settings.arguments(), "stop_ids": stop_ids}
        self.workers = [_Worker(self, number, copies, self._heard) for number in range(copies)]
        for worker in self.workers:
            worker.send([{**head, "cores": worker.cores}])

    def _listen(self, wanted: int, alive: Callable[[dict], None]) -> Iterator[tuple[int, Finished]]:
        left, answered = len(self.workers), 0
        tokens: dict[_Worker, int] = {}
        while left:
            worker, said = self._heard.get()
            if said is None:
                worker.tell_its_end()
            elif "done" in said:
                left -= 1
            elif "id" in said:
                answered += 1
                yield said["id"], Finished(said["ids"], said["finish"], said.get("logprobs"))
            else:
                if "tokens" in said:
                    tokens[worker] = said["tokens"]
                alive({LOADED: said["ready"]} if "ready" in said else {"tokens": sum(tokens.values())})
        if answered != wanted:
            raise ChildError(
                f"vllm: {answered} of {wanted} prompts came back although every worker was done. Run again."
            )


class _Worker:
    """One process of vLLM's interpreter, and whatever it starts, in a process group of its own."""

    def __init__(self, source: VllmSource, number: int, copies: int, heard: queue.SimpleQueue) -> None:
        self.log = source.logs / f"vllm-worker-{number}.log"
        self.cores = sorted(os.sched_getaffinity(0))[number::copies] if copies > 1 else []
        """Its share of a machine without cards; no share is none of its own."""
        with self.log.open("wb") as printed:
            self.process = subprocess.Popen(
                # -P: the worker's folder must not come before the libraries on the path
                [source.python, "-P", str(_WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=printed,
                env=environment() | placed(number, copies, source.settings.tensor_parallel),
                start_new_session=True,
            )
        threading.Thread(target=self._hear, args=(heard,), daemon=True).start()

    def send(self, lines: list[dict]) -> None:
        """Lines for its input, which stays open: when this process dies it closes, and the worker ends itself."""
        assert self.process.stdin is not None, "opened as a pipe"
        with contextlib.suppress(BrokenPipeError):  # it died at once: told where its output ends
            for line in lines:
                self.process.stdin.write(json.dumps(line).encode() + b"\n")
            self.process.stdin.flush()

    def _hear(self, heard: queue.SimpleQueue) -> None:
        assert self.process.stdout is not None, "opened as a pipe"
        for line in self.process.stdout:
            with contextlib.suppress(ValueError):  # the last line of a worker that was killed may be torn
                heard.put((self, json.loads(line)))
        heard.put((self, None))

    def tell_its_end(self) -> None:
        """Raises ChildError: a worker ends only when it is told to, or in trouble."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_GRACE_S)
        self.end()
        code = self.process.returncode
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
        printed = "\n".join(f"    {line}" for line in _told(self.log))
        raise ChildError(
            redact(
                f"vllm: the worker {how} before it had answered everything. Answers that came are kept: run again after "
                f"mending what it says (whole log: {self.log}).\n{printed}"
            )
        )

    def end(self) -> None:
        """Kill its whole group; harmless when it is gone."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is None:
                continue
            with contextlib.suppress(OSError):
                pipe.close()


def _told(log: Path) -> list[str]:
    """The first and the last error in a worker's output with what follows them, or its last lines.

    vLLM passes an error on from process to process: the first is its cause, the last what the worker died of.
    """
    lines = log.read_text("utf-8", "replace").splitlines()
    errors = [number for number, line in enumerate(lines) if _ERROR.search(line)]
    if not errors:
        return lines[-_TAIL_LINES:]
    shown = [line for number in (errors[0], errors[-1]) for line in lines[number : number + _TAIL_LINES]]
    return list(dict.fromkeys(line[:_SHOWN_CHARS] for line in shown if line.strip()))


def placed(number: int, copies: int, cards: int) -> dict[str, str]:
    """Environment of one of several copies, each with its own cards.

    One card needs no process of its own for the engine: measured on two cores, it loads in half the time without, answers no
    slower, and leaves no shared memory behind when it is killed.
    """
    found = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    if cards == 1:
        found["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    if copies == 1:
        return found
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    ids = visible if visible != [""] else [str(i) for i in range(copies * cards)]
    return found | {"CUDA_VISIBLE_DEVICES": ",".join(ids[number * cards : (number + 1) * cards])}
