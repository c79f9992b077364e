"""One attempt: its noise, its placement, and that what it stores is what LeRobot shows a policy."""

import itertools
from dataclasses import fields

import numpy as np
import pytest

from lerobot_atlasvla.libero.demonstrations import episode
from lerobot_atlasvla.libero.demonstrations.collect_settings import CollectConfig
from lerobot_atlasvla.libero.demonstrations.episode import ActionNoise, Attempt, Demonstrator
from lerobot_atlasvla.libero.demonstrations.schema import (
    IMAGE_KEY,
    STATE_KEY,
    WRIST_IMAGE_KEY,
    Trajectory,
    libero_state,
    rotate_image,
)
from lerobot_atlasvla.libero.demonstrations.task_scene import entropy_of
from lerobot_atlasvla.libero.experts.mishaps import Mishap
from lerobot_atlasvla.libero.experts.motion import Phase
from lerobot_atlasvla.libero.tasks import SETTLE_STEPS, SPATIAL, SUITES

# -- noise -------------------------------------------------------------------------------------------------------------


def test_no_noise_executes_the_label():
    noise = ActionNoise(0.0, np.random.default_rng(0))
    action = np.array([1.0, -0.5, 0.2, 0.1, 0.0, -1.0, 1.0])
    for _ in range(100):
        np.testing.assert_array_equal(noise(action, free_motion=True), action)


def test_noise_moves_the_arm_and_never_the_gripper():
    noise = ActionNoise(1.0, np.random.default_rng(0))
    label = np.zeros(7)
    label[6] = -1.0
    executed = np.stack([noise(label, free_motion=True) for _ in range(2000)])
    assert np.abs(executed).max() <= 1.0
    assert (executed[:, 6] == -1.0).all()
    assert 0.2 < executed[:, :3].std() < 0.5
    assert 0.03 < executed[:, 3:6].std() < 0.07
    near = np.stack([noise(label, free_motion=False) for _ in range(2000)])
    assert near[:, :3].std() < 0.15


# -- the real simulator ------------------------------------------------------------------------------------------------

DRAWER_TASK = 4


def assert_same_look(one: dict, other: dict) -> None:
    for key in ("agentview_image", "robot0_eye_in_hand_image", "robot0_eef_pos", "robot0_eef_quat"):
        np.testing.assert_array_equal(one[key], other[key])


@pytest.mark.slow
def test_a_placement_depends_on_its_seed_alone():
    # The drawer is opened by a sampler that LIBERO multiplies at every reset.
    demonstrator = Demonstrator("libero_spatial", DRAWER_TASK, image_size=32)
    try:
        first = demonstrator.reset(11)
        other = demonstrator.reset(12)
        assert not np.array_equal(first["akita_black_bowl_1_pos"], other["akita_black_bowl_1_pos"])
        demonstrator.env.step(np.ones(7))
        assert_same_look(demonstrator.reset(11), first)
    finally:
        demonstrator.close()


@pytest.mark.slow
def test_stored_observation_is_what_lerobot_shows_a_policy():
    from lerobot.envs.libero import LiberoEnv
    from lerobot.envs.utils import preprocess_observation
    from lerobot.processor.env_processor import LiberoProcessorStep
    from libero.libero import benchmark

    suite = benchmark.get_benchmark_dict()["libero_spatial"]()
    demonstrator = Demonstrator("libero_spatial", 0, image_size=64)
    evaluation = LiberoEnv(
        suite,
        task_id=0,
        task_suite_name="libero_spatial",
        obs_type="pixels_agent_pos",
        observation_width=64,
        observation_height=64,
        init_states=False,
        camera_name_mapping={"agentview_image": "image", "robot0_eye_in_hand_image": "wrist_image"},
    )
    try:
        raw = demonstrator.reset(7)
        seen, _ = evaluation.reset(seed=7)
        evaluated = LiberoProcessorStep().observation(
            preprocess_observation(
                {
                    "pixels": {key: image[None] for key, image in seen["pixels"].items()},
                    "robot_state": {
                        part: {key: value[None] for key, value in values.items()}
                        for part, values in seen["robot_state"].items()
                    },
                }
            )
        )
        for camera, key in (("agentview", IMAGE_KEY), ("robot0_eye_in_hand", WRIST_IMAGE_KEY)):
            stored = rotate_image(raw[f"{camera}_image"]).astype(np.float32)
            shown = 255 * evaluated[key][0].permute(1, 2, 0).numpy()
            # robosuite looks a few ms before the end of a control step there; nothing visible moves.
            assert np.abs(stored - shown).mean() < 0.5
            assert np.abs(stored - shown[::-1, ::-1]).mean() > 5  # the picture can tell its orientation
        state = libero_state(*(raw[f"robot0_{key}"][None] for key in ("eef_pos", "eef_quat", "gripper_qpos")))
        np.testing.assert_allclose(state, evaluated[STATE_KEY].numpy(), atol=1e-3)
        assert demonstrator.task.language == evaluation.task_description
    finally:
        demonstrator.close()
        evaluation.close()


