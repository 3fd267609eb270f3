"""vLLM as its manual uses it, to measure the stage against: whole batches in one call, results kept in memory.

Run by vLLM's interpreter. Standard input as for tasks/clients/vllm_worker.py, but that a prompt may hold "messages" in place of
"ids"; standard output: {"ready"}, then for each batch {"seconds", "tokens", "cpu_s"} of one call alone: LLM.chat, from messages
to texts, or LLM.generate, from ids to ids.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tasks.clients.vllm_worker import engine_arguments, sampling


def main() -> None:
    """Answer batches until the input ends."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    head = json.loads(sys.stdin.readline())
    from vllm import LLM

    llm = LLM(**engine_arguments(head) | {"skip_tokenizer_init": False})
    print(json.dumps({"ready": True}), file=out, flush=True)
    batch: list[dict] = []
    for line in sys.stdin:
        value = json.loads(line)
        if not value.get("end"):
            batch.append(value)
            continue
        print(json.dumps(timed(llm, batch, head["stop_ids"])), file=out, flush=True)
        batch = []


def timed(llm, batch: list[dict], stop_ids: list[int]) -> dict:
    """Answer one batch in one call of vLLM."""
    params = [sampling(ask, stop_ids) for ask in batch]
    chats = [ask["messages"] for ask in batch if "messages" in ask]
    for one in params:
        one.detokenize = bool(chats)
    prompts = [{"prompt_token_ids": ask["ids"]} for ask in batch if "ids" in ask]
    started, cpu = time.perf_counter(), time.process_time()
    made = llm.chat(chats, params, use_tqdm=False) if chats else llm.generate(prompts, params, use_tqdm=False)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    return {"seconds": seconds, "tokens": sum(len(one.outputs[0].token_ids) for one in made), "cpu_s": cpu}


if __name__ == "__main__":
    main()
