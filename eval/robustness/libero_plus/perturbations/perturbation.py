"""Apply a perturbation of LIBERO-Plus to LeRobot's LIBERO environment, without LIBERO-Plus's package or assets."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.robustness.libero_plus.own_assets.arena import Arena, use_arena
from eval.robustness.libero_plus.perturbations.camera import camera_pose
from eval.robustness.libero_plus.perturbations.noise import corrupt, noise_rng
from eval.robustness.libero_plus.perturbations.robot import robot_qpos
from eval.robustness.libero_plus.tasks import UNMOVED, CameraView
from lerobot_atlasvla.libero.tasks import SCENE_CAMERA

ROBOT_STARTS = {
    "original": "as LIBERO-Plus: the initial state overwrites the posture, to which only the controller still pulls",
    "preserve": "the arm starts in the perturbed posture",
}


@dataclass(frozen=True)
class PlusPerturbation:
    """Hold what is changed, all of it together; a task of LIBERO-Plus changes one thing.

    Attributes:
        name: The task's name, part of the seed of its noise.
        view: Where the scene camera is.
        robot: Number of the arm's posture; 0 for LIBERO's own.
        noise: Number of the image corruption; 0 for none.
        robot_start: One of :data:`ROBOT_STARTS`.
        arena: Scene without its things, of LIBERO-Plus's own assets; None for LIBERO's.
    """

    name: str
    view: CameraView = UNMOVED
    robot: int = 0
    noise: int = 0
    robot_start: str = "original"
    arena: Arena | None = None

    def prepare(self, env: Any) -> None:
        """Set LeRobot's ``LiberoEnv`` up for its next reset, which builds the simulation anew."""
        env._ensure_env()
        control: Any = env._env
        for method in ("reset", "set_init_state"):
            vars(control).pop(method, None)
        (robot,) = control.env.robot_configs
        robot["initial_qpos"] = robot_qpos(self.robot) if self.robot else None
        use_arena(control, self.arena)
        reset, set_init_state = control.reset, control.set_init_state

        def reset_and_look_elsewhere() -> Any:
            observation = reset()
            _move_camera(control, self.view)
            return observation

        def set_init_state_but_the_arm(state: Any) -> Any:
            observation = set_init_state(state)
            if not self.robot or self.robot_start == "original":
                return observation
            arm = control.env.robots[0]
            control.sim.data.qpos[arm._ref_joint_pos_indexes] = robot_qpos(self.robot)
            return control.regenerate_obs_from_state(control.get_sim_state())

        # On this one environment: its class is LIBERO's.
        control.reset = reset_and_look_elsewhere
        control.set_init_state = set_init_state_but_the_arm

    def observe(self, observation: dict[str, Any], frame: int, seed: int, view: str | None) -> dict[str, Any]:
        """Corrupt the scene camera's image, if the task is one of noise.

        The image that an initial state brings, frame 0, is clean, as in LIBERO-Plus.
        """
        if self.noise and frame and view is not None:
            pixels = observation["pixels"]
            pixels[view] = corrupt(pixels[view], self.noise, noise_rng(self.name, seed, frame))
        return observation


def _move_camera(control: Any, view: CameraView) -> None:
    # Its other tasks, too, have the rounded pose: 0.05 mm from LIBERO's.
    pose = camera_pose(control.env.parsed_problem["problem_name"], view)
    model = control.sim.model._model
    camera = model.camera(SCENE_CAMERA)
    camera.pos[:] = pose.position
    # As MuJoCo does when it reads a scene.
    camera.quat[:] = np.array(pose.quaternion) / np.linalg.norm(pose.quaternion)
