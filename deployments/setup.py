"""Set up `.venv`: torch, the pinned stack, llama.cpp built from the source that also gives the converter.

    python deployments/setup.py [--with dev] [--with unsloth] [--with vllm]

`--with vllm` fills `.venv-vllm`, an interpreter of its own: vLLM's and Prefect's needs exclude each other (fastapi).

Needs Python 3.11+, a C++ compiler, and a package index that pip knows. Idempotent: a second run checks and returns in
about a second. Standard library only, so that it runs before anything is installed, on Windows too.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
VLLM_VENV = ROOT / ".venv-vllm"
STACKS = ROOT / "deployments" / "stacks"
TORCH = "torch==2.13.0"
LLAMA = "0.3.36"
"""Version of llama-cpp-python, whose source distribution carries llama.cpp and its converter."""
BUILD_TOOLS = ("cmake==4.4.4", "ninja==1.13.2", "scikit-build-core==1.1.2")
LLAMA_OFF = ("COMMON", "TESTS", "TOOLS", "EXAMPLES", "SERVER", "APP")
"""Parts of llama.cpp that Plumbline does not need: without them 78 of 193 compile steps are left (measured)."""


NO_AMX = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
"""llama.cpp's AMX code dies of a general protection fault in `ldtilecfg` (GCC 12, a Xeon with amx_bf16, on which PyTorch's
AMX works): every decode of a model whose sizes fit its tiles. `CMAKE_ARGS="-DCMAKE_C_FLAGS= -DCMAKE_CXX_FLAGS="` has it back."""


def python(folder: Path = VENV) -> Path:
    """The interpreter of an environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def pip(*arguments: str, into: Path = VENV) -> None:
    """Run pip of an environment; its own messages are shown when it fails."""
    run([str(python(into)), "-m", "pip", "--disable-pip-version-check", *arguments])


def run(command: list[str], env: dict[str, str] | None = None) -> None:
    """Run a command quietly; on failure print the end of its output and stop."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
    if done.returncode:
        print(done.stdout[-4000:], file=sys.stderr)
        sys.exit(f"setup: `{' '.join(command[:6])} ...` failed with code {done.returncode}. Mend that, then run again.")


def make_environment(folder: Path) -> None:
    """An empty environment, unless it is there."""
    if not python(folder).exists():
        print(f"setup: {folder.name} ...", flush=True)
        venv.create(folder, with_pip=True)


def step(title: str, mark: str, work, into: Path = VENV) -> None:
    """Do `work` unless a mark says that this very version of it was done in this environment."""
    done = into / "plumbline-setup" / hashlib.sha256(mark.encode()).hexdigest()[:16]
    if done.exists():
        return
    started = time.monotonic()
    print(f"setup: {title} ...", end=" ", flush=True)
    work()
    done.parent.mkdir(exist_ok=True)
    done.write_text(mark, "utf-8")
    print(f"{time.monotonic() - started:.0f} s", flush=True)


def install_llama() -> None:
    """Compile libllama, put it beside the Python bindings, keep the converter of the same source."""
    with_tools = VENV / "plumbline-build"
    shutil.rmtree(with_tools, ignore_errors=True)
    with_tools.mkdir()
    pip("install", "-q", *BUILD_TOOLS)
    only_source = ("--no-deps", "--no-build-isolation", "--no-binary", "llama-cpp-python")
    pip("download", "-q", *only_source, "-d", str(with_tools), f"llama-cpp-python=={LLAMA}")
    with tarfile.open(next(with_tools.glob("*.tar.gz"))) as archive:
        archive.extractall(with_tools, filter="data")
    source = with_tools / f"llama_cpp_python-{LLAMA}"
    llama_cpp = source / "vendor" / "llama.cpp"
    path = os.pathsep.join([str(python().parent), os.environ["PATH"]])
    build_libraries(llama_cpp, with_tools / "build", {**os.environ, "PATH": path})
    bindings = {**os.environ, "PATH": path, "CMAKE_ARGS": "-DLLAMA_BUILD=OFF -DLLAVA_BUILD=OFF"}
    install = [
        str(python()),
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--force-reinstall",
        str(source),
    ]
    run(install, env=bindings)
    place_libraries(with_tools / "build")
    run([str(python()), "-c", "import llama_cpp; llama_cpp.llama_backend_init()"])
    share = VENV / "share" / "llama.cpp"
    shutil.rmtree(share, ignore_errors=True)
    for name in ("conversion", "gguf-py"):
        shutil.copytree(llama_cpp / name, share / name)
    shutil.copy2(llama_cpp / "convert_hf_to_gguf.py", share)
    shutil.rmtree(with_tools)


def build_libraries(llama_cpp: Path, build: Path, env: dict[str, str]) -> None:
    """Build libllama and ggml for this machine's processor; CMAKE_ARGS adds options, e.g. -DGGML_CUDA=ON."""
    options = [
        "-DCMAKE_BUILD_TYPE=Release",
        "-DBUILD_SHARED_LIBS=ON",
        "-DLLAMA_CURL=OFF",
        "-DCMAKE_INSTALL_RPATH=$ORIGIN",
    ]
    options += ["-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON", *(f"-DLLAMA_BUILD_{part}=OFF" for part in LLAMA_OFF)]
    if knows(NO_AMX.split()):
        options += [f"-DCMAKE_C_FLAGS={NO_AMX}", f"-DCMAKE_CXX_FLAGS={NO_AMX}"]
    extra = os.environ.get("CMAKE_ARGS", "").split()
    run(["cmake", "-G", "Ninja", "-S", str(llama_cpp), "-B", str(build), *options, *extra], env=env)
    run(["cmake", "--build", str(build), "--target", "llama", "-j", str(os.cpu_count() or 2)], env=env)


