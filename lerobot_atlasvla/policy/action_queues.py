"""Actions that were predicted but not executed yet, and what else a thread remembers of its episode."""

import logging
import threading
from collections import deque
from collections.abc import Mapping
from typing import Any, Self

from lerobot.utils.constants import ACTION
from torch import Tensor

from lerobot_atlasvla.configuration_atlasvla import AtlasVLAConfig
from lerobot_atlasvla.model.conditioning.scene_cameras import SceneCameras

from .checks.values import check_image_range
from .ensembling import Ensemble

logger = logging.getLogger(__name__)


class _Resets:
    """Counts the episodes that any thread has started."""

    count = 0


class ActionQueues(threading.local):
    """Queues by feature name, empty in every thread that has not used them yet.

    ``lerobot-eval --env.max_parallel_tasks`` runs several tasks in threads over one policy object; with one shared
    queue a task would execute the actions of another.

    Args:
        resets: One for all threads: each of them runs this constructor again, with the same argument.
    """

    _by_name: dict[str, deque[Tensor]] | None = None
    # The chunks of this episode so far, where they are averaged.
    _ensemble: Ensemble | None = None
    # Whether images of this episode have been looked at.
    _images_checked: bool = False
    # Whether this thread starts its episodes itself.
    _resets_itself: bool = False

    def __init__(self, resets: _Resets):
        self._resets = resets
        self._episode = resets.count
        self._cameras = SceneCameras()

    @classmethod
    def make(cls) -> Self:
        """Make the queues of one policy."""
        return cls(_Resets())

    def __reduce__(self) -> tuple[Any, ...]:
        # Copies and pickles of a policy start with empty queues; thread-local state can't be copied.
        return (ActionQueues.make, ())

    def reset(self, config: AtlasVLAConfig) -> None:
        """Start an episode in this thread: no actions of earlier chunks, unseen images, unknown cameras."""
        self._resets.count += 1
        self._resets_itself = True
        self._begin(config)

    def _begin(self, config: AtlasVLAConfig) -> None:
        self._by_name = {ACTION: deque()}
        self._ensemble = None
        self._images_checked = False
        self._cameras = SceneCameras()

    @property
    def cameras(self) -> SceneCameras:
        """Return where this thread's episode has its cameras.

        A thread that never starts an episode follows those that do: with real-time chunking, LeRobot's rollout predicts
        in one thread and calls ``reset`` in another.
        """
        if not self._resets_itself and self._episode != self._resets.count:
            self._episode = self._resets.count
            self._cameras = SceneCameras()
        return self._cameras

    def by_name(self, config: AtlasVLAConfig) -> dict[str, deque[Tensor]]:
        """Return this thread's queues: of actions (B, A), normalized, the next one first."""
        if self._by_name is None:
            self._begin(config)
        return self._by_name or {}

    def of_environments(self, config: AtlasVLAConfig, count: int) -> deque[Tensor]:
        """Return this thread's actions, dropped with a warning if they are of another number of environments, B."""
        queue = self.by_name(config)[ACTION]
        if queue and len(queue[0]) != count:
            _warn_of_another_number(count, len(queue[0]))
            queue.clear()
        return queue

    def ensemble_of(self, config: AtlasVLAConfig, count: int) -> Ensemble:
        """Return this thread's chunks, forgotten with a warning if they are of another number of environments, B."""
        known = None if self._ensemble is None else self._ensemble.environments
        if known is not None and known != count:
            _warn_of_another_number(count, known)
            self._ensemble = None
        self._ensemble = self._ensemble or Ensemble(config)
        return self._ensemble

    def check_images(self, config: AtlasVLAConfig, batch: Mapping[str, Tensor]) -> None:
        """Check the images' range in the first batch of an episode, and of training; what comes after is alike.

        Raises:
            ValueError: For images outside [0, 1] (:func:`~.checks.values.check_image_range`).
        """
        if not self._images_checked:
            check_image_range(config, batch)
            self._images_checked = True


def _warn_of_another_number(count: int, before: int) -> None:
    logger.warning(
        "select_action got %d environments after %d: the queued actions are dropped and all chunks predicted "
        "anew. Call reset() when an episode starts.",
        count,
        before,
    )
