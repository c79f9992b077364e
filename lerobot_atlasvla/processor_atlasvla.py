"""Pre- and post-processing pipelines, and the tokenizer step that travels inside the checkpoint."""

import json
import logging
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from lerobot.lerobot_types import PolicyAction
from lerobot.processor import (
    PolicyProcessorPipeline,
    TokenizerProcessorStep,
    make_default_policy_processor_steps,
    make_policy_processor_pipelines,
)
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from .byte_tokenizer import make_byte_tokenizer
from .configuration_atlasvla import AtlasVLAConfig
from .statistics_checks import check_statistics
from .weights import backbones
from .weights.download import WeightsError

logger = logging.getLogger(__name__)

_STATE_KEY = "tokenizer_json_utf8"


@dataclass
class SelfContainedTokenizerStep(TokenizerProcessorStep):
    """LeRobot's tokenizer step, but the tokenizer itself is saved with the pipeline.

    LeRobot 0.6 stores only a tokenizer's name, so loading a policy needs the Hub or the same folder again. Here the
    tokenizer's JSON is a tensor in the step's state: a saved policy needs nothing but its own files.

    Not in LeRobot's step registry on purpose: an unregistered step is saved with its import path, so a checkpoint's
    pipelines load in a process that has not imported this module yet (resume, eval, a script that loads them first).
    """

    # The base class carries its own registry name, under which a checkpoint would load that class instead of this one.
    _registry_name: ClassVar[str | None] = None
    # Texts already warned about.
    _cut: set[str] = field(default_factory=set, init=False, repr=False)

    def __post_init__(self) -> None:
        # A step read from a checkpoint gets its tokenizer from load_state_dict, right after this.
        if self.tokenizer is not None:
            self.input_tokenizer = self.tokenizer

    def observation(self, observation: dict[str, Any]) -> dict[str, Any]:
        """Add ``observation.language.tokens`` and ``.attention_mask`` (B, L); warn once about a text that is cut."""
        if self.input_tokenizer is None:
            raise RuntimeError("The tokenizer step has no tokenizer: its state was not loaded from the checkpoint.")
        for text in set(self.get_task(self.transition) or ()) - self._cut:
            length = len(self.input_tokenizer(text)["input_ids"])
            if length > self.max_length:
                self._cut.add(text)
                logger.warning(
                    "Instruction of %d tokens is cut to %d (--policy.tokenizer_max_length): %r",
                    length,
                    self.max_length,
                    text,
                )
        return super().observation(observation)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the tokenizer as UTF-8 JSON in a uint8 tensor."""
        tokenizer = self.input_tokenizer
        blob = json.dumps(
            {"tokenizer": tokenizer.backend_tokenizer.to_str(), "special_tokens": tokenizer.special_tokens_map}
        )
        return {_STATE_KEY: torch.frombuffer(bytearray(blob.encode()), dtype=torch.uint8)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Rebuild the tokenizer written by :meth:`state_dict`."""
        blob = json.loads(state[_STATE_KEY].cpu().numpy().tobytes())
        self.input_tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(blob["tokenizer"]), **blob["special_tokens"]
        )


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
        tokenizer: Any = AutoTokenizer.from_pretrained(resolved.folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{resolved.name} has no usable tokenizer in {resolved.folder}: {error} (--policy.language_model)."
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

    Before the policy: rename keys, add the batch axis, tokenize the task, move to the device, normalise.
    After it: undo the normalisation of the action, move to the CPU.

    Args:
        config: The policy's configuration, features filled in.
        dataset_stats: Statistics of the dataset for the normalisation.

    Raises:
        ConfigError: If statistics are given, but lack what the normalisation needs.
        WeightsError: If the language model's tokenizer can't be had.
    """
    if dataset_stats is not None:
        check_statistics(config, dataset_stats)
    steps = make_default_policy_processor_steps(config, dataset_stats)
    tokenize = SelfContainedTokenizerStep(
        tokenizer=make_tokenizer(config),
        max_length=config.tokenizer_max_length,
        padding="longest",
        padding_side="right",
    )
    return make_policy_processor_pipelines(
        input_steps=[steps.rename_observations, steps.add_batch_dim, tokenize, steps.to_device, steps.normalize],
        output_steps=[steps.unnormalize, steps.to_cpu],
    )
