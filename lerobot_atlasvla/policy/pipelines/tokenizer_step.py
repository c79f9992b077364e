"""The tokenizer step of the preprocessing pipeline, which travels inside the checkpoint.

Imported with the plugin, so that LeRobot's step registry knows it by name wherever the policy type is known.
"""

import json
import logging
import threading
from dataclasses import dataclass, field
from typing import Any

import torch
from lerobot.lerobot_types import EnvTransition, TransitionKey
from lerobot.processor import ProcessorStepRegistry, TokenizerProcessorStep
from lerobot.utils.constants import OBS_STATE
from torch import Tensor

logger = logging.getLogger(__name__)

# LeRobot prints this name where it is not known: it says what to import.
STEP_NAME = "lerobot_atlasvla_tokenizer"
_STATE_KEY = "tokenizer_json_utf8"
# What a checkpoint may tell transformers about its tokenizer: it takes any argument, names of files among them.
_SPECIAL_TOKENS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
# A client of the policy server may send other instructions without end.
_MOST_WARNINGS, _SHOWN = 100, 200


@ProcessorStepRegistry.register(STEP_NAME)
@dataclass
class SelfContainedTokenizerStep(TokenizerProcessorStep):
    """LeRobot's tokenizer step, but the tokenizer itself is saved with the pipeline.

    LeRobot 0.6 stores only a tokenizer's name, so loading a policy needs the Hub or the same folder again. Here the
    tokenizer's JSON is a tensor in the step's state: a saved policy needs nothing but its own files.

    It also makes state (or its parts) and action float32 for the normalization that comes next, which casts its
    statistics to the data's type: with an integer state, a standard deviation of 0.5 would become 0.

    Threads may share it, as those of ``lerobot-eval`` do: a tokenizer can't be used by two of them at once, and the
    transition that LeRobot's step keeps is one of them's.
    """

    # Texts already warned about.
    _cut: set[str] = field(default_factory=set, init=False, repr=False)
    _lock: Any = field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # A step read from a checkpoint gets its tokenizer from load_state_dict, right after this.
        if self.tokenizer is not None:
            self.input_tokenizer = self.tokenizer

    def __call__(self, transition: EnvTransition) -> EnvTransition:
        """Tokenize the task of a transition, whose state and action become float32."""
        changed: Any = transition.copy()
        if isinstance(action := changed.get(TransitionKey.ACTION), Tensor):
            changed[TransitionKey.ACTION] = action.float()
        if observation := changed.get(TransitionKey.OBSERVATION):
            states = {key: value for key, value in observation.items() if f"{key}.".startswith(f"{OBS_STATE}.")}
            floats = {key: value.float() for key, value in states.items() if isinstance(value, Tensor)}
            changed[TransitionKey.OBSERVATION] = observation | floats
        with self._lock:
            return super().__call__(changed)

    def __getstate__(self) -> dict[str, Any]:
        """Return what copies and pickles hold: everything but the lock."""
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Invert :meth:`__getstate__`."""
        self.__dict__.update(state, _lock=threading.Lock())

    def observation(self, observation: dict[str, Any]) -> dict[str, Any]:
        """Add ``observation.language.tokens`` and ``.attention_mask`` (B, L); warn once about a text that is cut.

        Raises:
            ValueError: If there is no instruction.
        """
        if self.input_tokenizer is None:
            raise RuntimeError("The tokenizer step has no tokenizer: its state was not loaded from the checkpoint.")
        transition: Any = self.transition
        given = (transition.get(TransitionKey.COMPLEMENTARY_DATA) or {}).get(self.task_key)
        texts = [given] if isinstance(given, str) else given
        if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
            raise ValueError(
                f"The observation needs {self.task_key!r}, the instruction: a sentence, or a list with one for each "
                f"sample; got {given!r}."
            )
        for text in set(texts) - self._cut if len(self._cut) < _MOST_WARNINGS else ():
            length = len(self.input_tokenizer(text)["input_ids"])
            if length > self.max_length:
                self._cut.add(text)
                logger.warning(
                    "Instruction of %d tokens is cut to %d (--policy.tokenizer_max_length): %r",
                    length,
                    self.max_length,
                    text[:_SHOWN],
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
        """Rebuild the tokenizer that :meth:`state_dict` wrote.

        Raises:
            ValueError: If the state is no such tokenizer.
        """
        from tokenizers import Tokenizer
        from transformers import PreTrainedTokenizerFast

        try:
            blob = json.loads(state[_STATE_KEY].cpu().numpy().tobytes())
            given, tokenizer = dict(blob["special_tokens"]), str(blob["tokenizer"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"The checkpoint's tokenizer can't be read: {type(error).__name__}: {error}.") from error
        named = {f"{name}_token" for name in _SPECIAL_TOKENS}
        tokens = {name: token for name, token in given.items() if name in named and isinstance(token, str)}
        self.input_tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(tokenizer), **tokens)
