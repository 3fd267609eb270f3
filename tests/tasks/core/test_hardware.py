"""Prices: known machines, what is not priced, and seconds that survive a kill."""

from __future__ import annotations

import json

import pytest
import yaml

from tasks.core import hardware
from tasks.core.errors import ConfigError
from tasks.core.hardware import HARDWARE_FILE, Hardware, UsedSeconds, load_hardware


def test_every_entry_of_the_file_loads():
    names = list(yaml.safe_load(HARDWARE_FILE.read_text("utf-8")))
    assert len(names) >= 6
    assert {load_hardware(name).name for name in names} == set(names)
    assert load_hardware("h200").memory_gib > load_hardware("h100").memory_gib


def test_an_hour_costs_the_price_and_nothing_is_no_price():
    assert Hardware(name="x", memory_gib=8, price_usd_per_hour=2.5).cost_usd(3600) == 2.5
    assert Hardware(name="x", memory_gib=8, price_usd_per_hour=0).cost_usd(3600) == 0
    assert Hardware(name="x", memory_gib=8, price_usd_per_hour=None).cost_usd(3600) is None


@pytest.mark.parametrize("entry", [{"memory_gib": 8}, {"memory_gib": 8, "price_usd_per_hour": "dear"}, ["8"]])
def test_a_malformed_entry_is_told(tmp_path, monkeypatch, entry):
    monkeypatch.setattr(hardware, "HARDWARE_FILE", tmp_path / "hardware.yaml")
    (tmp_path / "hardware.yaml").write_text(yaml.safe_dump({"card": entry}))
    with pytest.raises(ConfigError, match="the entry 'card' of configs/hardware.yaml is not well-formed"):
        load_hardware("card")


def test_seconds_add_up_over_starts_and_a_torn_line_is_left_out(tmp_path):
    used = UsedSeconds(tmp_path / "used.jsonl")
    assert used.total() == 0
    with used.counting() as stretch:
        stretch.tick()
    with pytest.raises(ZeroDivisionError), used.counting():
        raise ZeroDivisionError
    lines = [{"stretch": "a", "seconds": 2.0}, {"stretch": "a", "seconds": 5.0}, {"stretch": "b", "seconds": 1.5}]
    with used.path.open("a") as file:
        file.write("".join(json.dumps(one) + "\n" for one in lines) + '{"stretch": "c", "sec')
    assert used.total() == pytest.approx(6.5, abs=0.2)
