"""What clients hear when the policy itself fails."""

import pytest
import torch

from lerobot_atlasvla.serving.client import PolicyClient, PolicyServerError
from tests.conftest import ACTION_DIM, CHUNK
from tests.serving.helpers import RawClient, observe, packed, serving


def test_errors_of_the_policy_are_one_sentence_without_its_insides(served, monkeypatch, caplog):
    def fail(*_, **__):
        raise RuntimeError("secret/path/to/weights")

    monkeypatch.setattr(served.policy, "predict_action_chunk", fail)
    with serving(served) as address:
        raw = RawClient(address)
        raw.open()
        assert raw.error("SelectAction", packed(observe(1))) == (
            "INTERNAL",
            "The server failed on this request; its log says why.",
        )
    assert "secret/path/to/weights" in caplog.text


def test_actions_that_are_not_finite_are_not_sent(served, monkeypatch):
    monkeypatch.setattr(
        served.policy, "predict_action_chunk", lambda *_, **__: torch.full((1, CHUNK, ACTION_DIM), float("nan"))
    )
    with serving(served) as address, PolicyClient(address) as client:
        for act in (client.select_action, client.predict_action_chunk):
            with pytest.raises(PolicyServerError, match="not finite"):
                act(observe(1))