def knows(flags: list[str]) -> bool:
    """Whether the C compiler takes these flags: one for another processor, or of before 2021, has no AMX to leave out."""
    compiler = os.environ.get("CC", "cc")
    if not shutil.which(compiler):
        return False
    trial = [compiler, *flags, "-x", "c", "-c", os.devnull, "-o", os.devnull]
    return subprocess.run(trial, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


def place_libraries(build: Path) -> None:
    """Copy the shared libraries, under the names that the loader asks for, into the bindings."""
    where = subprocess.run(
        [str(python()), "-c", "import importlib.util as u; print(u.find_spec('llama_cpp').submodule_search_locations[0])"],
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    target = Path(where.stdout.strip()) / "lib"
    target.mkdir(exist_ok=True)
    found = [p for p in (build / "bin").rglob("*") if p.suffix in (".dll", ".dylib") or ".so" in p.suffixes]
    if not found:
        sys.exit("setup: llama.cpp was built, but no library was found. Remove .venv and run again.")
    for path in found:
        shutil.copyfile(path, target / path.name)


def has_cuda() -> bool:
    """Whether this machine's driver finds a card."""
    tool = shutil.which("nvidia-smi")
    return (
        tool is not None
        and subprocess.run([tool, "-L"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
    )


def set_up_vllm() -> None:
    """Fill `.venv-vllm` with vLLM for CUDA where there is a card, for the CPU elsewhere, and see it import."""
    stack = STACKS / f"vllm-{'cuda' if has_cuda() else 'cpu'}.txt"
    make_environment(VLLM_VENV)
    step(f"{TORCH} for vLLM", TORCH, lambda: pip("install", "-q", TORCH, into=VLLM_VENV), VLLM_VENV)

    def work() -> None:
        pip("install", "-q", "--no-deps", "-r", str(stack), into=VLLM_VENV)
        run([str(python(VLLM_VENV)), "-c", "from vllm import LLM, SamplingParams, TokensPrompt"])

    step(stack.name, stack.read_text("utf-8"), work, VLLM_VENV)


def main() -> None:
    """Set up what was asked for and is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--with", dest="extra", action="append", default=[], choices=["dev", "unsloth", "vllm"])
    extra = parser.parse_args().extra
    if sys.version_info < (3, 11):  # noqa: UP036 - this file runs before anything could have checked
        sys.exit(f"setup: Python 3.11 or newer is needed, this is {sys.version.split()[0]}.")
    make_environment(VENV)
    step(TORCH, TORCH, lambda: pip("install", "-q", TORCH))
    for name in ("core", *(one for one in extra if one != "vllm")):
        stack = STACKS / f"{name}.txt"
        step(
            f"{stack.name}",
            stack.read_text("utf-8"),
            lambda stack=stack: pip("install", "-q", "--no-deps", "-r", str(stack)),
        )
    machine = os.uname().machine if os.name == "posix" else ""
    mark = f"llama {LLAMA} {LLAMA_OFF} {NO_AMX} {os.environ.get('CMAKE_ARGS', '')} {machine}"
    step(f"llama.cpp of llama-cpp-python {LLAMA}, compiled here", mark, install_llama)
    if "vllm" in extra:
        set_up_vllm()


if __name__ == "__main__":
    main()
