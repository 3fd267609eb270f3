"""Files of rows: what cannot be read is named by file and line, and nothing is read wrongly in silence."""

import polars as pl
import pytest

from data_contracts.contract import check_rows, read_rows
from data_contracts.errors import ContractError

GOOD = b'{"headline": "a", "relevance": 0.5}\n'


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"headline": "a"\n', "Expecting ',' delimiter"),
        (b"\n", "the line is empty"),
        (b"[1, 2]\n", "holds a list, not an object"),
        (b'{"headline": "a"}{"headline": "b"}\n', "Extra data"),
        (b'{"headline": "a", "relevance": 0.1, "relevance": 0.9}\n', "key relevance stands twice"),
        (b'{"headline": "a", "relevance": NaN}\n', "NaN is not JSON"),
        (b'{"headline": "\xff\xfe"}\n', "is not UTF-8"),
        (b'{"headline": "\\ud83d"}\n', "half a surrogate pair"),
        (b'{"headline": {"text": "a"}}\n', "headline: nested value"),
        (b'{"headline": "a", "relevance": 0.', "Expecting ',' delimiter"),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, said):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD + GOOD + line)
    with pytest.raises(ContractError) as error:
        read_rows(path)
    assert "1 broken line in" in str(error.value)
    assert f"{path}:3: " in str(error.value)
    assert said in str(error.value)


def test_all_broken_lines_are_counted_and_the_first_are_shown(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD + b"{\n" * 7)
    with pytest.raises(ContractError, match="7 broken lines") as error:
        read_rows(path)
    assert f"{path}:2: " in str(error.value)
    assert "and 2 more" in str(error.value)


def test_a_byte_order_mark_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD)
    with pytest.raises(ContractError, match="byte order mark"):
        read_rows(path)


def test_mixed_types_name_the_line_that_changed(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD + b'{"headline": "b", "relevance": true}\n')
    with pytest.raises(ContractError, match="mixed types") as error:
        read_rows(path)
    assert f"{path}:2: relevance holds true/false (True); in line 1 it holds number" in str(error.value)


def test_a_late_key_and_a_late_text_value_are_not_lost(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD * 2_000 + b'{"headline": "b", "relevance": "high", "relevence": 1}\n')
    frame = read_rows(path)
    assert frame.height == 2_001
    assert frame["relevence"].to_list()[-1] == 1
    told = {one.column: one.rows for one in check_rows("signals", frame).broken}
    assert told["relevance"] == (2_001,)
    assert told["relevence"] == (2_001,)


def test_an_empty_file_is_an_empty_table_which_the_contract_refuses(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"")
    assert read_rows(path).height == 0
    assert not check_rows("signals", read_rows(path)).passed


def test_parquet_reads_the_same_rows(gold, tmp_path):
    gold.write_parquet(tmp_path / "rows.parquet")
    assert read_rows(tmp_path / "rows.parquet").equals(gold)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rows.parquet", b"PAR1 but no more", "not a readable parquet file"),
        ("rows.csv", b"a,b\n", "ends in '.csv'"),
        ("absent.jsonl", None, "is not a file"),
    ],
)
def test_other_files_are_refused(tmp_path, name, content, said):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ContractError, match=said):
        read_rows(path)


def test_unicode_and_escapes_come_through(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"headline": "caf\\u00e9 \\ud83d\\ude00 東京", "relevance": 1}\n', encoding="utf-8")
    assert read_rows(path).equals(pl.DataFrame({"headline": ["café 😀 東京"], "relevance": [1]}))
