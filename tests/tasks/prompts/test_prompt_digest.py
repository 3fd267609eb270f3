"""The digest of the prompt contract: every part of it counts, and nothing made for another one is used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from data_contracts.prompting.prompt import load_prompt
from tasks.core.errors import ArtifactError
from tasks.core.stage import Job
from tasks.evaluate_model import EvaluateConfig, evaluate_model
from tasks.prompts.prompt_digest import CARRIED, contract_digest, contract_parts, refuse_another_contract, write_carried


@pytest.fixture
def folder(tiny_base, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_base, tmp_path / "base", ignore=shutil.ignore_patterns("*.safetensors")))


def test_words_schema_tokenizer_and_template_each_change_it(folder):
    contract = load_prompt("signals")
    found = [contract_digest(contract, folder)]
    assert found[0] == contract_digest(contract, folder)
    found += [
        contract_digest(contract.model_copy(update=change), folder)
        for change in (
            {"system": contract.system + " "},
            {"users": {"": contract.users[""] + " "}},
            {"output_schema": contract.output_schema + " "},
        )
    ]
    for name in ("tokenizer.json", "chat_template.jinja"):
        path = folder / name
        before = path.read_bytes()
        path.write_bytes(before + b" ")
        found.append(contract_digest(contract, folder))
        path.write_bytes(before)
    config_path = folder / "tokenizer_config.json"
    config = json.loads(config_path.read_text())
    for name, value in (("eos_token", "<|endoftext|>"), ("bos_token", "<|im_start|>"), ("add_bos_token", True)):
        config_path.write_text(json.dumps({**config, name: value}))
        found.append(contract_digest(contract, folder))
    same = {"eos_token": {"content": config["eos_token"], "special": True}, "model_max_length": 7}
    config_path.write_text(json.dumps({**config, **same}))
    assert contract_digest(contract, folder) == found[0]
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    for text in (template, template + " "):
        config_path.write_text(json.dumps(config | {"chat_template": text}))
        found.append(contract_digest(contract, folder))
    assert len(set(found)) == len(found) == 11


def test_the_words_alone_have_another_digest_under_another_name(folder):
    """A card shows both: "prompt words" must not move with the tokenizer, "prompt contract" must."""
    contract = load_prompt("signals")
    parts = contract_parts(contract, folder)
    assert parts["prompt"] == contract.words_digest != parts["digest"] == contract_digest(contract, folder)
    (folder / "chat_template.jinja").write_bytes((folder / "chat_template.jinja").read_bytes() + b" ")
    assert contract_parts(contract, folder)["prompt"] == contract.words_digest
    assert contract_digest(contract, folder) != parts["digest"]
    assert not hasattr(contract, "digest")


def test_a_folder_without_tokenizer_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="holds no tokenizer"):
        contract_digest(load_prompt("signals"), tmp_path)


@pytest.mark.parametrize("carried", ["b" * 64, None])
def test_another_contract_is_refused_by_name(carried):
    with pytest.raises(ArtifactError, match="model-f16.gguf was made for another prompt contract"):
        refuse_another_contract("evaluate_model: model-f16.gguf", carried, "a" * 64)
    refuse_another_contract("evaluate_model: model-f16.gguf", "a" * 64, "a" * 64)


def test_an_adapter_whose_rows_were_made_with_other_words_fails(tiny_adapter, tmp_path):
    from tasks.training.adapter_checks import check_run
    from tests.fixtures.tiny_chain import failed

    outcome = json.loads((tiny_adapter.job.work / "outcome.json").read_text())
    lineage = json.loads((tiny_adapter.out / "lineage.json").read_text())
    assert failed(check_run(outcome, lineage | {"prompt_contract": "c" * 64}, tiny_adapter.job)).keys() == {
        "prompt contract that the adapter names"
    }
    assert not failed(check_run(outcome, lineage, tiny_adapter.job))


def test_the_header_of_a_gguf_gives_the_digest_back(tiny_base, tmp_path):
    from tasks.formats.gguf_file import read_header
    from tasks.gguf_export.convert import convert
    from tasks.prompts.prompt_digest import PROMPT_CONTRACT_KEY
    from tests.fixtures.tiny_model import make_tiny_model

    model = make_tiny_model(tmp_path / "model", hidden_size=192, context_tokens=64)
    digest = contract_digest(load_prompt("signals"), model)
    for number, prompt_digest in enumerate((digest, "d" * 64)):
        path = tmp_path / f"{number}.gguf"
        convert(model, path, name="tiny", prompt_digest=prompt_digest, tick=lambda _: None)
        assert read_header(path, PROMPT_CONTRACT_KEY) == prompt_digest
        assert read_header(path, "plumbline.nothing") is None


def test_a_gguf_of_another_contract_is_not_evaluated(tmp_path):
    from tasks.evaluation.local_models import AskingConfig, LocalModel, ask
    from tasks.gguf_export.convert import convert
    from tests.fixtures.tiny_model import make_tiny_model

    model = make_tiny_model(tmp_path / "model", hidden_size=192, context_tokens=512)
    contract = load_prompt("signals")
    convert(model, tmp_path / "m.gguf", name="tiny", prompt_digest="d" * 64, tick=lambda _: None)
    rows = [{"headline": "Rates fell", "question": "Will rates fall?"}]
    config = AskingConfig(max_new_tokens=8, repeated_rows=1)
    with pytest.raises(ArtifactError, match=r"m\.gguf was made for another prompt contract"):
        ask(
            config,
            LocalModel("m", tmp_path / "m.gguf", contract, contract_digest=contract_digest(contract, model)),
            rows,
        )
    found = ask(config, LocalModel("m", tmp_path / "m.gguf", contract, contract_digest="d" * 64), rows)
    assert found.texts == found.again and len(found.texts) == 1


@pytest.mark.parametrize("name", ["merged", "teacher"])
@pytest.mark.parametrize("carried", ["f" * 64, None])
def test_a_merge_or_a_teacher_of_another_contract_is_not_evaluated(
    tmp_path, tiny_base, tiny_adapter, tiny_merged, name, carried
):
    other = Path(shutil.copytree(tiny_merged.out, tmp_path / "other"))
    write_carried(other, carried) if carried else (other / CARRIED).unlink()
    inputs = {"base": tiny_base, "adapter": tiny_adapter.out, "merged": tiny_merged.out, name: other}
    with pytest.raises(ArtifactError, match=f"the {name} model was made for another prompt contract: it carries"):
        evaluate_model(EvaluateConfig(), Job("signals", tmp_path, inputs))
