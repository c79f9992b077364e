import sys
from pathlib import Path

import pytest
import torch
from lerobot.configs.types import FeatureType, PolicyFeature

from lerobot_atlasvla import make_atlasvla_pre_post_processors, policy_server
from lerobot_atlasvla.serving import server
from lerobot_atlasvla.serving.served_policy import ServedPolicy
from lerobot_atlasvla.serving.settings import ServerConfig, ServingError
from tests.conftest import STATE, dataset_stats, tiny_config
from tests.helpers.released import tiny_policy
from tests.serving.helpers import serving


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"host": "0.0.0.0"}, "--token"),
        ({"host": "::"}, "--token"),
        ({"host": "192.168.1.5"}, "--token"),
        ({"host": "my-machine"}, "--token"),
        ({"host": "127.1"}, "--token"),
        ({"host": "unix:/tmp/socket"}, "--host"),
        ({"host": ""}, "--host"),
        ({"host": "0.0.0.0", "token": "secret", "stock_client": True}, "ssh -L 8080"),
        ({"token": "secret", "stock_client": True}, "--stock_client"),
        ({"token": ""}, "--token"),
        ({"token": "83"}, "--token"),
        ({"token": "two words"}, "--token"),
        ({"token": "schlüssel"}, "--token"),
        ({"checkpoint": ""}, "--checkpoint"),
        ({"port": 65536}, "--port=65536"),
        ({"port": -1}, "--port=-1"),
        ({"max_sessions": 0}, "--max_sessions=0"),
        ({"session_idle_s": float("nan")}, "--session_idle_s=nan"),
        ({"request_timeout_s": 0}, "--request_timeout_s=0"),
        ({"max_message_mb": 4096}, "--max_message_mb=4096"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(settings, named):
    with pytest.raises(ServingError, match=named):
        ServerConfig(**({"checkpoint": "somewhere"} | settings)).validate()


@pytest.mark.parametrize(
    ("settings", "address"),
    [
        ({}, "127.0.0.1:8080"),
        ({"host": "localhost"}, "127.0.0.1:8080"),
        ({"host": "::1", "stock_client": True}, "[::1]:8080"),
        ({"host": "127.0.0.2", "port": 0}, "127.0.0.2:0"),
        ({"host": "0.0.0.0", "token": "s3cret-_"}, "0.0.0.0:8080"),
    ],
)
def test_where_it_listens(settings, address):
    config = ServerConfig(checkpoint="somewhere", **settings)
    config.validate()
    assert config.address == address


def test_the_token_may_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("ATLASVLA_SERVER_TOKEN", "hidden")
    assert ServerConfig(checkpoint="somewhere").token == "hidden"


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--port=x", "--checkpoint=a"], 2, "port"),
        ([], 2, "checkpoint"),
        (["--checkpoint=a", "--host=0.0.0.0"], 1, "--token"),
        (["--checkpoint=no/such/folder"], 1, "--checkpoint=no/such/folder can't be served"),
    ],
)
def test_the_command_says_what_to_change(arguments, status, said, capsys):
    assert policy_server.main(arguments) == status
    assert said in capsys.readouterr().err


def test_a_checkpoint_of_another_policy_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"type": "act"}')
    with pytest.raises(ServingError, match="type act, not atlasvla"):
        ServedPolicy.load(str(tmp_path), "cpu")


@pytest.mark.parametrize("content", ["[]", "7", '{"type": "atlasvla", "views": 3}'])
def test_a_damaged_checkpoint_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ServingError, match=f"--checkpoint={tmp_path} can't be served"):
        ServedPolicy.load(str(tmp_path), "cpu")


def test_a_training_run_is_served_by_its_last_checkpoint(checkpoint, tmp_path):
    last = tmp_path / "checkpoints/last"
    last.mkdir(parents=True)
    (last / "pretrained_model").symlink_to(checkpoint)
    assert ServedPolicy.load(str(tmp_path), "cpu").checkpoint == str(tmp_path)


def test_a_device_that_is_not_there_is_refused(checkpoint):
    with pytest.raises(ServingError, match="--device=cuda is not available"):
        ServedPolicy.load(str(checkpoint), "cuda")


def test_a_port_that_is_taken_is_said(served, address):
    with pytest.raises(ServingError, match="port is in use"), serving(served, port=int(address.split(":")[1])):
        pass


def test_without_grpc_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "grpc", None)
    assert policy_server.main(["--checkpoint=a"]) == 1
    assert "pip install 'lerobot_policy_atlasvla[async]'" in capsys.readouterr().err


def test_interrupting_is_no_traceback(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(server, "serve", interrupted)
    assert policy_server.main(["--checkpoint=a"]) == 130


def test_flags_are_judged_before_anything_slow_is_imported(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "lerobot_atlasvla.serving.server", None)
    assert policy_server.main(["--checkpoint=a", "--host=0.0.0.0"]) == 1
    assert "--token" in capsys.readouterr().err


@pytest.mark.parametrize("parts", [("arm",), ("arm", "gripper")])
def test_a_state_that_the_server_does_not_know_is_refused_if_the_policy_reads_it(tmp_path, parts):
    whole = tiny_config().input_features
    keys = [f"{STATE}.{part}" for part in parts]
    features = {key: feature for key, feature in whole.items() if key != STATE}
    features |= dict.fromkeys(keys, PolicyFeature(FeatureType.STATE, (2,)))
    stats = dataset_stats() | {key: {"mean": torch.zeros(2), "std": torch.ones(2)} for key in keys}

    def saved(folder: Path, **settings) -> str:
        policy = tiny_policy(input_features=features, **settings)
        policy.save_pretrained(folder)
        for processor in make_atlasvla_pre_post_processors(policy.config, stats):
            processor.save_pretrained(folder)
        return str(folder)

    with pytest.raises(ServingError, match=rf"reads its state from {STATE}\.arm.*the server knows {STATE} only"):
        ServedPolicy.load(saved(tmp_path / "reads"), "cpu")
    ServedPolicy.load(saved(tmp_path / "does_not", use_state=False), "cpu")
