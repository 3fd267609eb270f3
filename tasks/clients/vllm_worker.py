"""vLLM in an interpreter of its own: token ids in, token ids out, each answer as soon as it is finished.

Run by vllm_source.py with the interpreter that holds vLLM; it imports the standard library and vLLM, and nothing of ours.

Standard input, one JSON object a line: {"model": folder, "engine": keyword arguments of vllm.LLM, "stop_ids": [...], "cores":
[...] or nothing}; then, as often as there is something to ask, {"id", "ids", "max_tokens", "temperature", "seed", "logprobs"}
for each prompt, and {"end": true}. When it closes, the parent is done or gone, and this process group ends itself.
Standard output, one JSON object a line: {"ready": seconds}, {"tokens": so far in this batch} about once a second, {"id", "ids",
"finish" ("stop" or "length"), "logprobs" where asked for} as answers end, {"done": answers} after each {"end"}. What vLLM
prints goes to standard error.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import threading
import time
from collections.abc import Iterator

_ALIVE_EVERY_S = 1.0


def main() -> None:
    """Load the model, then answer batch after batch until the input closes."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # vLLM and its libraries print on standard output
    batches: queue.SimpleQueue = queue.SimpleQueue()
    lines = _lines()
    head = json.loads(next(lines))
    if head.get("cores"):
        os.sched_setaffinity(0, head["cores"])  # before anything counts cores
    threading.Thread(target=_read, args=(lines, batches), daemon=True).start()
    started = time.monotonic()
    from vllm import LLM

    llm = LLM(**engine_arguments(head))
    _say(out, {"ready": round(time.monotonic() - started, 3)})
    while True:
        asks = batches.get()
        for ask in asks:
            prompt = {"prompt_token_ids": ask["ids"]}
            llm.llm_engine.add_request(str(ask["id"]), prompt, sampling(ask, head["stop_ids"]))
        _say(out, {"done": _run(llm.llm_engine, set(head["stop_ids"]), out)})


def _lines() -> Iterator[bytes]:
    """Standard input line by line. Not sys.stdin: its lock, held by a daemon thread, aborts the interpreter's shutdown."""
    begun = b""
    while part := os.read(0, 1 << 16):
        *whole, begun = (begun + part).split(b"\n")
        yield from whole


def _read(lines: Iterator[bytes], batches: queue.SimpleQueue) -> None:
    """Hand over each batch of prompts; at the end of the input, end everything."""
    asks: list[dict] = []
    with contextlib.suppress(OSError, ValueError):
        for line in lines:
            value = json.loads(line)
            if value.get("end"):
                batches.put(asks)
                asks = []
            else:
                asks.append(value)
    os.killpg(0, signal.SIGKILL)  # the engine's own processes are in this group


def engine_arguments(head: dict) -> dict:
    """Keyword arguments of LLM. What is left open is settled by the platform: float32 and no graphs on a CPU."""
    from vllm.platforms import current_platform

    cpu = current_platform.is_cpu()
    found = {name: value for name, value in head["engine"].items() if value is not None}
    cache_bytes = found.pop("cpu_kv_cache_bytes", None)
    if cpu:
        found = {"dtype": "float32", "enforce_eager": True, "kv_cache_memory_bytes": cache_bytes, **found}
        found.pop("gpu_memory_utilization", None)
    return {
        "model": head["model"],
        "skip_tokenizer_init": True,  # prompts come as ids, answers leave as ids
        "trust_remote_code": False,
        "load_format": "safetensors",
        "generation_config": "vllm",  # no sampling default of the model's own
        "disable_log_stats": True,
        **found,
    }


def sampling(ask: dict, stop_ids: list[int]):
    """vLLM's SamplingParams of one prompt."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        max_tokens=ask["max_tokens"],
        temperature=ask["temperature"],
        seed=ask.get("seed"),
        stop_token_ids=stop_ids,
        ignore_eos=True,  # stop_ids holds every end token; vLLM's own choice is not asked
        logprobs=0 if ask.get("logprobs") else None,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )


def _run(engine, stops: set[int], out) -> int:
    """Continuous batching: every step advances all sequences by a token; those that ended are told at once."""
    tokens = answered = 0
    begun: dict[str, tuple[list[int], list[float] | None]] = {}
    told = time.monotonic()
    while engine.has_unfinished_requests():
        for output in engine.step():
            (made,) = output.outputs
            ids, logprobs = begun.setdefault(output.request_id, ([], None if made.logprobs is None else []))
            if made.logprobs is not None and logprobs is not None:
                logprobs += [one[token].logprob for one, token in zip(made.logprobs, made.token_ids, strict=True)]
            ids += made.token_ids
            tokens += len(made.token_ids)
            if not output.finished:
                continue
            answered += 1
            del begun[output.request_id]
            kept = len(ids) - bool(ids and ids[-1] in stops)
            line = {"id": int(output.request_id), "finish": made.finish_reason, "ids": ids[:kept]}
            _say(out, line if logprobs is None else {**line, "logprobs": logprobs[:kept]})
        if time.monotonic() - told > _ALIVE_EVERY_S:
            told = time.monotonic()
            _say(out, {"tokens": tokens})
    return answered


def _say(out, value: dict) -> None:
    out.write(json.dumps(value) + "\n")
    out.flush()


if __name__ == "__main__":
    main()
