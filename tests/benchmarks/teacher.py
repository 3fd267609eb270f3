"""Measure a teacher's throughput: the stage's vLLM against bare vLLM, and vLLM against transformers.generate.

python tests/benchmarks/teacher.py MODEL_FOLDER                 # e.g. the nano base of a store; about 5 minutes on two cores
python tests/benchmarks/teacher.py MODEL_FOLDER --rows 32 --max-new-tokens 48 --rounds 3   # a larger one

Prompts are those of signals' nano world, other rows in each round, so that no cache of an earlier round answers. Loading and a
first batch are left out. Stage and bare vLLM take turns, each in a process of its own; the median ratio of their turns counts.
Bare vLLM is one call over all prompts, results kept in memory: LLM.chat does the stage's work, from messages to texts; the
LLM.generate of ids that were rendered beforehand is the engine alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from data_contracts.prompting.prompt import load_prompt
from tasks.clients.chat_tokens import Prompts
from tasks.clients.requests import Ask
from tasks.clients.response_log import AnswerLog, answer_all
from tasks.clients.vllm_client import VllmSource, placed
from tasks.clients.vllm_settings import DEFAULT_PYTHON, VllmSettings, vllm_interpreter
from tasks.core.child import environment
from tasks.recipes.signals import nano_rows as signals_world
from tasks.runtimes import hf_model

HERE = Path(__file__).resolve().parent
BATCHES = (8, 64)


def asks_of(round_number: int, rows: int, max_new_tokens: int) -> list[Ask]:
    """Prompts of one round."""
    contract = load_prompt("signals")
    train, _ = signals_world.nano_rows(rows, 1, 1000 + round_number)
    return [Ask("bench", "nano", tuple(contract.messages(row)), max_new_tokens, 0.0) for row in train]


class Stage:
    """What generate_teacher does to its prompts: rendered, answered, decoded, each answer on the disk."""

    def __init__(self, source: VllmSource, folder: Path) -> None:
        self.source, self.folder, self.round = source, folder, 0

    def run(self, asks: list[Ask]) -> tuple[float, float, int]:
        """(seconds, processor seconds of both processes, generated tokens)."""
        self.round += 1
        before, started = self._cpu_s(), time.perf_counter()
        with AnswerLog(self.folder / f"log-{self.round}.jsonl") as log:
            answers = answer_all(asks, log, self.source)
        seconds = time.perf_counter() - started
        return seconds, self._cpu_s() - before, sum(one.completion_tokens for one in answers)

    def _cpu_s(self) -> float:
        own = time.process_time()
        for worker in self.source.workers:
            times = psutil.Process(worker.process.pid).cpu_times()
            own += times.user + times.system
        return own


class Raw:
    """Bare vLLM in its interpreter; an engine for each way of asking, so that none answers from the other's cache."""

    def __init__(self, process: subprocess.Popen, prompts: Prompts, chat: bool) -> None:
        self.process, self.prompts, self.chat = process, prompts, chat

    def run(self, asks: list[Ask]) -> tuple[float, float, int]:
        """Numbers as of Stage.run: LLM.chat from messages to texts, or LLM.generate from ids to ids."""
        for ask in asks:
            prompt = {"messages": ask.messages} if self.chat else {"ids": self.prompts.render(ask.messages)[0]}
            self._send({"id": 0, **prompt, "max_tokens": ask.max_tokens, "temperature": 0.0})
        self._send({"end": True})
        found = json.loads(self.process.stdout.readline())
        return found["seconds"], found["cpu_s"], found["tokens"]

    def _send(self, value: dict) -> None:
        self.process.stdin.write(json.dumps(value) + "\n")
        self.process.stdin.flush()


