"""Run a policy that ``atlasvla-export`` wrote. It needs NumPy and onnxruntime, no LeRobot and no PyTorch.

    python exported_policy.py FOLDER                                   # what it reads, and how long a chunk takes
    python exported_policy.py FOLDER --observations=demonstration.npz  # and its actions for recorded observations

In a robot's own loop, with this file beside it:

    policy = ExportedPolicy(FOLDER)
    policy.reset()
    while running:
        action = policy.select_action({"observation.images.front": image}, state, "pick up the cube")

Shape suffixes: V cameras, L language tokens, E language width, T chunk, A action.
"""

import argparse
import json
import statistics
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

GRAPH_FILE = "model.onnx"
ABOUT_FILE = "export.json"
STATE = "observation.state"
INSTRUCTION, LANGUAGE, LANGUAGE_MASK = "instruction", "language", "language_mask"


class ExportedPolicy:
    """A policy for one robot.

    Args:
        folder: What ``atlasvla-export`` wrote.
        threads: CPU threads that compute.

    Attributes:
        about: What ``export.json`` says: cameras, sizes, instructions and what was measured.
        n_action_steps: Actions of a chunk that are executed before the next prediction, 1 .. ``chunk_size``.

    Raises:
        ValueError: If the folder is no export, or damaged.
    """

    def __init__(self, folder: str | Path, threads: int = 1):
        folder = Path(folder)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        try:
            self.about: dict[str, Any] = json.loads((folder / ABOUT_FILE).read_text(encoding="utf-8"))
            graph = str(folder / GRAPH_FILE)
            self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
            self.n_action_steps = int(self.about["n_action_steps"])
            if not 1 <= self.n_action_steps <= self.about["chunk_size"]:
                raise ValueError(f"n_action_steps is {self.n_action_steps} with chunks of {self.about['chunk_size']}")
            if lacking := {"cameras", "state", "instructions", "language"} - self.about.keys():
                raise ValueError(f"{ABOUT_FILE} lacks {', '.join(sorted(lacking))}")
        except Exception as error:  # onnxruntime's errors have no class in common
            raise ValueError(f"{folder} holds no usable export of atlasvla-export: {error}") from error
        self._queue: deque[np.ndarray] = deque()

    def reset(self) -> None:
        """Forget the actions that were predicted but not executed; call it when an episode starts."""
        self._queue.clear()

    def select_action(
        self, images: Mapping[str, np.ndarray], state: np.ndarray | None, instruction: str | np.ndarray
    ) -> np.ndarray:
        """Return the next action (A,), in the robot's units; predicts a new chunk every ``n_action_steps`` calls.

        Arguments and errors are those of :meth:`predict_chunk`.
        """
        if not self._queue:
            self._queue.extend(self.predict_chunk(images, state, instruction)[: self.n_action_steps])
        return self._queue.popleft()

    def predict_chunk(
        self, images: Mapping[str, np.ndarray], state: np.ndarray | None, instruction: str | np.ndarray
    ) -> np.ndarray:
        """Predict a chunk of actions (T, A), in the robot's units, float32.

        Args:
            images: RGB of each camera by its name, (height, width, 3) uint8, of the camera's size.
            state: As the robot measures it, (N,); None for a policy without a state.
            instruction: One of ``about["instructions"]``; for an export with ``--language=input``, its features (L, E).

        Raises:
            ValueError: For an input that does not fit, or an action that is not finite, which no robot should get.
        """
        inputs = self._images(images) | self._state(state) | self._language(instruction)
        actions_TA: Any = self._session.run(None, inputs)[0]
        if not np.isfinite(actions_TA).all():
            raise ValueError("The policy predicted an action that is not finite; none was returned.")
        return actions_TA

    def _images(self, images: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        cameras = self.about["cameras"]
        if set(images) != set(cameras):
            raise ValueError(f"images are of {sorted(images)}; the policy looks through {list(cameras)}.")
        for name, (height, width) in cameras.items():
            image = np.asarray(images[name])
            if image.dtype != np.uint8 or image.shape != (height, width, 3):
                raise ValueError(
                    f"{name} must be RGB of shape {(height, width, 3)}, uint8; got {image.dtype} of shape "
                    f"{image.shape}. For a camera of another size, export with --image_sizes."
                )
        return {name: np.asarray(images[name]) for name in cameras}

    def _state(self, state: np.ndarray | None) -> dict[str, np.ndarray]:
        size = sum(self.about["state"].values())
        if not size:
            return {}
        given = np.asarray(state if state is not None else [], np.float32)
        if given.shape != (size,) or not np.isfinite(given).all():
            raise ValueError(f"the state must be {size} finite numbers, {self.about['state']}; got {state}.")
        return {STATE: given}

    def _language(self, instruction: str | np.ndarray) -> dict[str, np.ndarray]:
        known = self.about["instructions"]
        if known is not None:
            if not isinstance(instruction, str) or instruction not in known:
                raise ValueError(f"the instruction {instruction!r} is not in this export, which knows {known}.")
            return {INSTRUCTION: np.array([known.index(instruction)], np.int64)}
        longest, width = self.about["language"]
        features_LE = np.asarray(instruction if not isinstance(instruction, str) else [], np.float32)
        if features_LE.ndim != 2 or features_LE.shape[1] != width or not 1 <= len(features_LE) <= longest:
            raise ValueError(
                f"this export takes language features of shape (tokens, {width}), 1 to {longest} tokens, for the "
                f"instruction; got {'text' if isinstance(instruction, str) else features_LE.shape}."
            )
        padded_LE = np.zeros((longest, width), np.float32)
        padded_LE[: len(features_LE)] = features_LE
        return {LANGUAGE: padded_LE, LANGUAGE_MASK: np.arange(longest) < len(features_LE)}


def blank_observation(about: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], np.ndarray, str | np.ndarray]:
    """Return black images, a state of zeros and some instruction."""
    images = {name: np.zeros((height, width, 3), np.uint8) for name, (height, width) in about["cameras"].items()}
    state = np.zeros(sum(about["state"].values()), np.float32)
    return images, state, about["instructions"][0] if about["instructions"] else np.zeros((1, about["language"][1]))


