"""A server in a thread of this process, the policy it serves, and the same policy without a network in between."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import torch

from lerobot_atlasvla import AtlasVLAPolicy, make_atlasvla_pre_post_processors
from lerobot_atlasvla.serving.served_policy import ServedPolicy
from lerobot_atlasvla.serving.server import running
from lerobot_atlasvla.serving.settings import ServerConfig, ServingError
from lerobot_atlasvla.serving.wire import SERVICE, SESSION_KEY, TOKEN_KEY, pack, unpack_json
from tests.conftest import IMAGE, PIXELS, STATE, STATE_DIM, TASK, WRIST, dataset_stats

#: For what happens at once on a quiet machine, seconds.
PATIENCE_S = 240


@contextmanager
def serving(served: ServedPolicy, **settings: Any) -> Iterator[str]:
    """Give the address of a server that runs until the block ends."""
    config = ServerConfig(checkpoint=served.checkpoint, **({"port": 0} | settings))
    config.validate()
    loop = asyncio.new_event_loop()
    started: asyncio.Future[int] = loop.create_future()
    ready, done = threading.Event(), asyncio.Event()

    async def serve() -> None:
        try:
            async with running(served, config) as port:
                started.set_result(port)
                ready.set()
                await done.wait()
        except ServingError as error:
            started.set_exception(error)
            ready.set()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    ready.wait()
    try:
        yield f"127.0.0.1:{started.result()}"
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join()
        loop.close()


@dataclass
class Local:
    """A policy of its own, loaded from the served checkpoint."""

    checkpoint: Path

    def __post_init__(self) -> None:
        self.policy = AtlasVLAPolicy.from_pretrained(self.checkpoint)
        self.preprocess, self.postprocess = make_atlasvla_pre_post_processors(self.policy.config, dataset_stats())

    def _batch(self, observation: dict) -> dict:
        batch = {key: torch.from_numpy(value) for key, value in observation.items() if key != "task"}
        for key in (IMAGE, WRIST):
            batch[key] = batch[key].permute(2, 0, 1).float() / 255
        return self.preprocess(batch | {"task": observation["task"]})

    def chunk(self, observation: dict) -> torch.Tensor:
        return self.postprocess(self.policy.predict_action_chunk(self._batch(observation))[0])

    def select_action(self, observation: dict) -> torch.Tensor:
        return self.postprocess(self.policy.select_action(self._batch(observation)))[0]


def observe(seed: int, task: str = TASK) -> dict:
    """What a robot's cameras and joints deliver at one time step."""
    random = np.random.default_rng(seed)
    images = {key: random.integers(0, 255, (PIXELS, PIXELS, 3), np.uint8) for key in (IMAGE, WRIST)}
    return images | {STATE: random.normal(size=STATE_DIM).astype(np.float32), "task": task}


def packed(observation: dict) -> bytes:
    """An observation as it goes over the wire, without the client's checks."""
    return pack(
        {
            key: np.frombuffer(value.encode(), np.uint8) if isinstance(value, str) else value
            for key, value in observation.items()
        }
    )


class RawClient:
    """Sends any bytes to any method."""

    def __init__(self, address: str, token: str | None = None, **channel: Any):
        options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        self.channel = grpc.insecure_channel(address, options, **channel)
        self.metadata = () if token is None else ((TOKEN_KEY, f"Bearer {token}"),)

    def __enter__(self) -> "RawClient":
        return self

    def __exit__(self, *_: object) -> None:
        self("Close")
        self.channel.close()

    def open(self) -> str:
        """Open a session, which later calls use."""
        session = unpack_json(self("Open"))["session"]
        self.metadata += ((SESSION_KEY, session),)
        return session

    def __call__(self, method: str, message: bytes = b"", **call: Any) -> bytes:
        return self.channel.unary_unary(f"/{SERVICE}/{method}")(
            message, metadata=self.metadata, timeout=PATIENCE_S, **call
        )

    def error(self, method: str, message: bytes = b"", **call: Any) -> tuple[str, str]:
        """Code and text of a refusal."""
        try:
            self(method, message, **call)
        except grpc.RpcError as error:
            return error.code().name, error.details()
        raise AssertionError(f"{method} was not refused.")
