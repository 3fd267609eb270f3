"""Measure how fast rows pass their contract, and in how much memory; pandera on pandas beside it.

python tests/benchmarks/validate_rows.py                  # 100,000 and 1,000,000 rows in both formats: minutes, 1.4 GB of disk
python tests/benchmarks/validate_rows.py --rows 20000     # a short look
python tests/benchmarks/validate_rows.py --folder DIR     # keep and reuse the files made there

The rows are the gold rows again and again, numbers and names in their texts changed, so that no two inputs are equal.
Every figure is one fresh process: seconds of wall clock from its start to its end, and its peak resident memory.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GOLD = ROOT / "data_contracts" / "signals" / "examples" / "gold.jsonl"
MIB = 2**20
CAPITALS = ("Lisbon", "Oslo", "Quito", "Riga", "Seoul", "Tunis", "Vienna", "Warsaw")
PANDAS_ROWS = 100_000
"""Also the most that pandera on pandas is given: it holds the whole table, and grows with it."""
OURS = (
    "import sys; from data_contracts.validation.validate import validate_file; "
    "found = validate_file('signals', sys.argv[1], out=sys.argv[2]); "
    "print(found.verdict.value, found.findings.n_rows, found.findings.n_rejected)"
)
"""What `python -m flows validate` does; the rows repeat each other's wording, so some checks on the set rightly fail."""


def make_rows(path: Path, n_rows: int) -> None:
    """Write `n_rows` rows that keep every rule on single rows, about 1.3 kB each, in both formats."""
    import polars as pl

    gold = [json.loads(line) for line in GOLD.read_text("utf-8").splitlines()]
    gold = [row for row in gold if row["headline"] and row["question"].endswith("?")]
    chance = random.Random(f"validate rows {n_rows}")
    with path.open("w", encoding="utf-8") as out:
        for number in range(n_rows):
            row = dict(chance.choice(gold))
            city, case = chance.choice(CAPITALS), f"{number:,}"
            row["headline"] = f"{city}, case {case}: {row['headline']}"
            row["question"] = f"In case {case} of {city}: {row['question']}"
            row["trace"] = row["trace"].replace("market", f"{city} market")
            row["source_batch"] = f"batch-{number % 7}"
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
    pl.scan_ndjson(path, infer_schema_length=None).sink_parquet(path.with_suffix(".parquet"))


def measure(*argv: str) -> tuple[float, float, str]:
    """(seconds, peak MiB, standard output) of one process of this interpreter.

    This process stays small: the system starts the peak of a child at the size of its parent.
    """
    started = time.monotonic()
    child = subprocess.Popen([sys.executable, *argv], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    said = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"bench: {argv[0]} ended with code {child.returncode}")
    return time.monotonic() - started, usage.ru_maxrss / 1024, said.strip()


