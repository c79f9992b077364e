"""What videos show is the moment, not the end of the rollout."""

from types import SimpleNamespace

import numpy as np

from eval.rollout.workers.videos import scene_images


def test_a_stove_is_shown_as_it_was():
    """LIBERO shows by the color of a site that it is on, which it sets from the state when it is told to."""
    state, shown = {}, {}
    sim = SimpleNamespace(
        set_state_from_flattened=lambda moment: state.update(on=bool(moment[0])),
        forward=lambda: None,
        render=lambda **_: np.full((2, 2, 3), 255 * shown["on"], np.uint8),
    )
    scene = SimpleNamespace(set_visualization=lambda: shown.update(state))
    env = SimpleNamespace(_env=SimpleNamespace(sim=sim, env=scene))
    images = list(scene_images(env, [np.array([0]), np.array([1]), np.array([0])], 2))
    assert [image.max() for image in images] == [0, 255, 0]
