"""llama.cpp's converter in an interpreter of its own: safetensors folder to float16 GGUF, with our metadata.

Run as `python -m tasks.gguf_export.convert spec.json`. The converter is the one that belongs to the llama.cpp that
llama_cpp runs on. It is changed in three places only: a tokenizer that it does not know is accepted when it splits text
exactly as Qwen2's does; the digest of the prompt contract goes into the header; no code of the model's is ever run.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_contracts.errors import ArtifactError
from tasks.core.progress import file_growth
from tasks.formats.gguf_file import llama_cpp_folder
from tasks.prompts.prompt_digest import PROMPT_CONTRACT_KEY

_PROJECT_ROOT = Path(__file__).resolve().parents[2]
_QWEN2_SPLIT_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def convert(model_dir: Path, out_file: Path, *, name: str, prompt_digest: str, tick: Callable[[int], None]) -> None:
    """Write `out_file` from a model folder. `tick`: bytes written so far, as often as they grow.

    Raises:
        ArtifactError: the tokenizer or architecture is unknown to llama.cpp, or the converter failed or wrote nothing.
    """
    llama_cpp_folder()
    spec, result, log = (out_file.with_suffix(suffix) for suffix in (".spec.json", ".result.json", ".log"))
    paths = {
        "model_dir": str(model_dir.resolve()),
        "out_file": str(out_file.resolve()),
        "result": str(result.resolve()),
    }
    spec.write_text(json.dumps({**paths, "name": name, "prompt_digest": prompt_digest}), "utf-8")
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    argv = [sys.executable, "-m", "tasks.gguf_export.convert", str(spec.resolve())]
    try:
        with log.open("wb") as out:
            child = subprocess.Popen(argv, stdout=out, stderr=out, env=env, cwd=_PROJECT_ROOT)
            try:
                with file_growth(out_file, tick):
                    child.wait()
            finally:
                child.kill()
                child.wait()
        said = json.loads(result.read_text("utf-8"))["error"] if result.is_file() else ""
        tail = " | ".join(log.read_text("utf-8", "replace").strip().splitlines()[-3:])
    finally:
        for path in (spec, result, log):
            path.unlink(missing_ok=True)
    if said:
        raise ArtifactError(f"export_gguf: {said}")
    if child.returncode or not out_file.is_file() or not out_file.stat().st_size:
        found = "wrote a file" if out_file.is_file() else "wrote no file"
        raise ArtifactError(
            f"export_gguf: llama.cpp's converter ended with code {child.returncode} and {found}. It said: {tail}. "
            "See that llama.cpp supports this architecture."
        )


def split_problem(tokenizer_json: dict[str, Any]) -> str:
    """Why a tokenizer does not split text as Qwen2's does; empty when it does. `tokenizer_json`: a tokenizer.json."""
    if (kind := tokenizer_json["model"]["type"]) != "BPE":
        return f"its model is {kind}, not BPE"
    before = tokenizer_json.get("pre_tokenizer") or {}
    steps = before.get("pretokenizers", [before])
    if [step.get("type") for step in steps] != ["Split", "ByteLevel"]:
        return f"its pre-tokenizer is {[step.get('type') for step in steps]}, not a split followed by byte level"
    split, byte_level = steps
    if split["pattern"].get("Regex") != _QWEN2_SPLIT_REGEX or split["behavior"] != "Isolated" or split["invert"]:
        return f"it splits text by {str(split['pattern'])[:120]}, which is not Qwen2's expression"
    if byte_level["use_regex"] or byte_level["add_prefix_space"]:
        return "its byte level splits once more, or adds a space in front"
    return ""


class _UnknownTokenizer(Exception):
    """The converter does not know the tokenizer, and it is not Qwen2's in disguise."""


def _patch_pre_tokenizer(text_model: Any) -> None:
    original = text_model.get_vocab_base_pre

    def get_vocab_base_pre(self: Any, tokenizer: Any) -> str:
        try:
            return original(self, tokenizer)
        except NotImplementedError:
            problem = split_problem(json.loads(tokenizer.backend_tokenizer.to_str()))
            if not problem:
                return "qwen2"
            raise _UnknownTokenizer(
                f"llama.cpp's converter does not know this tokenizer's pre-tokenizer, and {problem}. A guess would "
                "give other token ids than in training. Use a tokenizer that llama.cpp supports, or a newer llama.cpp."
            ) from None

    text_model.get_vocab_base_pre = get_vocab_base_pre


def _patch_write(model_base: Any, prompt_digest: str) -> None:
    original = model_base.write

    def write(self: Any) -> None:
        self.gguf_writer.add_string(PROMPT_CONTRACT_KEY, prompt_digest)
        original(self)

    model_base.write = write


def _run_no_code_of_the_model() -> None:
    """The converter asks for `trust_remote_code=True` in places; here the answer is always no."""
    import transformers

    for name in ("AutoTokenizer", "AutoConfig"):
        auto = getattr(transformers, name)
        original = auto.from_pretrained

        def from_pretrained(*args: Any, _original: Callable = original, **options: Any) -> Any:
            return _original(*args, **{**options, "trust_remote_code": False})

        auto.from_pretrained = from_pretrained


def _child(spec: dict[str, str]) -> None:
    folder = llama_cpp_folder()
    sys.path[:0] = [str(folder), str(folder / "gguf-py")]
    from conversion.base import ModelBase, TextModel

    _run_no_code_of_the_model()
    _patch_pre_tokenizer(TextModel)
    _patch_write(ModelBase, spec["prompt_digest"])
    sys.argv = ["convert_hf_to_gguf.py", spec["model_dir"], "--outtype", "f16", "--outfile", spec["out_file"]]
    sys.argv += ["--model-name", spec["name"]]
    try:
        runpy.run_path(str(folder / "convert_hf_to_gguf.py"), run_name="__main__")
    except _UnknownTokenizer as error:
        Path(spec["result"]).write_text(json.dumps({"error": str(error)}), "utf-8")
        raise SystemExit(1) from None


if __name__ == "__main__":
    _child(json.loads(Path(sys.argv[1]).read_text("utf-8")))
