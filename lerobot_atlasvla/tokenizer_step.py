"""The tokenizer step of the preprocessing pipeline, which travels inside the checkpoint.

Imported with the plugin, so that LeRobot's step registry knows it by name wherever the policy type is known.
"""

import json
import logging
from dataclasses import dataclass, field
from typing import Any

import torch
from lerobot.processor import ProcessorStepRegistry, TokenizerProcessorStep
from torch import Tensor

logger = logging.getLogger(__name__)

# LeRobot prints this name where it is not known: it says what to import.
STEP_NAME = "lerobot_atlasvla_tokenizer"
_STATE_KEY = "tokenizer_json_utf8"


@ProcessorStepRegistry.register(STEP_NAME)
@dataclass
class SelfContainedTokenizerStep(TokenizerProcessorStep):
    """LeRobot's tokenizer step, but the tokenizer itself is saved with the pipeline.

    LeRobot 0.6 stores only a tokenizer's name, so loading a policy needs the Hub or the same folder again. Here the
    tokenizer's JSON is a tensor in the step's state: a saved policy needs nothing but its own files.
    """

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
        # A tokenizer notes in itself how it was last called, which is no part of it.
        content = json.loads(tokenizer.backend_tokenizer.to_str()) | {"truncation": None, "padding": None}
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        blob = json.dumps({"tokenizer": text, "special_tokens": tokenizer.special_tokens_map})
        return {_STATE_KEY: torch.frombuffer(bytearray(blob.encode()), dtype=torch.uint8)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Rebuild the tokenizer that :meth:`state_dict` wrote."""
        from tokenizers import Tokenizer
        from transformers import PreTrainedTokenizerFast

        blob = json.loads(state[_STATE_KEY].cpu().numpy().tobytes())
        self.input_tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(blob["tokenizer"]), **blob["special_tokens"]
        )
