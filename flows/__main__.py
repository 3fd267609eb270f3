"""`python -m flows ...`: every flow from a terminal, without a server of the user's and without make."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from data_contracts.errors import ConfigError, ContractError, PlumblineError
from data_contracts.yaml_model import parse_yaml

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)

_UsageError: Any = typer.BadParameter.__base__  # typer carries a click of its own and names only this class of it

_PREFECT_DEFAULTS = {
    "PREFECT_HOME": str(Path(__file__).resolve().parents[1] / ".prefect"),
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",  # besides privacy: the telemetry row races with start-up ("database is locked")
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # the default of 20 s is short for a busy laptop
    "PREFECT_LOGGING_LEVEL": "CRITICAL",  # a failure is told once, at the end, by main()
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_SHOW_ALEMBIC_WARNING": "false",
}


def prefect_environment() -> None:
    """Settings of a run from a terminal; what the user has set stays."""
    for name, value in _PREFECT_DEFAULTS.items():
        os.environ.setdefault(name, value)


@app.command()
def finetune(
    profile: Annotated[str, typer.Argument(help="A profile such as signals/nano, or a path to a YAML file.")],
    set_: Annotated[list[str] | None, typer.Option("--set", help="Change one setting: --set train.epochs=3")] = None,
) -> None:
    """Fine-tune, verify, evaluate and release a model."""
    from flows.config import FinetuneConfig, load_config, profile_path

    config = load_config(profile_path(profile), _changes(set_ or []), FinetuneConfig)
    prefect_environment()
    from flows.finetune import finetune as flow

    path = flow(config=config)
    print(f"released  {path}")


@app.command()
def distill(
    profile: Annotated[str, typer.Argument(help="A profile such as proofkit/nano, or a path to a YAML file.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change one setting: --set student.distilled.epochs=3")
    ] = None,
) -> None:
    """Fine-tune a teacher, let it answer, make a student of its answers and one without, and release the better one."""
    from flows.config import load_config, profile_path
    from flows.distill_config import DistillConfig

    config = load_config(profile_path(profile, "distill"), _changes(set_ or []), DistillConfig)
    prefect_environment()
    from flows.distill import distill as flow

    print(f"released  {flow(config=config)}")


@app.command()
def validate(
    recipe: Annotated[str, typer.Argument(help="The contract: a folder of data_contracts/, such as signals.")],
    data: Annotated[Path, typer.Argument(help="A .jsonl or .parquet file.")],
    limits: Annotated[str, typer.Option(help="Profile of the recipe's limits.yaml: default, nano, ...")] = "default",
    tokenizer: Annotated[Path | None, typer.Option(help="Folder of a model, whose tokens are counted too.")] = None,
    max_length_tokens: Annotated[int, typer.Option(min=16, help="With --tokenizer: longest row, in tokens.")] = 2048,
) -> None:
    """Check rows against their contract, in seconds and without a server; exit code 0 only when everything checked passes."""
    from data_contracts.verdict import Verdict
    from flows.checking import check_file

    found = check_file(recipe, data, limits, tokenizer, max_length_tokens)
    print(found.table())
    if found.verdict is not Verdict.PASS:
        raise ContractError(found.sentence())
    print(f"\n{found.sentence()}")


@app.command()
def rows(
    recipe: Annotated[str, typer.Argument(help="Whose rows: a recipe, such as proofkit.")],
    out: Annotated[Path, typer.Option(help="Folder for train.jsonl and heldout.jsonl.")],
    source: Annotated[str, typer.Option(help="A source of the recipe, such as built, nano or gold.")] = "built",
    train_rows: Annotated[int, typer.Option(min=1, help="Rows to train on.")] = 7_000,
    heldout_rows: Annotated[int, typer.Option(min=1, help="Rows that no model is trained on.")] = 210,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same bytes.")] = 42,
    force: Annotated[bool, typer.Option("--force", help="Replace files of other content.")] = False,
) -> None:
    """Write a recipe's rows as files, in seconds and without a server."""
    from flows.rows import write_rows

    start = time.perf_counter()
    for path, count in write_rows(recipe, source, train_rows, heldout_rows, seed, out, force=force).items():
        print(f"{count:>9,} rows  {path}")
    print(f"built in {time.perf_counter() - start:.1f} s")


@app.command()
def compare(
    profile: Annotated[
        str,
        typer.Argument(
            help="A finetune profile, whose last run is compared, or a list of models: a name or a YAML file."
        ),
    ] = "signals/nano",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change one setting of that file: --set name=value")
    ] = None,
) -> None:
    """Ask models the same held-out rows, rank them, and write a leaderboard."""
    from flows.comparison import load_comparison

    config = load_comparison(profile, _changes(set_ or []))
    prefect_environment()  # before the first import of Prefect
    from flows.compare import compare as flow

    print(f"compared  {flow(config=config)}")


@app.command()
def serve(
    release: Annotated[str, typer.Argument(help="A profile such as signals/nano, or the folder of a release.")],
    quantization: Annotated[str | None, typer.Option(help="The GGUF to serve; the profile's own unless given.")] = None,
    port: Annotated[int, typer.Option(help="Port on loopback; 0 takes a free one.")] = 8080,
    context_tokens: Annotated[int, typer.Option(help="Context; 0 is the one the GGUF was made for.")] = 0,
) -> None:
    """Serve a released GGUF with an OpenAI-compatible API on loopback, until Ctrl-C."""
    from flows.serve import serve as run

    run(release, quantization, port, context_tokens)


boards = typer.Typer(no_args_is_help=True, help="Boards of judged answers that are kept.")
app.add_typer(boards, name="boards")

_Release = Annotated[Path, typer.Option("--folder", help="Folder of the releases; boards/ lies in it.")]


@boards.command("diff")
def boards_diff(
    older: Annotated[str, typer.Argument(help="A file, a folder with a judgement.json, or a part of a kept name.")],
    newer: Annotated[str, typer.Argument(help="The same.")],
    folder: _Release = Path("release"),
) -> None:
    """What changed between two boards, and whether they can be compared at all."""
    from flows.boards import diff

    print(diff(older, newer, folder))


@boards.command("list")
def boards_list(
    name: Annotated[str, typer.Argument(help="Name of the release.")], folder: _Release = Path("release")
) -> None:
    """The boards kept for a release, the oldest first."""
    from flows.boards import kept_boards

    kept = kept_boards(folder, name)
    print("\n".join(f"{path.stem}  {path}" for path in kept) or f"No board of {name} is kept in {folder / 'boards'}.")


def _changes(pairs: list[str]) -> dict:
    wrong = [pair for pair in pairs if "=" not in pair]
    if wrong:
        raise ConfigError(f"config: --set needs name=value, found {', '.join(wrong)}. Example: --set train.epochs=3")
    split = (pair.split("=", 1) for pair in pairs)
    return {name: parse_yaml(value, f"config: the value of --set {name}") for name, value in split}


def main() -> int:
    """Run a command; a user's mistake ends in its message and exit code 1, never in a traceback."""
    from tasks.core.errors import explain_os_error, redact

    try:
        app(standalone_mode=False)
    except PlumblineError as error:
        print(redact(f"\n{error}"), file=sys.stderr)
        return 1
    except OSError as error:
        if not (explained := explain_os_error(sys.argv[1], error)):
            raise
        print(redact(f"\n{explained}"), file=sys.stderr)
        return 1
    except _UsageError as error:
        error.show()
        return error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        print("stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