def on_pandas(path: str) -> None:
    """The row rules of signals by pandera on pandas: the same columns, patterns and bounds, written for pandas."""
    import pandas as pd
    import pandera.pandas as pa

    from data_contracts.prompting import context, markers
    from data_contracts.signals.rows import ANSWER, ERROR_CODES, INFORMATION_TYPES, SOURCE_TAG

    def text(*checks: pa.Check, nullable: bool = False) -> pa.Column:
        return pa.Column(str, list(checks), nullable=nullable)

    def lacks(pattern: str) -> pa.Check:
        return pa.Check(lambda cells: ~cells.str.contains(pattern, regex=True))

    def on_rows(rule) -> pa.Check:
        return pa.Check(lambda frame: rule(frame, frame["error_code"].notna(), frame["relevance"] <= 0.1))

    def well_formed(column: str, rule) -> pa.Check:
        return on_rows(lambda frame, malformed, noise: malformed | rule(frame[column]))

    inputs = [
        check
        for column in ("headline", "question")
        for check in (
            well_formed(column, lambda cells: cells.str.strip().str.len() >= 8),
            well_formed(column, lambda cells: ~cells.str.contains(r"[\n\r\t]|^\s+\S|\S\s+$", regex=True)),
        )
    ]
    unit = pa.Column(float, pa.Check.in_range(0, 1), nullable=True)
    visible = lacks(markers.CONTROL_CHARACTERS)
    sentence = pa.Check(lambda cells: cells.str.contains(r"^[A-Z][^\n]{8,158}[.]$", regex=True))
    blank = pa.Check(lambda cells: cells.str.contains(r"\S", regex=True))
    line = rf"{context.LABEL}: \S(?:.*\S)?"

    def no_label_twice(cells):
        labels = cells.str.lower().str.findall(r"(?m)^([^:\n]*):")
        return labels.map(lambda found: len(found) == len(set(found)))

    lines = [
        pa.Check(lambda cells: cells.str.fullmatch(rf"{line}(?:\n{line})*")),
        lacks(rf"(?m)^[^:\n]{{{context.MAX_LABEL_CHARS + 1},}}:"),
        lacks(rf"(?m)^[^:\n]*: .{{{context.MAX_VALUE_CHARS + 1},}}$"),
        lacks(r"(?im)^\s*(?:headline|question)\s*:"),
        lacks(markers.ANY_MARKER),
        lacks(markers.INVISIBLE.replace("\n", "")),
        pa.Check(no_label_twice),
    ]
    schema = pa.DataFrameSchema(
        {
            "headline": text(lacks(SOURCE_TAG), lacks(markers.CHAT_CONTROL), visible),
            "question": text(lacks(markers.CHAT_CONTROL), visible),
            "trace": text(visible, blank, lacks(r"^\s+\S|\S\s+$"), lacks(markers.ANY_MARKER), lacks(markers.JSON_TEXT)),
            "relevance": unit,
            "direction": pa.Column(float, pa.Check.in_range(-1, 1), nullable=True),
            "magnitude": unit,
            "source_credibility": unit,
            "information_type": text(pa.Check.isin(INFORMATION_TYPES), nullable=True),
            "novelty": unit,
            "source_batch": text(blank),
            "metric_direction": pa.Column(int, pa.Check.isin([-1, 0, 1])),
            "error_code": text(pa.Check.isin(ERROR_CODES), nullable=True),
            "error_message": text(sentence, lacks(f"{markers.ANY_MARKER}|{markers.INVISIBLE}"), nullable=True),
            "context": text(*lines, nullable=True),
        },
        checks=[
            *inputs,
            well_formed("question", lambda cells: cells.str.contains(r"\?\s*$", regex=True)),
            *(well_formed(name, lambda cells: cells.notna()) for name in ANSWER),
            on_rows(lambda frame, malformed, noise: ~malformed | frame[list(ANSWER)].isna().all(axis=1)),
            on_rows(lambda frame, malformed, noise: frame["error_message"].notna() == malformed),
            *(
                on_rows(lambda frame, malformed, noise, name=name: ~noise | (frame[name] == 0))
                for name in ("direction", "magnitude", "metric_direction")
            ),
            on_rows(lambda frame, malformed, noise: malformed | ((frame["information_type"] == "unrelated") == noise)),
            on_rows(
                lambda frame, malformed, noise: (
                    malformed | noise | (frame["direction"] == 0) | (frame["magnitude"] != 0)
                )
            ),
        ],
        strict=True,
    )
    frame = pd.read_json(path, lines=True) if path.endswith(".jsonl") else pd.read_parquet(path)
    for name in ("error_code", "error_message", "context"):
        frame[name] = frame[name].astype("str")
    schema.validate(frame, lazy=True)
    print("pass", len(frame), 0)


def main() -> None:
    """Make the files, measure, print one table line a measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--pandas-rows", type=int, default=PANDAS_ROWS)
    parser.add_argument("--pandas", help=argparse.SUPPRESS)
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.pandas:
        on_pandas(asked.pandas)
        return
    if asked.make:
        make_rows(asked.make, asked.rows[0])
        return
    with tempfile.TemporaryDirectory(prefix="plumbline-rows-") as temporary:
        folder = asked.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        print(
            "| rows | file | what | seconds | peak memory | verdict, rows, rejected |\n| --- | --- | --- | --- | --- | --- |"
        )
        for n_rows in asked.rows:
            jsonl = folder / f"rows-{n_rows}.jsonl"
            if not jsonl.exists():
                measure(str(Path(__file__)), "--make", str(jsonl), "--rows", str(n_rows))
            for path in (jsonl, jsonl.with_suffix(".parquet")):
                size = f"{path.suffix} {path.stat().st_size / MIB:,.0f} MiB"
                runs = [("row rules, audit and page", ("-c", OURS, str(path), str(folder / "validation")))]
                if n_rows <= asked.pandas_rows:
                    runs.append(("row rules alone, pandera on pandas", (str(Path(__file__)), "--pandas", str(path))))
                for what, argv in runs:
                    seconds, peak, said = measure(*argv)
                    print(f"| {n_rows:,} | {size} | {what} | {seconds:.1f} | {peak:,.0f} MiB | {said} |", flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
