"""The pipelines: order, normalization and its inverse, and a tokenizer that travels inside the checkpoint."""

import copy
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.processor import PolicyProcessorPipeline
from lerobot.processor.converters import policy_action_to_transition, transition_to_policy_action

from lerobot_atlasvla import make_atlasvla_pre_post_processors
from lerobot_atlasvla.policy.pipelines.byte_tokenizer import VOCAB_SIZE, make_byte_tokenizer
from tests.conftest import IMAGE, STATE, TASK, dataset_stats, raw_batch, tiny_config


def test_steps_that_lerobot_overrides_are_there_in_order():
    preprocessor, postprocessor = make_atlasvla_pre_post_processors(tiny_config(), dataset_stats())
    names = [type(step)._registry_name or type(step).__name__ for step in preprocessor.steps]
    assert names == [
        "rename_observations_processor",
        "to_batch_processor",
        "lerobot_atlasvla_tokenizer",
        "device_processor",
        "normalizer_processor",
    ]
    assert [type(s)._registry_name for s in postprocessor.steps] == ["unnormalizer_processor", "device_processor"]
    assert (preprocessor.name, postprocessor.name) == ("policy_preprocessor", "policy_postprocessor")


def test_normalisation_and_its_inverse():
    preprocessor, postprocessor = make_atlasvla_pre_post_processors(tiny_config(), dataset_stats())
    raw, stats = raw_batch(), dataset_stats()
    batch = preprocessor(raw)
    torch.testing.assert_close(batch[STATE], (raw[STATE] - stats[STATE]["mean"]) / stats[STATE]["std"])
    torch.testing.assert_close(batch[IMAGE], raw[IMAGE])
    torch.testing.assert_close(postprocessor(batch["action"]), raw["action"])
    torch.testing.assert_close(postprocessor(batch["action"][:, 0]), raw["action"][:, 0])


def test_saved_pipelines_need_nothing_but_their_files(tmp_path):
    preprocessor, postprocessor = make_atlasvla_pre_post_processors(tiny_config(), dataset_stats())
    preprocessor.save_pretrained(tmp_path)
    postprocessor.save_pretrained(tmp_path)
    expected = preprocessor(raw_batch())
    loaded = PolicyProcessorPipeline.from_pretrained(tmp_path, "policy_preprocessor.json")(raw_batch())
    assert loaded.keys() == expected.keys()
    for key, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(loaded[key], value), key
    post = PolicyProcessorPipeline.from_pretrained(
        tmp_path,
        "policy_postprocessor.json",
        to_transition=policy_action_to_transition,
        to_output=transition_to_policy_action,
    )
    torch.testing.assert_close(post(expected["action"]), raw_batch()["action"])


def test_saved_pipelines_load_wherever_the_plugin_was_imported(tmp_path):
    preprocessor, _ = make_atlasvla_pre_post_processors(tiny_config(), dataset_stats())
    preprocessor.save_pretrained(tmp_path)
    code = f"""
import sys
from lerobot.processor import PolicyProcessorPipeline
def load():
    return PolicyProcessorPipeline.from_pretrained({str(tmp_path)!r}, "policy_preprocessor.json")
try:
    load()
except Exception as error:
    print(error)
import lerobot_atlasvla
assert "lerobot_atlasvla.processor_atlasvla" not in sys.modules
print(len(load().steps))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # Without the plugin, LeRobot's message has the name that is to be imported.
    *without, steps = done.stdout.splitlines()
    assert "step 'lerobot_atlasvla_tokenizer' not found" in "".join(without)
    assert steps == "5"


def test_instructions_of_different_length_are_padded_on_the_right():
    preprocessor, _ = make_atlasvla_pre_post_processors(tiny_config(), dataset_stats())
    raw = raw_batch() | {"task": [TASK, "go", ""]}
    batch = preprocessor(raw)
    mask = batch["observation.language.attention_mask"]
    assert mask.sum(1).tolist() == [len(TASK), 2, 0]
    assert mask[1, :2].all()


def test_a_cut_instruction_is_reported_once(caplog):
    preprocessor, _ = make_atlasvla_pre_post_processors(tiny_config(tokenizer_max_length=8), dataset_stats())
    for _ in range(2):
        batch = preprocessor(raw_batch())
    assert batch["observation.language.tokens"].shape == (3, 8)
    assert caplog.text.count("--policy.tokenizer_max_length") == 1
    assert f"{len(TASK)} tokens is cut to 8" in caplog.text


def test_threads_that_share_a_preprocessor_get_their_own_instructions():
    """As those of lerobot-eval --env.max_parallel_tasks=4 do; not "Already borrowed", nor another's instruction."""
    preprocessor, _ = make_atlasvla_pre_post_processors(tiny_config(), dataset_stats())
    raw = raw_batch(1)

    def right(word: str) -> bool:
        texts = [word * length for length in range(1, 40)]
        batches = [preprocessor(raw | {"task": [text]}) for text in texts]
        decoded = make_byte_tokenizer().batch_decode([batch["observation.language.tokens"][0] for batch in batches])
        return decoded == texts

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(right, "abcdefgh"))


def test_copies_and_pickles_of_a_preprocessor_work():
    preprocessor, _ = make_atlasvla_pre_post_processors(tiny_config(), dataset_stats())
    step = preprocessor.steps[2]
    for other in (copy.deepcopy(step), pickle.loads(pickle.dumps(step))):
        assert torch.equal(other.state_dict()["tokenizer_json_utf8"], step.state_dict()["tokenizer_json_utf8"])
        assert other._lock is not step._lock


def test_a_client_that_sends_long_instructions_without_end_fills_neither_memory_nor_log(caplog):
    preprocessor, _ = make_atlasvla_pre_post_processors(tiny_config(tokenizer_max_length=8), dataset_stats())
    for number in range(120):
        preprocessor(raw_batch(1) | {"task": [f"{number} " + "a" * 4000]})
    assert len(preprocessor.steps[2]._cut) == 100
    assert len(caplog.records) == 100
    assert max(len(record.getMessage()) for record in caplog.records) < 400


def test_parts_of_a_split_state_become_float_before_statistics_are_cast_to_their_type():
    parts = {f"{STATE}.arm": torch.rand(3, 6), f"{STATE}.gripper": torch.tensor([[0], [1], [1]])}
    features = tiny_config().input_features | {
        key: PolicyFeature(FeatureType.STATE, tuple(part.shape[1:])) for key, part in parts.items()
    }
    del features[STATE]
    stats = {
        key: {"mean": torch.full(part.shape[1:], 0.5), "std": torch.full(part.shape[1:], 0.25)}
        for key, part in parts.items()
    }
    config = tiny_config(input_features=features)
    preprocessor, _ = make_atlasvla_pre_post_processors(config, stats | {"action": dataset_stats()["action"]})
    raw = {key: value for key, value in raw_batch().items() if key != STATE} | parts
    assert preprocessor(raw)[f"{STATE}.gripper"].flatten().tolist() == [-2.0, 2.0, 2.0]


@pytest.mark.parametrize("text", ["", TASK, "put the ° über 汉字 🤖\n\ttwice  "])
def test_byte_tokenizer_is_lossless(text):
    tokenizer = make_byte_tokenizer()
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
    assert len(ids) == len(text.encode())
    assert len(tokenizer) == VOCAB_SIZE
    assert tokenizer.pad_token_id not in ids
