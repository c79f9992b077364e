"""Actions of the checkpoints in ``checkpoints/`` on made-up observations, and the file that keeps them.

``python -m tests.golden.kept_actions`` writes the file again; do so only with the commit that made the checkpoints.
"""

import json
import sys
from pathlib import Path

import torch
from lerobot.policies.factory import make_pre_post_processors

from lerobot_atlasvla import AtlasVLAPolicy

HERE = Path(__file__).resolve().parent
CHECKPOINTS = HERE.parents[1] / "checkpoints"
NAMES = (
    "atlasvla_small_spatial",
    "atlasvla_tiny_goal",
    "atlasvla_tiny_spatial",
    "atlasvla_tiny_spatial_blind",
    "atlasvla_tiny_thirty",
)
FILE = HERE / "data/kept_actions.json"
INSTRUCTION = "pick up the black bowl on the stove and place it on the plate"


def actions(checkpoint: Path) -> torch.Tensor:
    """Return the chunk, in the robot's units, of shape (2, 10, 7), for two observations drawn from a fixed seed."""
    policy = AtlasVLAPolicy.from_pretrained(checkpoint)
    policy.eval()
    before, after = make_pre_post_processors(policy.config, pretrained_path=str(checkpoint))
    generator = torch.Generator().manual_seed(0)
    batch = {
        key: torch.rand(2, *feature.shape, generator=generator) for key, feature in policy.config.input_features.items()
    }
    batch["task"] = [INSTRUCTION, INSTRUCTION.replace("stove", "cookie box")]
    return after(policy.predict_action_chunk(before(batch)))


def main() -> int:
    """Write the file."""
    kept = {name: actions(CHECKPOINTS / name).tolist() for name in NAMES}
    FILE.write_text(json.dumps(kept) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
