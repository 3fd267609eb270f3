"""limits.yaml and gates.yaml: every problem of a file at once; a gate without a measurement cannot tell."""

import pytest

from data_contracts.errors import ConfigError
from data_contracts.gates import FEWEST_ROWS, Gates, Measured, check_gates, load_gates
from data_contracts.limits import Limits, load_limits
from data_contracts.paths import CONTRACTS_FOLDER
from data_contracts.verdict import Verdict, failures
from data_contracts.yaml_model import read_yaml

SHIPPED = (CONTRACTS_FOLDER / "signals" / "limits.yaml").read_text("utf-8")
GOOD = {
    "valid_json_fraction": 0.99,
    "disagreeing_sign_accuracy_fraction": 0.95,
    "tuned_over_base_sign_accuracy_lower_bound": 0.4,
    "quantised_sign_accuracy_drop_fraction": 0.01,
    "noise_false_positive_fraction": 0.02,
    "error_schema_fraction": 1.0,
    "refused_good_input_fraction": 0.0,
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A contracts folder of our own, with one recipe."""
    for module in ("limits", "gates"):
        monkeypatch.setattr(f"data_contracts.{module}.CONTRACTS_FOLDER", tmp_path)
    (tmp_path / "signals").mkdir()
    return tmp_path / "signals"


def problems(call, *arguments) -> list[str]:
    with pytest.raises(ConfigError) as error:
        call(*arguments)
    return error.value.problems


def measured(values: dict, rows: int = 200) -> dict[str, Measured]:
    return {name: Measured(value, 0 if value is None else rows) for name, value in values.items()}


def test_every_shipped_profile_loads():
    profiles = list(read_yaml(CONTRACTS_FOLDER / "signals" / "limits.yaml", "limits"))
    assert {"default", "nano"} <= set(profiles)
    for profile in profiles:
        assert load_limits("signals", profile).profile == profile


def test_a_profile_overrides_only_what_it_names():
    default, nano = load_limits("signals"), load_limits("signals", "nano")
    assert (default.min_trace_chars, default.max_trace_chars, default.min_rows) == (700, 1_000, 20)
    assert (default.min_noise_fraction, default.max_noise_fraction) == (0.30, 0.40)
    assert nano.max_trace_chars < default.min_trace_chars
    assert nano.max_input_similarity_fraction is None
    assert nano.min_noise_fraction == default.min_noise_fraction


def test_every_field_says_what_it_means():
    for model in (Limits, Gates):
        assert all(field.description for field in model.model_fields.values())


def test_all_wrong_limits_are_told_at_once(folder):
    text = SHIPPED.replace("  max_trace_chars: 1_000", "  max_trace_char: 1_000")
    text = text.replace("min_noise_fraction: 0.30", "min_noise_fraction: 30").replace(
        "max_p_value: 0.05", "max_p_value: 5e-2"
    )
    (folder / "limits.yaml").write_text(text.replace("min_rows: 20 ", "min_rows: yes "), encoding="utf-8")
    said = problems(load_limits, "signals")
    assert len(said) == 5
    together = "\n".join(said)
    assert (
        "limits: data_contracts/signals/limits.yaml (default): max_trace_char is not a setting. Did you mean"
        in together
    )
    assert "max_trace_chars is missing" in together
    assert "min_noise_fraction is 30" in together
    assert "min_rows is True" in together
    assert "max_p_value is '5e-2'" in together
    assert "with a dot (1.0e-5)" in together


def test_bounds_the_wrong_way_round_are_refused(folder):
    text = SHIPPED.replace("min_trace_chars: 700", "min_trace_chars: 1_200")
    (folder / "limits.yaml").write_text(text, encoding="utf-8")
    assert "min_trace_chars is larger than max_trace_chars" in problems(load_limits, "signals")[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "limits.yaml is missing"),
        ("default: [1, 2\n", "line 2 cannot be read"),
        ("- 1\n", "holds list"),
        ("min_rows: 3\n", "expected sections"),
        (
            "default:\n  min_rows: 3\n  min_rows: 4\n",
            "line 3 cannot be read: key 'min_rows' stands in line 2 and again",
        ),
        (SHIPPED, "no profile 'laptop'. Found default, nano"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(folder, text, said):
    if text is not None:
        (folder / "limits.yaml").write_text(text, encoding="utf-8")
    assert said in problems(load_limits, "signals", "laptop")[0]


def test_gates_hold_the_numbers_of_the_story():
    gates = load_gates("signals")
    assert gates.metrics.keys() == GOOD.keys()
    assert gates.metrics["valid_json_fraction"].min == 0.98
    assert gates.metrics["disagreeing_sign_accuracy_fraction"].min == 0.90
    assert gates.metrics["quantised_sign_accuracy_drop_fraction"].max == 0.05
    assert (gates.min_heldout_rows, gates.interval_fraction) == (200, 0.95)
    assert not failures(check_gates(gates, measured(GOOD), 200))


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("valid_json_fraction", 0.979),
        ("disagreeing_sign_accuracy_fraction", 0.899),
        ("tuned_over_base_sign_accuracy_lower_bound", 0.0),
        ("quantised_sign_accuracy_drop_fraction", 0.051),
        ("noise_false_positive_fraction", 0.101),
        ("error_schema_fraction", 0.89),
        ("refused_good_input_fraction", 0.051),
    ],
)
def test_each_gate_fails_on_its_own_number(metric, value):
    failed = failures(check_gates(load_gates("signals"), measured({**GOOD, metric: value}), 200))
    assert [(one.name, one.verdict) for one in failed] == [(metric, Verdict.FAIL)]
    assert failed[0].fix


def test_a_metric_that_was_not_measured_and_too_few_rows_cannot_be_told():
    gates = load_gates("signals")
    absent = failures(check_gates(gates, measured({**GOOD, "valid_json_fraction": None}), 200))
    assert [(one.name, one.verdict) for one in absent] == [("valid_json_fraction", Verdict.CANNOT_TELL)]
    assert "gave no number" in absent[0].detail
    few = failures(check_gates(gates, measured(GOOD), 199))
    assert [one.verdict for one in few] == [Verdict.FAIL] + [Verdict.CANNOT_TELL] * len(GOOD)


@pytest.mark.parametrize(("recipe", "metric", "needed"), [
    ("signals", "disagreeing_sign_accuracy_fraction", 30),
    ("signals", "valid_json_fraction", 150),
    ("signals", "noise_false_positive_fraction", 30),
    ("signals", "tuned_over_base_sign_accuracy_lower_bound", FEWEST_ROWS),
    ("proofkit", "tradeoff_fraction", 60),
])  # fmt: skip
def test_a_gate_on_few_rows_cannot_tell_however_good_they_are(recipe, metric, needed):
    gates = load_gates(recipe)
    assert gates.metrics[metric].rows_needed == needed
    best = {"above": 1.0, "max": 0.0, "min": 1.0}
    value = next(best[kind] for kind in best if getattr(gates.metrics[metric], kind) is not None)
    verdicts = {}
    for rows in (1, needed - 1, needed):
        (found,) = (one for one in check_gates(gates, {metric: Measured(value, rows)}, 210) if one.name == metric)
        verdicts[rows] = found.verdict
        assert found.verdict == Verdict.PASS or f"{rows} held-out rows speak of it; {needed} are needed" in found.detail
    assert verdicts == {1: Verdict.CANNOT_TELL, needed - 1: Verdict.CANNOT_TELL, needed: Verdict.PASS}


@pytest.mark.parametrize(("value", "noise", "verdict"), [
    (0.92, 0.03, Verdict.CANNOT_TELL),
    (0.88, 0.03, Verdict.CANNOT_TELL),
    (0.94, 0.03, Verdict.PASS),
    (0.86, 0.03, Verdict.FAIL),
    (0.90, 0.0, Verdict.PASS),
])  # fmt: skip
def test_a_value_within_the_noise_of_its_limit_cannot_tell(value, noise, verdict):
    name = "disagreeing_sign_accuracy_fraction"
    found = load_gates("signals").metrics[name].against(name, Measured(value, 100, noise))
    assert found.verdict == verdict
    assert ("within the noise" in found.detail) == (verdict == Verdict.CANNOT_TELL)


def test_a_set_without_malformed_rows_is_not_held_up_and_an_unmeasured_error_schema_is():
    gates = load_gates("signals")
    checks = {one.name: one for one in check_gates(gates, measured({**GOOD, "error_schema_fraction": None}), 200)}
    told = checks["error_schema_fraction"]
    assert (told.comparison, told.measured) == ("report", "not asked")
    assert not failures(checks.values())
    unmeasured = {name: value for name, value in GOOD.items() if name != "error_schema_fraction"}
    assert [one.verdict for one in failures(check_gates(gates, measured(unmeasured), 200))] == [Verdict.CANNOT_TELL]


def test_all_wrong_gates_are_told_at_once(folder):
    (folder / "gates.yaml").write_text(
        "interval_fraction: 1.5\nmin_heldout_rows: 200\nmetrics:\n"
        "  a: {min: 0.5, max: 0.6, why: two limits at once}\n  b: {why: no limit at all}\n"
        "  c: {minimum: 0.5, why: a mistyped name}\n  d: {min: high, why: not a number}\n",
        encoding="utf-8",
    )
    together = "\n".join(problems(load_gates, "signals"))
    assert "interval_fraction is 1.5" in together
    assert "found min, max" in together
    assert "found none" in together
    assert "metrics.c.minimum is not a setting" in together
    assert "metrics.d.min is 'high'" in together