# -- recovery ----------------------------------------------------------------------------------------------------------

SHORT_TASK = 8


class BlindDemonstrator(Demonstrator):
    """Renders nothing and stores black pictures: rendering would take most of the time."""

    def _enable_sensors(self, enabled: bool) -> None:
        for name in self.env.env.observation_names:
            self.env.env.modify_observable(name, "enabled", enabled and not name.endswith("_image"))

    def run(self, attempt: int = 0, share: float = 1.0, **settings) -> Attempt:
        config = CollectConfig("unused", recovery_share=share, **settings)
        return self.attempt(config.job((SPATIAL, SHORT_TASK), attempt))


@pytest.fixture(scope="module")
def blind():
    def trajectory(observations, actions):
        black = np.zeros((4, 4, 3), dtype=np.uint8)
        pictures = {"agentview_image": black, "robot0_eye_in_hand_image": black}
        return stored([{**observation, **pictures} for observation in observations], actions)

    stored = episode._trajectory
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(episode, "_trajectory", trajectory)
        demonstrator = BlindDemonstrator("libero_spatial", SHORT_TASK, image_size=4)
        yield demonstrator
        demonstrator.close()


def assert_same(one: Trajectory | None, other: Trajectory | None) -> None:
    assert one is not None
    assert other is not None
    for entry in fields(Trajectory):
        np.testing.assert_array_equal(getattr(one, entry.name), getattr(other, entry.name))


def test_a_recovery_shows_the_way_back_and_not_the_mishap(blind, monkeypatch):
    monkeypatch.setattr(blind._clumsy, "draw", lambda rng: Mishap.MISSED)
    executed = []
    step = blind.env.step
    monkeypatch.setattr(blind.env, "step", lambda action: (executed.append(action), step(action))[1])
    attempt = blind.run(noise=0.0)
    assert attempt.recovery
    assert attempt.trajectory is not None
    assert blind.env.check_success()
    actions = attempt.trajectory.actions
    mishap = np.array(executed[SETTLE_STEPS : -len(actions)])
    assert 1.0 in mishap[:, 6]
    np.testing.assert_array_equal(np.array(executed[-len(actions) :]), actions)  # the labels are the way back alone
    # The fingers are closed on nothing, which a robot that starts afresh never shows; the first thing is to open them.
    assert np.ptp(attempt.trajectory.gripper_qpos[0]) < 0.01
    assert [int(g) for g, before in zip(actions[:, 6], [0, *actions[:, 6]], strict=False) if g != before] == [-1, 1, -1]


@pytest.mark.slow
def test_a_recovery_depends_on_its_number_alone(blind, monkeypatch):
    monkeypatch.setattr(blind._clumsy, "draw", lambda rng: Mishap.MISSED)
    first = blind.run(0, noise=0.0)
    miss = blind._clumsy._miss
    other = blind.run(1, noise=0.0, max_steps=5)
    assert other.recovery
    assert not np.array_equal(blind._clumsy._miss, miss)
    again = blind.run(0, noise=0.0)
    assert_same(first.trajectory, again.trajectory)


@pytest.mark.slow
def test_the_other_attempts_do_not_depend_on_the_share(blind):
    without = [blind.run(attempt, share=0.0) for attempt in (0, 1)]
    assert [attempt.recovery for attempt in without] == [False, False]
    with_share = [blind.run(attempt, share=0.5) for attempt in (0, 1)]
    assert sorted(attempt.recovery for attempt in with_share) == [False, True]
    for one, other in zip(without, with_share, strict=True):
        if not other.recovery:
            assert_same(one.trajectory, other.trajectory)


def test_a_mishap_that_leaves_nothing_to_recover_from_is_a_failed_attempt(blind, monkeypatch):
    monkeypatch.setattr(blind._clumsy, "went_wrong", lambda: False)
    assert blind.run() == Attempt(blind.task.name, blind.task.language, None, recovery=True)