@contextmanager
def raw(folder: Path, *, chat: bool) -> Iterator[Raw]:
    """Bare vLLM, loaded."""
    prompts = Prompts.of(folder)
    process = subprocess.Popen(
        [vllm_interpreter(DEFAULT_PYTHON), str(HERE / "vllm_raw.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment() | placed(0, 1, 1),
    )
    one = Raw(process, prompts, chat)
    one._send({"model": str(folder.resolve()), "engine": VllmSettings().arguments(), "stop_ids": prompts.stop_ids})
    json.loads(process.stdout.readline())
    try:
        yield one
    finally:
        process.kill()
        process.wait()


def bench_stage(folder: Path, rows: int, rounds: int, logs: Path, room: int) -> list[str]:
    """Stage and bare vLLM in turns, each time in another order."""
    found: dict[str, list[tuple[float, float, int]]] = {"stage": [], "LLM.chat": [], "LLM.generate": []}
    with (
        VllmSource(folder, VllmSettings(), DEFAULT_PYTHON, logs) as source,
        raw(folder, chat=True) as chat,
        raw(folder, chat=False) as generate,
    ):
        runners = list(zip(found, (Stage(source, logs).run, chat.run, generate.run), strict=True))
        for _, run in runners:
            run(asks_of(-1, 16, room))
        for number in range(rounds):
            first = number % len(runners)
            for name, run in (*runners[first:], *runners[:first]):
                found[name].append(run(asks_of(number, rows, room)))
    print(json.dumps(found), file=sys.stderr)
    tokens = {name: [one[2] for one in turns] for name, turns in found.items()}
    assert tokens["stage"] == tokens["LLM.chat"] == tokens["LLM.generate"], f"not the same answers: {tokens}"
    return [
        _ratio_line(rows, name, found, what, column)
        for name in ("LLM.chat", "LLM.generate")
        for what, column in (("", 0), (", processor time", 1))
    ]


def _ratio_line(rows: int, name: str, found: dict, what: str, column: int) -> str:
    ratios = [ours[column] / theirs[column] for ours, theirs in zip(found["stage"], found[name], strict=True)]
    ours, theirs = (statistics.median(one[2] / one[column] for one in found[who]) for who in ("stage", name))
    spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
    return (
        f"| teacher under vLLM{what}, {rows} prompts | {ours:,.0f} tokens/s | bare {name}: {theirs:,.0f} tokens/s | "
        f"{statistics.median(ratios):.3f} ({spread} in {len(ratios)} turns) |"
    )


def bench_transformers(folder: Path, rows: int, logs: Path, room: int) -> list[str]:
    """vLLM, then transformers.generate at each batch size, on the same prompts."""
    asks, warm = asks_of(99, rows, room), asks_of(-1, 8, room)
    with VllmSource(folder, VllmSettings(), DEFAULT_PYTHON, logs) as source:
        stage = Stage(source, logs / "hf")
        stage.folder.mkdir()
        stage.run(warm)
        seconds, _, tokens = stage.run(asks)
    speed = tokens / seconds
    prompts = Prompts.of(folder)
    with hf_model.quiet():
        model = hf_model.load_model(folder)
    ids = [prompts.render(ask.messages)[0] for ask in asks]
    lines = []
    for batch in BATCHES:
        hf_model.generate(model, prompts.tokenizer, ids[:8], 16, prompts.stop_ids, batch)
        started = time.perf_counter()
        made = hf_model.generate(model, prompts.tokenizer, ids, room, prompts.stop_ids, batch)
        theirs = sum(len(one.ids) + 1 for one in made) / (time.perf_counter() - started)
        lines.append(
            f"| teacher, tokens/s, {rows} prompts | vLLM: {speed:,.0f} | transformers.generate, batch {batch}: {theirs:,.0f} | "
            f"{speed / theirs:.1f}x |"
        )
    return lines


def main() -> None:
    """Print the lines of the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--max-new-tokens", type=int, default=192)
    asked = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="plumbline-bench-") as temporary:
        for line in bench_stage(asked.folder, asked.rows, asked.rounds, Path(temporary), asked.max_new_tokens):
            print(line, flush=True)
        for line in bench_transformers(asked.folder, asked.rows, Path(temporary), asked.max_new_tokens):
            print(line, flush=True)


if __name__ == "__main__":
    main()
