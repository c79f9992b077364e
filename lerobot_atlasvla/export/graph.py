"""The graph that is exported: raw images, state and an instruction in, the robot's actions out.

Shape suffixes: B batch (one), I instructions, L language tokens, E language width, T chunk, A action.
"""

import io
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from lerobot.lerobot_types import TransitionKey
from lerobot.processor import create_transition
from lerobot.utils.constants import OBS_LANGUAGE_ATTENTION_MASK, OBS_LANGUAGE_TOKENS, OBS_STATE
from torch import Tensor, nn

from lerobot_atlasvla.inputs import prepare
from lerobot_atlasvla.model.types import TokenGroup

from .reference import Reference, split_state
from .settings import ExportError

# Names of inputs beside cameras and state; exported_policy.py has them too.
INSTRUCTION, LANGUAGE, LANGUAGE_MASK = "instruction", "language", "language_mask"
ACTION = "action"
# A protocol-buffer file, which ONNX is, holds less.
LARGEST_BYTES = 2_000_000_000


class PolicyGraph(nn.Module):
    """A policy with its pipelines as a function of tensors, for one robot.

    Args:
        reference: The policy.
        cameras: Height and width of each camera that is there, pixels, in the policy's order.
        table: Language features (L, E) of each instruction; without any, features are inputs.
    """

    def __init__(self, reference: Reference, cameras: Mapping[str, tuple[int, int]], table: Sequence[Tensor]):
        super().__init__()
        self.config, self.cameras = reference.config, dict(cameras)
        self.model = reference.policy.model
        self._normalize: Any = reference.normalize
        self._unnormalize: Any = reference.unnormalize
        self.has_table = bool(table)
        if table:
            longest = max(len(features_LE) for features_LE in table)
            padded = [TokenGroup(features_LE[None]).padded_to(longest) for features_LE in table]
            self.register_buffer("table_ILE", torch.cat([group.tokens_BSD for group in padded]))
            masks = [torch.arange(longest) < len(features_LE) for features_LE in table]
            self.register_buffer("mask_IL", torch.stack(masks))

    @property
    def parameter_bytes(self) -> int:
        """Return the size of the weights in the graph; the language model is not in it."""
        language = {id(parameter) for parameter in self.model.language.parameters()}
        there = [parameter for parameter in self.model.parameters() if id(parameter) not in language]
        return sum(parameter.numel() * parameter.element_size() for parameter in there)

    def example(self) -> dict[str, Tensor]:
        """Return inputs of the right shapes and types, by name, in the order of :meth:`forward`."""
        inputs = {key: torch.zeros(*size, 3, dtype=torch.uint8) for key, size in self.cameras.items()}
        if self.config.use_state:
            inputs[OBS_STATE] = torch.zeros(self.config.state_dim)
        if self.has_table:
            return inputs | {INSTRUCTION: torch.zeros(1, dtype=torch.int64)}
        length = self.config.tokenizer_max_length
        return inputs | {
            LANGUAGE: torch.zeros(length, self.model.language.hidden_size),
            LANGUAGE_MASK: torch.ones(length, dtype=torch.bool),
        }

    def forward(self, *inputs: Tensor) -> Tensor:
        """Map the inputs of :meth:`example` to the robot's actions (T, A).

        Cameras are RGB, (height, width, 3) uint8; the state is (N,), its parts one after the other.
        """
        given = dict(zip(self.example(), inputs, strict=True))
        raw = {key: given[key].permute(2, 0, 1)[None].float() / 255 for key in self.cameras}
        if self.config.use_state:
            raw |= split_state(self.config, given[OBS_STATE][None])
        observation = self._normalize(create_transition(raw))[TransitionKey.OBSERVATION]
        # The language tokens come from the table.
        none = torch.zeros(1, 1, dtype=torch.int64)
        observation |= {OBS_LANGUAGE_TOKENS: none, OBS_LANGUAGE_ATTENTION_MASK: none.bool()}
        prepared = prepare(self.config, observation, training=False)
        views = prepared.views
        decoded_BTD = self.model(views.images(), views.present, prepared.state_BN, self._language(given))
        actions_BTA = self.model.head.sample(decoded_BTD)
        return self._unnormalize(create_transition(action=actions_BTA))[TransitionKey.ACTION][0]

    def _language(self, given: Mapping[str, Tensor]) -> TokenGroup:
        if not self.has_table:
            return TokenGroup(given[LANGUAGE][None], given[LANGUAGE_MASK][None])
        language_BLE = self.table_ILE.index_select(0, given[INSTRUCTION])
        return TokenGroup(language_BLE, self.mask_IL.index_select(0, given[INSTRUCTION]))


@torch.no_grad()
def write_onnx(graph: PolicyGraph, file: Path) -> None:
    """Write the graph as ONNX.

    Raises:
        ExportError: If it is too large for one file, or PyTorch can't export it.
    """
    if graph.parameter_bytes > LARGEST_BYTES:
        raise ExportError(
            f"An ONNX file holds 2 GB, and this policy has {graph.parameter_bytes / 1e9:.1f} GB of weights; export one "
            "with a smaller geometry backbone, such as DA3-SMALL or DA3-BASE."
        )
    inputs = graph.example()
    graph.eval()
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                graph,
                tuple(inputs.values()),
                dynamo=True,
                verbose=False,
                input_names=list(inputs),
                output_names=[ACTION],
            )
    except torch.onnx.OnnxExporterError as error:
        raise ExportError(f"PyTorch can't export this policy: {' '.join(str(error).split())[:500]}") from error
    assert program is not None
    program.save(file)
