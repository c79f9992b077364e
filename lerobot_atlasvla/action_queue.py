"""The queue of actions that were predicted but not executed yet, one per thread."""

import threading
from collections import deque
from typing import Any

from torch import Tensor


class ActionQueues(threading.local):
    """Queues by feature name, empty in every thread that has not used them yet.

    ``lerobot-eval --env.max_parallel_tasks`` runs several tasks in threads over one policy object; with one shared
    queue a task would execute the actions of another.
    """

    by_name: dict[str, deque[Tensor]] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # Copies and pickles of a policy start with empty queues; thread-local state can't be copied.
        return (ActionQueues, ())