@pytest.mark.parametrize(("phase", "kept"), [(Phase.PUSH, True), (Phase.REACH, False)])
def test_a_way_back_may_end_in_whatever_does_not_grasp_once_more(blind, monkeypatch, phase, kept):
    monkeypatch.setattr(type(blind._expert), "phase", phase)
    attempt = blind.run()
    assert attempt.recovery
    assert (attempt.trajectory is not None) == kept


def test_a_way_back_of_many_grasps_is_a_failed_attempt(blind, monkeypatch):
    monkeypatch.setattr(episode, "RECOVERY_GRASPS", 0)
    attempt = blind.run()
    assert attempt.recovery
    assert attempt.trajectory is None


# -- the arm's posture at the start ------------------------------------------------------------------------------------


def arm_of(demonstrator: Demonstrator) -> np.ndarray:
    return demonstrator.env.sim.data.qpos[demonstrator.env.robots[0]._ref_joint_pos_indexes].copy()


def test_a_reset_puts_the_arm_off_its_posture_and_the_next_one_back(blind):
    blind.reset(3)
    usual = arm_of(blind)
    offset = np.array([0.1, -0.2, 0.1, 0.1, -0.2, 0.1, 0.3])
    blind.reset(3, arm_offset=offset)
    np.testing.assert_allclose(arm_of(blind) - usual, offset, atol=0.02)  # while things settle, it gives way a little
    blind.reset(3)
    np.testing.assert_array_equal(arm_of(blind), usual)


def test_the_arm_starts_in_any_direction_and_never_farther_off_than_asked():
    settings = CollectConfig("unused", arm_start_rad=0.5)
    jobs = [settings.job((SPATIAL, task_id), attempt) for task_id in (0, 1) for attempt in range(100)]
    offsets = np.array([episode._arm_offset(job) for job in jobs])
    np.testing.assert_array_equal(offsets[7], episode._arm_offset(jobs[7]))
    lengths = np.linalg.norm(offsets, axis=1)
    assert 0 < lengths.min() < 0.1
    assert 0.4 < lengths.max() <= 0.5
    directions = offsets / lengths[:, None]
    assert np.abs(directions.mean(axis=0)).max() < 0.15
    assert len(np.unique(lengths)) == 200
    assert episode._arm_offset(CollectConfig("unused").job((SPATIAL, 0), 0)) is None


def test_a_demonstration_from_another_posture_solves_the_task(blind):
    usual = blind.run(share=0.0)
    attempt = blind.run(share=0.0, arm_start_rad=0.5)
    assert usual.trajectory is not None
    assert attempt.trajectory is not None
    assert np.linalg.norm(attempt.trajectory.eef_pos[0] - usual.trajectory.eef_pos[0]) > 0.02


# -- other cameras -----------------------------------------------------------------------------------------------------


def test_a_copy_from_an_unmoved_camera_is_the_same_to_the_byte():
    still = {"kind_share": 0.0, "noise": 0.0, "recovery_share": 0.0, "extra_steps": 2, "image_size": 32}
    settings = CollectConfig("unused", random_cameras=1, store_geometry=True, **still)
    demonstrator = Demonstrator("libero_spatial", SHORT_TASK, image_size=32)
    try:
        answers = iter([False, True])  # at the start, at the end
        demonstrator.env.check_success = lambda: next(answers)
        step = demonstrator.env.step
        demonstrator.env.step = lambda action: (*step(action)[:2], True, {})
        attempt = demonstrator.attempt(settings.job((SPATIAL, SHORT_TASK), 0))
    finally:
        demonstrator.close()
    original, copy = attempt.episodes
    assert len(original) == 3
    np.testing.assert_array_equal(copy.agentview, original.agentview)
    for key, values in original.geometry.items():
        np.testing.assert_array_equal(copy.geometry[key], values)
    assert original.geometry["observation.depth.wrist"].shape == (3, 8, 8)
    assert copy.wrist is original.wrist
    assert len(np.unique(original.agentview)) > 50


def test_no_two_attempts_draw_the_same():
    attempts = list(itertools.product(SUITES, (0, 1), (2, 3), (4, 5)))
    assert len({tuple(entropy_of(*attempt)) for attempt in attempts}) == len(attempts)
    assert entropy_of(SPATIAL, 1, 2, 3) == [1, 2, 3]  # as in datasets from before there were other suites
