"""llama.cpp loaded by several threads at once: a comparison died of SIGSEGV when two GGUF files were opened together."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]

TOGETHER = """
import gc, random, threading, time
import llama_cpp
real, calls = llama_cpp.llama_log_set, []
def slowly(*arguments):
    calls.append(1)
    real(*arguments)
    time.sleep(random.random() * 0.02)  # whoever sets the callback last is rarely who returns last
llama_cpp.llama_log_set = slowly
from tasks.runtimes.llama_binding import complaints, forget_complaints, llama_api
barrier = threading.Barrier(8)
def load():
    barrier.wait()
    llama_api()
threads = [threading.Thread(target=load) for _ in range(8)]
for one in threads: one.start()
for one in threads: one.join()
gc.collect()
api = llama_api()
forget_complaints()
assert not api.llama_model_load_from_file(b"no/such.gguf", api.llama_model_default_params())
print(len(calls), complaints())
"""


def test_threads_that_load_it_together_leave_one_log_callback_that_lives():
    done = subprocess.run([sys.executable, "-c", TOGETHER], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, f"code {done.returncode}: {done.stderr[-2000:]}"
    calls, told = done.stdout.split(" ", 1)
    assert calls == "1" and "no/such.gguf" in told
