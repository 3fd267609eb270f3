"""vLLM as its manual uses it, to measure the stage against: `LLM.generate` over whole batches, results kept in memory.

Run by vLLM's interpreter. Standard input as for tasks/engines/vllm_worker.py; standard output: {"ready"}, then for each batch
{"seconds", "tokens", "cpu_s"} of the call of generate alone.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tasks.engines.vllm_worker import engine_arguments, sampling


def main() -> None:
    """Answer batches until the input ends."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    head = json.loads(sys.stdin.readline())
    from vllm import LLM

    llm = LLM(**engine_arguments(head))
    print(json.dumps({"ready": True}), file=out, flush=True)
    batch: list[dict] = []
    for line in sys.stdin:
        value = json.loads(line)
        if not value.get("end"):
            batch.append(value)
            continue
        params = [sampling(ask, head["stop_ids"]) for ask in batch]
        prompts = [{"prompt_token_ids": ask["ids"]} for ask in batch]
        started, cpu = time.perf_counter(), time.process_time()
        made = llm.generate(prompts, params, use_tqdm=False)
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        tokens = sum(len(one.outputs[0].token_ids) for one in made)
        print(json.dumps({"seconds": seconds, "tokens": tokens, "cpu_s": cpu}), file=out, flush=True)
        batch = []


if __name__ == "__main__":
    main()
