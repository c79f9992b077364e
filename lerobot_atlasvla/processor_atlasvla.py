"""Build the pipelines before and after the policy, and its tokenizer."""

from typing import Any

from lerobot.lerobot_types import PolicyAction
from lerobot.processor import (
    PolicyProcessorPipeline,
    make_default_policy_processor_steps,
    make_policy_processor_pipelines,
)
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from .configuration_atlasvla import AtlasVLAConfig
from .policy.checks.statistics import usable_statistics
from .policy.pipelines.byte_tokenizer import make_byte_tokenizer
from .policy.pipelines.end_effector_step import EndEffectorStep
from .policy.pipelines.tokenizer_step import SelfContainedTokenizerStep
from .weights import backbones
from .weights.download import WeightsError


def make_tokenizer(config: AtlasVLAConfig) -> PreTrainedTokenizerBase:
    """Make the language model's own tokenizer, or one over bytes for a language model from scratch.

    Raises:
        WeightsError: If the language model can't be had, or has no tokenizer beside its weights.
    """
    if config.language_init == "random":
        return make_byte_tokenizer()
    resolved = backbones.resolve(config, "language")
    if not any((resolved.folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        # transformers would make up an empty one.
        raise WeightsError(
            f"{resolved.name} has no tokenizer: neither tokenizer.json nor vocab.json in {resolved.folder} "
            "(--policy.language_model)."
        )
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(resolved.folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        # transformers' own message recommends running that code.
        needs_code = "trust_remote_code" in str(error)
        reason = "it needs Python code of that folder, which is never run" if needs_code else error
        raise WeightsError(
            f"{resolved.name} has no usable tokenizer in {resolved.folder}: {reason} (--policy.language_model)."
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def make_atlasvla_pre_post_processors(
    config: AtlasVLAConfig, dataset_stats: dict[str, dict[str, Tensor]] | None = None
) -> tuple[
    PolicyProcessorPipeline[dict[str, Any], dict[str, Any]], PolicyProcessorPipeline[PolicyAction, PolicyAction]
]:
    """Build the two pipelines; LeRobot finds this function by its name.

    Before the policy: rename keys, add the batch axis, tokenize the task, move to the device, normalize (for landmarks,
    the end effector's pose is kept as it is).
    After it: undo the normalization of the action, move to the CPU.

    Args:
        config: The policy's configuration, features filled in.
        dataset_stats: Statistics of the dataset for the normalization.

    Raises:
        ConfigError: If statistics are given, but lack what the normalization needs.
        WeightsError: If the language model's tokenizer can't be had.
    """
    if dataset_stats is not None:
        dataset_stats = usable_statistics(config, dataset_stats)
    steps = make_default_policy_processor_steps(config, dataset_stats)
    tokenize = SelfContainedTokenizerStep(
        tokenizer=make_tokenizer(config),
        max_length=config.tokenizer_max_length,
        padding="longest",
        padding_side="right",
    )
    # Also where the camera's place is not known yet: a checkpoint may be told later.
    keep_pose = [EndEffectorStep(list(config.state_keys))] if config.reads_landmarks and config.use_state else []
    return make_policy_processor_pipelines(
        input_steps=[
            steps.rename_observations,
            steps.add_batch_dim,
            tokenize,
            steps.to_device,
            *keep_pose,
            steps.normalize,
        ],
        output_steps=[steps.unnormalize, steps.to_cpu],
    )
