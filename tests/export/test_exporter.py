"""What atlasvla-export writes: a graph that equals PyTorch, what is said of it, and nothing at all when it does not."""

import hashlib
import json

import numpy as np
import pytest

from lerobot_atlasvla.export import exporter
from lerobot_atlasvla.export.exported_policy import ExportedPolicy
from lerobot_atlasvla.export.exporter import export
from lerobot_atlasvla.export.reference import Reference, read_config
from lerobot_atlasvla.export.settings import ExportConfig, ExportError
from tests.conftest import ACTION_DIM, CHUNK, IMAGE, STATE, STATE_DIM, WRIST
from tests.export.conftest import INSTRUCTIONS, from_pytorch, make, observation
from tests.helpers import ROOT
from tests.helpers.random_dataset import write_dataset
from tests.helpers.released import save_checkpoint


@pytest.mark.parametrize("instruction", INSTRUCTIONS)
def test_raw_observations_give_pytorchs_actions(two_cameras, instruction):
    policy = ExportedPolicy(two_cameras.folder)
    for seed in range(3):
        images, state = observation(seed)
        actions = policy.predict_chunk(images, state, instruction)
        assert (actions.shape, actions.dtype) == ((CHUNK, ACTION_DIM), np.float32)
        expected = from_pytorch(two_cameras.checkpoint, images, state, instruction)
        np.testing.assert_allclose(actions, expected, rtol=0, atol=1e-5)


def test_the_folder_says_what_it_is(two_cameras):
    about = json.loads((two_cameras.folder / "export.json").read_text())
    assert about == two_cameras.about
    expected = {
        "format": "onnx",
        "int8": False,
        "cameras": {IMAGE: [40, 60], WRIST: [32, 32]},
        "state": {STATE: STATE_DIM},
        "chunk_size": CHUNK,
        "n_action_steps": 4,
        "action_size": ACTION_DIM,
        "action_names": None,
        "instructions": INSTRUCTIONS,
        "language": None,
    }
    assert {name: about[name] for name in expected} == expected
    for name, digest in about["checkpoint"].items():
        assert hashlib.sha256((two_cameras.checkpoint / name).read_bytes()).hexdigest() == digest
    assert 0 < about["deviation"]["largest"] < 1e-5
    card = (two_cameras.folder / "README.md").read_text()
    assert "license: apache-2.0" in card
    assert all(text in card for text in ("`observation.images.image` 40 x 60", f"- {INSTRUCTIONS[1]}\n"))
    names = {"README.md", "config.json", "export.json", "exported_policy.py", "model.onnx"}
    assert {path.name for path in two_cameras.folder.iterdir()} == names
    example = (ROOT / "examples/exported_policy.py").read_bytes()
    assert (two_cameras.folder / "exported_policy.py").read_bytes() == example


def test_the_language_model_is_not_in_the_graph(two_cameras):
    reference = Reference(two_cameras.checkpoint, read_config(two_cameras.checkpoint))
    language = sum(parameter.numel() for parameter in reference.policy.model.language.parameters())
    whole = sum(parameter.numel() for parameter in reference.policy.parameters())
    assert two_cameras.about["parameters"] == whole - language


def test_a_blind_policy_reads_state_and_instruction_only(blind):
    policy = ExportedPolicy(blind.folder)
    state = observation()[1]
    first, second = (policy.predict_chunk({}, state, text) for text in INSTRUCTIONS)
    np.testing.assert_allclose(first, from_pytorch(blind.checkpoint, {}, state, INSTRUCTIONS[0]), rtol=0, atol=1e-5)
    np.testing.assert_allclose(second, from_pytorch(blind.checkpoint, {}, state, INSTRUCTIONS[1]), rtol=0, atol=1e-5)
    assert np.abs(first - second).max() > 1e-3


def test_language_as_an_input(tmp_path):
    made = make(tmp_path, checkpoint={"views": "none"}, language="input", instructions=None)
    assert made.about["instructions"] is None
    reference = Reference(made.checkpoint, read_config(made.checkpoint))
    policy, state = ExportedPolicy(made.folder), observation()[1]
    for text in ("lift it", ""):
        actions = policy.predict_chunk({}, state, reference.encode(text).numpy())
        np.testing.assert_allclose(actions, from_pytorch(made.checkpoint, {}, state, text), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match=r"language features of shape \(tokens, 16\), 1 to 128 tokens.*got text"):
        policy.predict_chunk({}, state, "lift it")


