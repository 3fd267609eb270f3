"""A released GGUF behind an OpenAI-compatible API on loopback, once its digest agreed with the release's record."""

from __future__ import annotations

import json
import socket
from pathlib import Path

from flows.config import FinetuneConfig, load_config, profile_path
from tasks.core.errors import ConfigError
from tasks.publish_model import PublishConfig
from tasks.recipes import load_recipe
from tasks.release.released import Released, open_release

HOST = "127.0.0.1"


def serve(release: str, quantization: str | None = None, port: int = 8080, context_tokens: int = 0) -> None:
    """Serve until Ctrl-C. `release` is a profile or a release folder; `port` 0 takes a free one.

    Raises:
        ConfigError: there is no such release or file, or the port is taken.
        ArtifactError: the file is not the one that was evaluated, or cannot be loaded.
    """
    import uvicorn

    from tasks.release.row_route import add_row_route
    from tasks.runtimes.llama_server import make_app

    folder, default = locate(release)
    with _listen(port) as listener:
        found = open_release(folder, quantization or default)
        app = make_app(found.path, found.name, context_tokens)
        add_row_route(app, found.prompt, load_recipe(found.prompt.recipe))
        print(greeting(found, f"http://{HOST}:{listener.getsockname()[1]}/v1"), flush=True)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        server.run(sockets=[listener])


def locate(release: str) -> tuple[Path, str]:
    """The folder of a release, and the quantisation served unless another is named."""
    if Path(release).is_dir():
        return Path(release), PublishConfig().serve_quantization
    config = load_config(profile_path(release), kind=FinetuneConfig)
    folder = Path(config.publish.folder) / config.name
    if not folder.is_dir():
        raise ConfigError(f"serve: there is no {folder}. Make the release first: python -m flows finetune {release}")
    return folder, config.publish.serve_quantization


def greeting(found: Released, url: str) -> str:
    """What a user of the API needs: its address, the model's name, and a request that works as it stands."""
    body = json.dumps({"row": found.row}, ensure_ascii=False).replace("'", "'\\''")
    return (
        f"{found.path.name}: sha256 {found.digest[:12]}, as evaluated; greedy unless asked otherwise\n"
        f"base URL  {url}\n"
        f"model     {found.name}\n"
        f"example   curl {url}/rows -H 'Content-Type: application/json' -d '{body}'\n"
        "It sends a row, and the prompt contract writes the chat. /chat/completions takes any words; trained were only these.\n"
        "Any API key will do. Ctrl-C stops."
    )


def _listen(port: int) -> socket.socket:
    """A socket on loopback, taken before the model is loaded."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise ConfigError(f"serve: port {port} cannot be used ({error}). Give another, or --port 0.") from None
    return listener
