"""The policy server: gRPC, which LeRobot's ``async`` extra installs, with safetensors messages instead of pickles.

gRPC brings connections, size limits, deadlines and cancellation, and its generic handlers take bytes without generated
code, so the only new protocol is five method names. HTTP with msgpack would need two more packages and its own time
limits.
"""

import asyncio
import contextlib
import dataclasses
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import torch
from grpc import aio

from lerobot_atlasvla.model.conditioning.scene_cameras import SceneCameras
from lerobot_atlasvla.policy.ensembling import Ensemble

from . import rpc
from .served_policy import ServedPolicy
from .sessions import Sessions
from .settings import ServerConfig, ServingError
from .wire import SERVICE, SESSION_KEY, TASK_KEY, MessageError, pack, pack_json, unpack

logger = logging.getLogger(__name__)

type Requests = AsyncIterator[bytes]


class PolicyThread:
    """The thread that computes, one request after the other: a policy's pipelines serve one caller at a time."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "policy")

    async def run[R](self, function: Callable[..., R], *arguments: Any) -> R:
        """Run a function there. A caller that gives up meanwhile takes a call that has not begun out of the line."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)

    def close(self) -> None:
        """Let the call that has begun end, and drop the others."""
        self._executor.shutdown(wait=True, cancel_futures=True)


