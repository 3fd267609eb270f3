"""The Jinja environment of the HTML pages: what is put in is escaped, and a name that is missing is an error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template


def page_template(name: str, filters: Mapping[str, Callable], names: Mapping[str, Any]) -> Template:
    """The template `name` of this folder, with filters and global names of its own."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters)
    environment.globals.update(names)
    return environment.get_template(name)
