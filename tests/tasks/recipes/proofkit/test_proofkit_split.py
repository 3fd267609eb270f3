"""Built rows of proofkit that are held out have wording combinations, companies and odd things of their own."""

import pytest

from data_contracts.errors import ConfigError
from tasks.recipes.proofkit import rows as proofkit_world
from tasks.recipes.proofkit.rows import built_rows, combination_of, is_held_out

N_ROWS, N_HELDOUT = 4_000, 600


@pytest.fixture(scope="module")
def split() -> tuple[list[dict], list[dict]]:
    return built_rows(N_ROWS, N_HELDOUT, seed=3)


@pytest.fixture(scope="module")
def rows(split) -> list[dict]:
    return split[0]


def test_held_out_rows_share_no_combination_company_or_odd_thing_with_training(split) -> None:
    train, heldout = split
    assert len(heldout) == N_HELDOUT
    combinations = [{combination_of(row) for row in part} for part in split]
    assert not combinations[0] & combinations[1]
    assert all(is_held_out(one) for one in combinations[1])
    assert not any(is_held_out(one) for one in combinations[0])
    assert len(combinations[0]) > 250
    first = [{row["company"].split()[0] for row in part} for part in split]
    assert not first[0] & first[1]
    deck = proofkit_world._deck()
    for kind in ("animals", "plural", "thing"):
        assert not set(deck.odd[kind, False]) & set(deck.odd[kind, True])
    assert {row["role"] for row in heldout} == {row["role"] for row in train}


def test_a_row_of_an_unknown_role_or_event_is_not_given_a_combination(rows) -> None:
    with pytest.raises(ValueError, match="is no role of the world"):
        combination_of({**rows[0], "role": "wizard"})
    with pytest.raises(ValueError, match="tell 0 events"):
        combination_of({**rows[0], "answers": "Nothing happened."})


def test_a_world_that_has_run_dry_is_told_in_a_sentence(monkeypatch) -> None:
    monkeypatch.setattr(proofkit_world, "typed_answers", lambda brief, wish=False: "the same for all")
    with pytest.raises(ConfigError, match=r"no new input for training row \d+ of 30 .* Ask for fewer rows"):
        built_rows(30, 0, seed=1)