@dataclass
class _Session:
    """One client: what was predicted for it, and its episode.

    Attributes:
        actions: Actions that were not sent yet, each (A,).
        ensemble: Its chunks, where they are averaged.
        cameras: Where its cameras are.
        lock: Keeps a client that calls twice at once from getting two chunks mixed.
    """

    actions: deque[np.ndarray] = field(default_factory=deque)
    ensemble: Ensemble | None = None
    cameras: SceneCameras = field(default_factory=SceneCameras)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class PolicyService:
    """Answers the calls of :class:`.client.PolicyClient` over gRPC, with a session for each client.

    Args:
        served: The policy.
        config: Limits and token.
        thread: Where the policy computes.
    """

    def __init__(self, served: ServedPolicy, config: ServerConfig, thread: PolicyThread):
        self._served = served
        self._config = config
        self._thread = thread
        self._sessions: Sessions[_Session] = Sessions(config.max_sessions, config.session_idle_s)

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return the five methods for gRPC."""
        methods = {
            "Open": self._open,
            "Reset": self._reset,
            "SelectAction": self._select_action,
            "PredictActionChunk": self._predict_action_chunk,
            "Close": self._close,
        }
        timeout_s, token = self._config.request_timeout_s, self._config.token
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {name: rpc.handler(answer, timeout_s=timeout_s, token=token) for name, answer in methods.items()},
        )

    def _session(self, context: aio.ServicerContext) -> _Session:
        return self._sessions.get(rpc.metadata_value(context, SESSION_KEY))

    async def _open(self, requests: Requests, context: aio.ServicerContext) -> bytes:
        """Start a session; the answer says how to use it."""
        policy = self._served.policy.config
        session = self._sessions.open(_Session())
        logger.info("%s opened a session, %d of %d.", context.peer(), len(self._sessions), self._config.max_sessions)
        return pack_json(
            {
                "session": session,
                "observation": dataclasses.asdict(self._served.spec),
                "max_message_bytes": self._config.max_message_bytes,
                "chunk_size": policy.chunk_size,
                "n_action_steps": policy.n_action_steps,
                "action_dim": policy.action_dim,
            }
        )

    async def _reset(self, requests: Requests, context: aio.ServicerContext) -> bytes:
        """Forget the actions that were predicted and not sent; an episode starts."""
        session = self._session(context)
        async with session.lock:
            session.actions.clear()
            session.ensemble = None
            # A new one: a prediction that is under way may still write to the old.
            session.cameras = SceneCameras()
        return b""

    async def _select_action(self, requests: Requests, context: aio.ServicerContext) -> bytes:
        """Send the next action (A,) and how many are ``queued`` behind it; while some are, no observation is needed."""
        session = self._session(context)
        message = await rpc.only_message(requests)
        async with session.lock:
            if not session.actions:
                if not message:
                    raise rpc.RequestError(
                        grpc.StatusCode.FAILED_PRECONDITION, "No action is queued; the request needs an observation."
                    )
                chunk_TA = await self._predict(message, session.cameras)
                # Only now: a request that is given up while the policy computes leaves the queue as it was.
                policy = self._served.policy.config
                if policy.temporal_ensemble_coeff is None:
                    session.actions.extend(chunk_TA[: policy.n_action_steps])
                else:
                    session.ensemble = session.ensemble or Ensemble(policy)
                    # In the robot's units: an average of what was normalized is the normalized average.
                    session.actions.append(session.ensemble.next_action(torch.from_numpy(chunk_TA)[None])[0].numpy())
            action_A = session.actions.popleft()
            return pack({"action": action_A, "queued": np.array([len(session.actions)])})

    async def _predict_action_chunk(self, requests: Requests, context: aio.ServicerContext) -> bytes:
        """Send a chunk of actions (T, A); the queue stays as it is."""
        session = self._session(context)
        return pack({"action": await self._predict(await rpc.only_message(requests), session.cameras)})

    async def _close(self, requests: Requests, context: aio.ServicerContext) -> bytes:
        """End the session that the client names, so that its place is free for another."""
        self._sessions.close(rpc.metadata_value(context, SESSION_KEY))
        return b""

    async def _predict(self, message: bytes, cameras: SceneCameras) -> np.ndarray:
        observation: dict[str, Any] = dict(unpack(message))
        if TASK_KEY in observation:
            try:
                observation[TASK_KEY] = observation[TASK_KEY].tobytes().decode()
            except UnicodeDecodeError as error:
                raise MessageError(f"{TASK_KEY} is not UTF-8: {error}") from error
        self._served.spec.check(observation)
        return await self._thread.run(self._served.predict, observation, cameras)


@contextlib.asynccontextmanager
async def running(served: ServedPolicy, config: ServerConfig) -> AsyncIterator[int]:
    """Serve until the block ends; gives the port.

    Raises:
        ServingError: If the address can't be had.
    """
    thread = PolicyThread()
    server = aio.server(
        options=[
            ("grpc.max_receive_message_length", config.max_message_bytes),
            ("grpc.max_send_message_length", -1),
            # A small compressed message can hold a huge one, and gRPC limits only the size it arrives with.
            ("grpc.per_message_decompression", 0),
            # Otherwise a second server on the same port starts without an error, and gets half of the clients.
            ("grpc.so_reuseport", 0),
            # Robots that lost their network are noticed, and their requests given up.
            ("grpc.keepalive_time_ms", 20_000),
            ("grpc.keepalive_timeout_ms", 10_000),
        ],
        maximum_concurrent_rpcs=4 * config.max_sessions,
    )
    handlers = [PolicyService(served, config, thread).handlers()]
    if config.stock_client:
        # LeRobot's server creates a folder for its log when it is imported.
        from .stock_client import StockClientService

        handlers.append(StockClientService(served, config, thread).handlers())
    server.add_generic_rpc_handlers(handlers)
    try:
        port = server.add_insecure_port(config.address)
    except RuntimeError as error:
        raise ServingError(
            f"Can't listen on --host={config.host} --port={config.port}: the port is in use (--port=0 picks a free "
            "one), or the address is not one of this machine."
        ) from error
    await server.start()
    try:
        yield port
    finally:
        await server.stop(grace=1)
        thread.close()


def serve(config: ServerConfig) -> None:
    """Load a checkpoint and serve it until the process is interrupted.

    Args:
        config: Valid settings.

    Raises:
        ServingError: If the checkpoint or the address can't be had.
    """
    asyncio.run(_serve(ServedPolicy.load(config.checkpoint, config.device), config))


async def _serve(served: ServedPolicy, config: ServerConfig) -> None:
    async with running(served, config) as port:
        logger.info(
            "Serving %s on %s, port %d%s.",
            config.checkpoint,
            config.host,
            port,
            ", also to LeRobot's own robot client" if config.stock_client else "",
        )
        if not config.is_loopback:
            logger.warning("Other machines can connect; the token and all images travel unencrypted.")
        await asyncio.Event().wait()
