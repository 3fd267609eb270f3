"""Measure what the README claims, side by side in one run, and write the table into it.

python tests/benchmarks/run.py            # everything: about 20 minutes on two cores
python tests/benchmarks/run.py merge      # only the merge
"""

from __future__ import annotations

import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
MARKS = "<!-- bench -->", "<!-- /bench -->"


@dataclass
class Measured:
    """One finished process."""

    seconds: float
    peak_bytes: int
    """Largest resident set of the process itself, as the system counted it."""


def measure(*argv: str) -> Measured:
    """Run a command to its good end; its output goes to this terminal's standard error."""
    started = time.monotonic()
    child = subprocess.Popen([sys.executable, *argv], cwd=ROOT, stdout=sys.stderr)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"bench: {' '.join(argv)} ended with code {child.returncode}")
    return Measured(time.monotonic() - started, usage.ru_maxrss * 1024)


def bench_merge(folder: Path, pairs: int = 3) -> list[str]:
    """Our merge against PEFT merge_and_unload + save, on a random model of Qwen3-0.6B's shape; A B A B A B."""
    script = str(HERE / "merge_once.py")
    measure(script, "make", str(folder))
    measure(script, "plumbline", str(folder))  # warms the page cache for both
    runs: dict[str, list[Measured]] = {"plumbline": [], "peft": []}
    for _ in range(pairs):
        for name, found in runs.items():
            found.append(measure(script, name, str(folder)))
    rows = []
    for what, value, unit, size in (("time", "seconds", "s", 1), ("peak memory", "peak_bytes", "GiB", 2**30)):
        ours, theirs = (statistics.median(getattr(one, value) for one in runs[name]) / size for name in runs)
        rows.append(
            f"| merge, {what} | {ours:.2f} {unit} | PEFT merge_and_unload + save: {theirs:.2f} {unit} | {ours / theirs:.2f} |"
        )
    return rows


def bench_chain(folder: Path) -> list[str]:
    """The nano chain under Prefect against the same stages called plainly, then the cached second run."""
    common = ["signals/nano", "--set"]
    flow = [
        "-m",
        "flows",
        "finetune",
        *common,
        f"store={folder / 'prefect'}",
        "--set",
        f"publish.folder={folder / 'release'}",
    ]
    plain = measure(str(HERE / "plain_chain.py"), str(folder / "plain"))
    prefect = measure(*flow)
    cached = measure(*flow)
    return [
        f"| nano chain under Prefect, server start included | {prefect.seconds:.1f} s | the same stages called plainly: "
        f"{plain.seconds:.1f} s | {prefect.seconds / plain.seconds:.3f} |",
        f"| second run: all reused, every file hashed again | {cached.seconds:.1f} s | first run: {prefect.seconds:.1f} s "
        f"| {cached.seconds / prefect.seconds:.3f} |",
    ]


def machine() -> str:
    """The machine, in words."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", cpuinfo.read_text("utf-8")) if cpuinfo.exists() else None
    processor = found.group(1) if found else platform.processor()
    return f"{os.cpu_count()} cores, {processor}, {platform.system()}, Python {platform.python_version()}"


def write_table(rows: list[str]) -> None:
    """Replace the table between the README's marks."""
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text("utf-8").partition(MARKS[0])
    _, mark, after = rest.partition(MARKS[1])
    if not mark:
        sys.exit("bench: README.md has no place for the table")
    table = [
        f"Measured by `make bench` in one run ({machine()}).",
        "",
        "| what | Plumbline | beside | ratio |",
        "| --- | --- | --- | --- |",
        *rows,
    ]
    readme.write_text(f"{before}{MARKS[0]}\n" + "\n".join(table) + f"\n{MARKS[1]}{after}", "utf-8")


def main() -> None:
    """Run what was asked for; only a whole run rewrites the README."""
    wanted = sys.argv[1:] or ["merge", "chain"]
    rows = []
    with tempfile.TemporaryDirectory(prefix="plumbline-bench-") as temporary:
        for name, bench in (("merge", bench_merge), ("chain", bench_chain)):
            if name in wanted:
                rows += bench(Path(temporary) / name)
                print("\n".join(rows), flush=True)
    if len(wanted) == 2:
        write_table(rows)


if __name__ == "__main__":
    main()