def test_int8_is_smaller_and_says_how_far_off_it_is(tmp_path, blind):
    made = make(tmp_path, checkpoint={"views": "none"}, int8=True)
    size, float_size = ((folder / "model.onnx").stat().st_size for folder in (made.folder, blind.folder))
    assert size < 0.8 * float_size
    assert made.about["deviation"]["largest"] < 1e-5
    state, text = observation()[1], INSTRUCTIONS[0]
    off = ExportedPolicy(made.folder).predict_chunk({}, state, text) - from_pytorch(made.checkpoint, {}, state, text)
    reported = made.about["deviation_int8"]
    assert np.abs(off).max() > 1e-4
    assert 0 < reported["mean_in_std"] < reported["largest_in_std"] < 0.5
    card = (made.folder / "README.md").read_text()
    assert f"{reported['largest_in_std']:.3f} at most, {reported['mean_in_std']:.4f} on average" in card


def test_a_graph_that_deviates_is_not_written(tmp_path, monkeypatch):
    checkpoint = save_checkpoint(tmp_path / "checkpoint", views="none")
    real = Reference.predict
    monkeypatch.setattr(Reference, "predict", lambda *arguments: real(*arguments) + 0.01)
    with pytest.raises(
        ExportError, match=r"deviates from PyTorch by 0\.05 \(normalized actions\), more than the 0\.0001"
    ):
        export(ExportConfig(checkpoint=checkpoint, output_dir=tmp_path / "out", instructions=["x"]))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_instructions_and_action_names_come_from_the_training_data(tmp_path, monkeypatch):
    data = write_dataset(tmp_path / "data", episodes=2, frames=2, tasks=("lift it", "open it"))
    checkpoint = save_checkpoint(tmp_path / "checkpoint", views="none")
    train = {"dataset": {"repo_id": "local/test", "root": str(data)}}
    (checkpoint / "train_config.json").write_text(json.dumps(train))
    written = []
    # What is asked of the network and the graph is tested above.
    monkeypatch.setattr(exporter, "_write", lambda folder, settings, graph, *rest: written.append(graph))
    about = export(ExportConfig(checkpoint=checkpoint, output_dir=tmp_path / "out"))
    assert about["instructions"] == ["lift it", "open it"]
    assert len(about["action_names"]) == ACTION_DIM
    assert len(written[0].table_ILE) == 2
    about = export(ExportConfig(checkpoint=checkpoint, output_dir=tmp_path / "out2", instructions=["close it"]))
    assert about["instructions"] == ["close it"]
    (checkpoint / "train_config.json").write_text("[]")
    with pytest.raises(ExportError, match="not on this machine; name what the policy will be told: --instructions="):
        export(ExportConfig(checkpoint=checkpoint, output_dir=tmp_path / "out3"))


def test_a_processing_step_that_the_graph_does_not_have_is_refused(tmp_path):
    checkpoint = save_checkpoint(tmp_path / "checkpoint", views="none")
    file = checkpoint / "policy_postprocessor.json"
    pipeline = json.loads(file.read_text())
    pipeline["steps"].append({"registry_name": "to_batch_processor_action", "config": {}})
    file.write_text(json.dumps(pipeline))
    with pytest.raises(ExportError, match=r"has the processing step .*, which is not exported"):
        export(ExportConfig(checkpoint=checkpoint, output_dir=tmp_path / "out", instructions=["x"]))


def test_a_policy_of_more_than_two_gigabytes_is_refused(tmp_path, monkeypatch):
    checkpoint = save_checkpoint(tmp_path / "checkpoint", views="none")
    monkeypatch.setattr("lerobot_atlasvla.export.graph.LARGEST_BYTES", 100_000)
    with pytest.raises(ExportError, match=r"An ONNX file holds 2 GB, and this policy has .* GB of weights"):
        export(ExportConfig(checkpoint=checkpoint, output_dir=tmp_path / "out", instructions=["x"]))
    assert not (tmp_path / "out").exists()
