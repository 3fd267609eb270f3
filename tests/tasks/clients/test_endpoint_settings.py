"""Settings of a model behind an address: one class, so one set of defaults and one refusal, wherever a config names one."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from tasks.clients.endpoint_settings import EndpointSettings
from tasks.comparison.model_entry import ModelEntry
from tasks.distillation.teacher_settings import TeacherSettings
from tasks.generate_teacher import GenerateConfig
from tasks.judging.judge import JudgeSettings

MODEL = {"base_url": "http://127.0.0.1:8000/v1/", "model": "m"}
PLACES = {
    "endpoint": EndpointSettings,
    "dataset.teacher": TeacherSettings,
    "judge.judges": lambda **address: JudgeSettings(name="j", family="gpt", **address),
    "generate": lambda **address: GenerateConfig(engine="endpoint", **address),
}


def requests_of(settings):
    """The block that says how requests are sent."""
    return settings.endpoint if isinstance(settings, GenerateConfig) else settings


@pytest.mark.parametrize("place", PLACES)
def test_requests_are_sent_in_one_way_wherever_a_config_names_an_endpoint(place):
    settings = PLACES[place](**MODEL)
    sent = requests_of(settings)
    assert (sent.concurrency, sent.retries, sent.timeout_s, sent.token_limit) == (8, 5, 120, "max_tokens")
    assert settings.temperature == 0.0 and settings.base_url == "http://127.0.0.1:8000/v1"


@pytest.mark.parametrize("place", PLACES)
def test_a_password_in_an_address_is_refused_by_the_name_of_its_block(place):
    with pytest.raises(Exception, match=rf"^config: {place}\.base_url holds a user, password") as refused:
        PLACES[place](base_url="https://me:hunter22@host/v1", model="m")
    assert "hunter22" not in str(refused.value)


def test_the_key_and_the_patience_reach_the_client(monkeypatch):
    monkeypatch.setenv("OTHER_API_KEY", "right")
    settings = EndpointSettings(**MODEL, api_key_env="OTHER_API_KEY", concurrency=3, retries=2, timeout_s=7)
    with settings.client(settings.base_url) as client:
        assert (client._key, client._concurrency, client._backoff.max_attempts, client._timeout_s) == ("right", 3, 3, 7)
    with settings.client(settings.base_url, retries=0) as client:
        assert client._backoff.max_attempts == 1


def test_a_key_that_logs_would_not_hide_is_refused():
    for make in (EndpointSettings, TeacherSettings):
        with pytest.raises(ValidationError, match="the name must hold API_KEY or TOKEN"):
            make(**MODEL, api_key_env="MY_TEACHER")


def test_an_endpoint_of_a_comparison_needs_an_address_and_a_name():
    for missing in MODEL:
        with pytest.raises(ValidationError, match=missing):
            ModelEntry(name="a", endpoint={name: value for name, value in MODEL.items() if name != missing})
