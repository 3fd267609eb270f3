"""A message that names a setting names one that exists: every string of the source is read, and every dotted name looked up."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from flows.comparison import ComparisonConfig
from flows.config import FinetuneConfig, load_config, profile_path
from flows.distill_config import DistillConfig
from flows.pipeline import Pipeline
from flows.setting_names import in_blocks, setting_names
from tasks.core.errors import ArtifactError, ConfigError

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("tasks", "flows", "data_contracts", "deployments")
KINDS = (FinetuneConfig, DistillConfig, ComparisonConfig)
KNOWN = set().union(*(setting_names(kind) for kind in KINDS))
BLOCKS = {name.split(".")[0] for name in KNOWN if "." in name} | {"validate"}
"""`validate` is the name of a command and of no block; a hint once named it."""
LAST = {name.rpartition(".")[2] for name in KNOWN if "_" in name.rpartition(".")[2]}
"""What settings are called within their blocks: whatever stands before one with a dot is meant as its block."""
FILES = {"jsonl", "parquet", "md", "yaml", "json", "py", "safetensors", "gguf", "txt", "html"}
DOTTED = re.compile(r"(?<![\w./{-])([a-z_]+(?:\.[a-z_][a-z0-9_]*)+)(?![\w/(]|\.\w)")


def dotted_names(text: str) -> list[str]:
    """What reads as a setting in a text: `block.name`, but no file, module or path."""
    names = [match[1] for match in DOTTED.finditer(text)]
    return [
        name
        for name in names
        if name.split(".")[-1] not in FILES and (name.split(".")[0] in BLOCKS or name.split(".")[-1] in LAST)
    ]


def strings(path: Path) -> list[tuple[int, str]]:
    """(line, text) of each string literal of a file, docstrings included; what an f-string fills in is left out. Of a
    document, and of the comments of a YAML file, each line."""
    if path.suffix != ".py":
        lines = enumerate(path.read_text("utf-8").splitlines(), 1)
        return [(n, line if path.suffix == ".md" else line.partition("#")[2]) for n, line in lines]
    tree = ast.parse(path.read_text("utf-8"))
    return [(n.lineno, n.value) for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]


def unknown_settings(path: Path) -> list[str]:
    return [f"{path.name}:{line}: {n}" for line, text in strings(path) for n in dotted_names(text) if n not in KNOWN]


def test_every_setting_that_a_string_of_the_source_names_exists():
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    assert len(files) > 150
    documents = [*(ROOT / "configs").rglob("*.yaml"), *(ROOT / "data_contracts").rglob("*.md")]
    documents += [ROOT / f"{name}.md" for name in ("README", "ARCHITECTURE", "CONTRIBUTING")]
    assert len(documents) > 15
    files += documents
    assert [line for path in files for line in unknown_settings(path)] == []
    named = {name for path in files for _, text in strings(path) for name in dotted_names(text)}
    assert {"validate_rows.max_length_tokens", "train.learning_rate", "base.revision", "dataset.train_rows"} <= named


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('fix="Shorten the rows or raise validate.max_length_tokens"', "validate.max_length_tokens"),
        ('f"lower train.learning_rat of {x}"', "train.learning_rat"),
        ('"set merge_adapter.max_logit_diff"', "merge_adapter.max_logit_diff"),
        ('"train.forgetting.probes is 3."', "train.forgetting.probes"),
    ],
)
def test_an_invented_setting_is_noticed(tmp_path, text, name):
    (tmp_path / "a.py").write_text(f"x = 1\nprint({text.removeprefix('fix=')})\n")
    assert unknown_settings(tmp_path / "a.py") == [f"a.py:2: {name}"]


@pytest.mark.parametrize("text", ["train.jsonl", "tasks.train_lora", "a/train.rank", "see train.parquet", "x.append"])
def test_files_modules_and_paths_are_no_settings(text):
    assert dotted_names(text) == []


def test_a_distillation_names_its_own_blocks():
    config = load_config(profile_path("proofkit/nano", "distill"), {"min_free_gib": 0, "generate.engine": "transformers"},
                         DistillConfig)  # fmt: skip
    text = "Lower train.learning_rate, read train.jsonl, raise validate_rows.max_length_tokens, or set evaluate.batch_rows."
    after = "read train.jsonl, raise {0}.validate_rows.max_length_tokens, or set evaluate.batch_rows."
    assert config.named("teacher", text) == "Lower teacher.train.learning_rate, " + after.format("teacher")
    for part in ("direct", "distilled"):
        assert config.named(part, text) == f"Lower student.{part}.learning_rate, " + after.format("student")
    assert config.named("", "what export.quantizations makes") == "what student.export.quantizations makes"


def test_every_setting_that_a_fine_tune_has_exists_in_a_distillation_under_its_block():
    """Of those that a hint names; `hardware`, for one, stands beside the blocks there."""
    blocks = {name: f"student.{name}" for name in ("base", "validate_rows", "merge", "export")} | {
        "train": "teacher.train"
    }
    known = setting_names(DistillConfig)
    for name in sorted(setting_names(FinetuneConfig)):
        if "." in name:
            assert in_blocks(name, blocks, known) in known, name


def test_a_stage_s_error_reaches_the_reader_with_the_flow_s_names(monkeypatch, tmp_path):
    from tasks import train_lora
    from tasks.core.stage import Run

    def failing(*_args, **_inputs):
        raise ArtifactError("train_lora: the loss is not finite. Lower train.learning_rate.")

    monkeypatch.setattr("flows.pipeline.run_stage", failing)
    run, named = Run(name="t", recipe="signals", store=str(tmp_path)), load_named()
    with pytest.raises(ArtifactError, match=r"Lower student\.direct\.learning_rate\."):
        Pipeline(run, named=named).part("direct")(train_lora.STAGE, train_lora.TrainConfig())
    with pytest.raises(ArtifactError, match=r"Lower train\.learning_rate\."):
        Pipeline(run)(train_lora.STAGE, train_lora.TrainConfig())


def load_named():
    changes = {"min_free_gib": 0, "generate.engine": "transformers"}
    return load_config(profile_path("proofkit/nano", "distill"), changes, DistillConfig).named


def test_the_file_that_is_served_is_looked_for_under_the_student_s_export():
    changes = {"min_free_gib": 0, "generate.engine": "transformers", "publish.serve_quantization": "q2_k"}
    with pytest.raises(ConfigError, match=r"what student\.export\.quantizations makes"):
        load_config(profile_path("proofkit/nano", "distill"), changes, DistillConfig)
