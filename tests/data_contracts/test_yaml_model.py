"""YAML that a user wrote: whatever is wrong with it is one sentence with the file and the line, never a traceback."""

import pytest

from data_contracts.errors import ConfigError
from data_contracts.yaml_model import parse_yaml, read_yaml

BROKEN = [
    ("a: {{ x }}\n", "line 1 cannot be read: a key is a list or a mapping"),
    ("b: 1\n[x]: 1\n", "line 2 cannot be read: a key is a list or a mapping"),
    ("b: 1\nd: 2026-02-30\n", "line 2 cannot be read: '2026-02-30' is no timestamp (day"),
    ("a: !!int abc\n", "line 1 cannot be read: 'abc' is no int"),
    ("a: !!float abc\n", "line 1 cannot be read: 'abc' is no float"),
    ("a: !!bool abc\n", "line 1 cannot be read: 'abc' is no bool"),
    ("a: !!timestamp abc\n", "line 1 cannot be read: 'abc' is no timestamp"),
    ("- b\n- {c: [2026-13-01]}\n", "line 2 cannot be read: '2026-13-01' is no timestamp"),
    ("a: @me\n", "line 1 cannot be read: found character '@'"),
    ("a: [\n", "line 2 cannot be read"),
    ("a:\n  b: 1\n  c: 2\n  b: 3\n", "line 4 cannot be read: key 'b' stands in line 2 and again in line 4"),
    ("a: !!python/object/apply:os.getcwd []\n", "line 1 cannot be read: could not determine a constructor"),
    ("a: \x00\n", "cannot be read"),
    ("[" * 20_000, "cannot be read: nested too deeply"),
    ("b: 1\na: café\n".encode("latin-1"), "line 2 cannot be read: byte 0xe9 is not UTF-8; save the file as UTF-8"),
]


@pytest.mark.parametrize(("text", "said"), BROKEN)
def test_what_is_wrong_is_told_with_its_line(tmp_path, text, said):
    with pytest.raises(ConfigError) as error:
        parse_yaml(text, "limits: c.yaml")
    assert said in str(error.value) and str(error.value).startswith("limits: c.yaml")
    path = tmp_path / "c.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=r"limits: .*/c\.yaml"):
        read_yaml(path, "limits")


def test_what_is_right_is_read_as_pyyaml_reads_it():
    text = "\ufeffa: &x {b: 1.5, c: [yes, null]}\nd: {<<: *x, b: 2026-02-28}\n1: e\n"
    read = parse_yaml(text.encode(), "c.yaml")
    assert read["a"] == {"b": 1.5, "c": [True, None]}
    assert (read["d"]["c"], str(read["d"]["b"]), read[1]) == ([True, None], "2026-02-28", "e")
    assert parse_yaml("", "c.yaml") is None
