"""Files of rows: what cannot be read is named by file and line, and nothing is read wrongly in silence."""

import json

import polars as pl
import pytest

from data_contracts.errors import ContractError
from data_contracts.rows import rows_file
from data_contracts.rows.contract import check_rows
from data_contracts.rows.rows_file import read_batch, read_objects, read_rows, row_batches

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
        (b'{"headline": "\\\\", "relevance": 1, "headline": "b"}\n', "key headline stands twice"),
        (b'{"a": "\\"\\\\\\"", "b": 2, "b": "\\\\\\\\"}\n', "key b stands twice"),
        (b'{"a": 1, "\\u0061": 1}\n', "key a stands twice"),
        (b'{"relevance": null, "relevance": null}\n', "key relevance stands twice"),
        (b'{"headline": ["a"], "relevance": 1}\n', "headline: nested value"),
        (b'{"\\ud83d": "a"}\n', "half a surrogate pair"),
        (b'{"headline": "a", "relevance": 1e999}\n', "infinity"),
        (b"null\n", "holds a NoneType, not an object"),
        (b'{"headline": "a\tb"}\n', "Invalid control character"),
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
    assert f"{path}:2: mixed types: relevance holds true/false (True); in line 1 it holds number" in str(error.value)


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


def test_escapes_are_not_taken_for_repeated_keys(tmp_path):
    """The fast proof counts quotes: every kind of escape, braces and colons in texts, empty keys and rows."""
    texts = ['"', "\\", '\\"', '"\\', '\\\\"', 'a": "b', '{"a": 1}', "\u0022", "\u005c", "", "'", "\n", "é😀"]
    rows = [{"text": one, one: "x", "n": len(one)} for one in texts] + [{}, {"": ""}, {"n": None}]
    for ascii_only in (True, False):
        path = tmp_path / f"{ascii_only}.jsonl"
        path.write_text("".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows), "utf-8")
        frame = read_rows(path)
        found = [{name: value for name, value in row.items() if value is not None} for row in frame.to_dicts()]
        assert found == [{name: value for name, value in row.items() if value is not None} for row in rows]


def test_batches_hold_the_rows_of_the_file_with_their_numbers(gold, tmp_path, monkeypatch):
    monkeypatch.setattr(rows_file, "BATCH_BYTES", 20_000)
    monkeypatch.setattr(rows_file, "BATCH_ROWS", 16)
    gold.write_ndjson(tmp_path / "rows.jsonl")
    gold.write_parquet(tmp_path / "rows.parquet", row_group_size=40)
    for name in ("rows.jsonl", "rows.parquet"):
        batches = list(row_batches(tmp_path / name))
        assert len(batches) >= 5
        assert [one.first_row for one in batches] == [
            1 + sum(one.frame.height for one in batches[:index]) for index in range(len(batches))
        ]
        assert pl.concat([one.frame for one in batches], how="vertical_relaxed").equals(gold), name


def test_a_batch_knows_the_columns_of_those_before(tmp_path, monkeypatch):
    monkeypatch.setattr(rows_file, "BATCH_BYTES", 1)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n{"b": 0.5}\n{"a": "x", "b": null}\n{"a": 2}\n')
    frames = [one.frame for one in row_batches(path)]
    assert [one.to_dicts() for one in frames] == [
        [{"a": 1}],
        [{"a": None, "b": 0.5}],
        [{"a": "x", "b": None}],
        [{"a": 2, "b": None}],
    ]


def test_text_beside_numbers_is_told_apart(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 0.5, "b": "x"}\n{"a": "0.5", "b": "y"}\n{"a": null}\n')
    (batch,) = row_batches(path)
    assert {name: cells.to_list() for name, cells in batch.texts.items()} == {"a": [False, True, False]}


def test_broken_lines_in_later_batches_are_all_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(rows_file, "BATCH_BYTES", 200)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD * 50 + b"{\n" + GOOD * 50 + b"\n" * 8)
    seen = 0
    with pytest.raises(ContractError, match="9 broken lines") as error:
        for batch in row_batches(path):
            seen += batch.frame.height
    assert 0 < seen <= 50
    assert f"{path}:51: " in str(error.value)
    assert f"{path}:102: the line is empty" in str(error.value)
    assert "and 4 more" in str(error.value)


def test_mixed_types_are_found_across_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(rows_file, "BATCH_BYTES", 200)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD * 50 + b'{"headline": "b", "relevance": false}\n')
    with pytest.raises(ContractError, match=r":51: mixed types: relevance holds true/false \(False\); in line 1 "):
        list(row_batches(path))


def test_keys_without_end_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(rows_file, "MAX_COLUMNS", 20)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"".join(b'{"key %d": 1}\n' % number for number in range(30)))
    with pytest.raises(ContractError, match=r"rows\.jsonl:21: up to here the file has more than 20 different keys"):
        list(row_batches(path))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_a_file_without_rows_is_one_empty_batch(gold, tmp_path, name):
    (tmp_path / "rows.jsonl").write_bytes(b"")
    gold.head(0).write_parquet(tmp_path / "rows.parquet")
    (batch,) = row_batches(tmp_path / name)
    assert (batch.first_row, batch.frame.height) == (1, 0)


def test_a_parquet_file_that_is_cut_off_is_told(gold, tmp_path):
    path = tmp_path / "rows.parquet"
    gold.write_parquet(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ContractError, match="not a readable parquet file"):
        list(row_batches(path))


def test_objects_have_the_keys_of_their_own_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"headline": "a", "novelty": 1}, {"headline": "\u2028", "error_code": None}]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    assert read_objects(path) == rows
    path.write_text('{"headline": "a"}\n\n')
    with pytest.raises(ContractError, match=r"rows\.jsonl:2: the line is empty"):
        read_objects(path)


def test_a_whole_file_tells_which_cells_are_text(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"novelty": 0.5}\n{"novelty": "0.5"}\n')
    assert read_batch(path).texts["novelty"].to_list() == [False, True]
