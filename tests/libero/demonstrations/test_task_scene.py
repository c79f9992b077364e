"""What the random numbers of an attempt are drawn from."""

import itertools

from lerobot_atlasvla.libero.demonstrations.task_scene import entropy_of
from lerobot_atlasvla.libero.tasks import SPATIAL, SUITES


def test_no_two_attempts_draw_the_same():
    attempts = list(itertools.product(SUITES, (0, 1), (2, 3), (4, 5)))
    assert len({tuple(entropy_of(*attempt)) for attempt in attempts}) == len(attempts)
    assert entropy_of(SPATIAL, 1, 2, 3) == [1, 2, 3]  # as in datasets from before there were other suites
