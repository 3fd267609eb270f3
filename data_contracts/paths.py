"""Where the contracts lie."""

from __future__ import annotations

from pathlib import Path

CONTRACTS_FOLDER = Path(__file__).resolve().parent