def recorded_observations(
    file: str | Path, about: Mapping[str, Any]
) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray, str]]:
    """Read observations: ``images`` (S, V, H, W, 3) uint8 in the order of the cameras, ``states`` (S, N), ``task``."""
    with np.load(file, allow_pickle=False) as recorded:
        images, states, task = recorded["images"], recorded["states"], str(recorded["task"])
    for views, state in zip(images, states, strict=True):
        yield dict(zip(about["cameras"], views, strict=True)), state, task


def main() -> None:
    """Describe an export, show its actions for recorded observations, and measure it."""
    parser = argparse.ArgumentParser(description="Run a policy that atlasvla-export wrote.")
    parser.add_argument("folder", help="what atlasvla-export wrote")
    parser.add_argument("--observations", help="a NumPy file: images (S, V, H, W, 3), states (S, N), task")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads that compute")
    parser.add_argument("--repetitions", type=int, default=200, help="chunks whose time is measured")
    flags = parser.parse_args()
    policy = ExportedPolicy(flags.folder, flags.threads)
    about = policy.about
    lines = [f"{name}: {about[name]}" for name in ("cameras", "state", "instructions", "chunk_size", "n_action_steps")]
    sys.stdout.write("\n".join(lines) + "\n")
    observation: Any = blank_observation(about)
    recorded = recorded_observations(flags.observations, about) if flags.observations else ()
    for number, observation in enumerate(recorded):
        actions_TA = policy.predict_chunk(*observation)
        sys.stdout.write(f"observation {number}: first action {[round(float(x), 4) for x in actions_TA[0]]}\n")
    for _ in range(10):  # the first ones are slower
        policy.predict_chunk(*observation)
    seconds, cpu = [], time.process_time()
    for _ in range(flags.repetitions):
        started = time.perf_counter()
        policy.predict_chunk(*observation)
        seconds.append(time.perf_counter() - started)
    cpu_ms = 1000 * (time.process_time() - cpu) / flags.repetitions
    sys.stdout.write(
        f"a chunk of {about['chunk_size']} actions: {1000 * statistics.median(seconds):.2f} ms (median of "
        f"{flags.repetitions}), {cpu_ms:.2f} ms of CPU time, {flags.threads} thread(s)\n"
    )


if __name__ == "__main__":
    main()
