"""LeRobot's own robot client, served through LeRobot's own queueing and prediction but not its unpickling.

The protocol has no session id, so a client is its connection. What it sends is read by :mod:`.restricted_pickle`,
checked, and copied into LeRobot's classes; what it gets is a pickle, as it expects.
"""

import asyncio
import os.path
import pickle
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
from google.protobuf.message import DecodeError
from grpc import aio
from lerobot.async_inference.configs import PolicyServerConfig
from lerobot.async_inference.helpers import TimedAction, TimedObservation
from lerobot.async_inference.policy_server import PolicyServer
from lerobot.transport import services_pb2
from lerobot.utils.constants import OBS_IMAGES, OBS_STATE
from torch import Tensor

from lerobot_atlasvla.model.conditioning.scene_cameras import SceneCameras

from . import restricted_pickle, rpc
from .observation_spec import ObservationError, check_task
from .rpc import RequestError
from .served_policy import ServedPolicy, checked_actions
from .sessions import Sessions
from .settings import ServerConfig
from .wire import TASK_KEY, MessageError

if TYPE_CHECKING:
    from .server import PolicyThread

_SERVICE = "transport.AsyncInference"
# How long a client waits for an observation of its own to come along before it asks again, as in LeRobot.
_OBSERVATION_WAIT_S = 2.0
_LARGEST = float(np.finfo(np.float32).max)

# Generated without type information.
_pb2: Any = services_pb2


class _Robot(PolicyServer):
    """One client of LeRobot's server, on the policy that is served; receives checked messages only.

    Args:
        served: The policy.
        instructions: What the client asked for.
        fps: Control rate, Hz.

    Raises:
        MessageError: If the instructions are malformed.
        RequestError: If they ask for something that this server does not serve.
    """

    def __init__(self, served: ServedPolicy, instructions: restricted_pickle.RemotePolicyConfig, fps: int):
        super().__init__(PolicyServerConfig(fps=fps))
        fields = instructions.fields
        _check_asked_for(served, fields)
        self._served = served
        self.policy = served.policy
        # The protocol starts no episodes: they last as long as what the client has asked for.
        self._scene = SceneCameras()
        self.preprocessor = served.preprocess
        self.postprocessor = served.postprocess
        features = _features(served, fields.get("lerobot_features"))
        self.lerobot_features: Any = features
        self._joints: list[str] = features[OBS_STATE]["names"]
        self._cameras = [key.removeprefix(f"{OBS_IMAGES}.") for key in features if key != OBS_STATE]
        self.actions_per_chunk = min(fields["actions_per_chunk"], served.policy.config.chunk_size)
        self.arrived = asyncio.Event()

    def receive(self, message: restricted_pickle.TimedObservation) -> None:
        """Queue an observation in place of the last one, unless LeRobot finds it too similar to the one before.

        Raises:
            MessageError: If it is malformed.
            ObservationError: If it does not fit the robot that the client described.
        """
        fields = message.fields
        timestamp, timestep, raw = (fields.get(name) for name in ("timestamp", "timestep", "observation"))
        if type(timestamp) is not float or type(timestep) is not int or type(raw) is not dict:
            raise MessageError("TimedObservation must have a float timestamp, an int timestep and a dict observation.")
        observation = self._checked(raw)
        if self._enqueue_observation(TimedObservation(timestamp, timestep, observation, fields.get("must_go") is True)):
            self.arrived.set()

    def next_observation(self) -> TimedObservation:
        """Take the observation that is queued."""
        self.arrived.clear()
        observation = self.observation_queue.get_nowait()
        self._predicted_timesteps.add(observation.get_timestep())
        return observation

    def predict(self, observation: TimedObservation) -> list[TimedAction]:
        """Predict a chunk of actions, as LeRobot does.

        Raises:
            ServingError: If one is not finite.
        """
        actions = self._predict_action_chunk(observation)
        for timed in actions:
            checked_actions(timed.action)
        return actions

    def _get_action_chunk(self, observation: dict[str, Any]) -> Tensor:
        """LeRobot's prediction, with this robot's cameras."""
        return self._served.policy.predict_action_chunk(observation, cameras=self._scene)[:, : self.actions_per_chunk]

    def _checked(self, raw: Mapping[Any, Any]) -> dict[str, Any]:
        """A robot's observation with nothing in it but what the policy reads."""
        missing = [name for name in (*self._joints, *self._cameras, TASK_KEY) if name not in raw]
        if missing:
            raise ObservationError(f"The observation lacks {missing}.")
        observation: dict[str, Any] = {name: _number(name, raw[name]) for name in self._joints}
        observation |= {name: _image(name, raw[name]) for name in self._cameras}
        check_task(raw[TASK_KEY])
        return observation | {TASK_KEY: raw[TASK_KEY]}


class StockClientService:
    """Answers the calls of LeRobot's own robot client over gRPC, with a session for each robot.

    Args:
        served: The policy.
        config: Limits.
        thread: Where the policy computes.
    """

    def __init__(self, served: ServedPolicy, config: ServerConfig, thread: "PolicyThread"):
        self._served = served
        self._config = config
        self._thread = thread
        self._robots: Sessions[_Robot] = Sessions(config.max_sessions, config.session_idle_s)

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return LeRobot's four methods for gRPC."""
        methods = {
            "Ready": self._ready,
            "SendPolicyInstructions": self._instruct,
            "SendObservations": self._observe,
            "GetActions": self._act,
        }
        timeout_s = self._config.request_timeout_s
        return grpc.method_handlers_generic_handler(
            _SERVICE, {name: rpc.handler(answer, timeout_s=timeout_s, token=None) for name, answer in methods.items()}
        )

    async def _ready(self, requests: AsyncIterator[bytes], context: aio.ServicerContext) -> bytes:
        """Forget what this connection asked for before."""
        self._robots.close(context.peer())
        return b""

    async def _instruct(self, requests: AsyncIterator[bytes], context: aio.ServicerContext) -> bytes:
        """Start a session for this connection."""
        pickled = _parsed(_pb2.PolicySetup, await rpc.only_message(requests)).data
        instructions = restricted_pickle.load_message(pickled, restricted_pickle.RemotePolicyConfig)
        self._robots.open(_Robot(self._served, instructions, self._config.fps), context.peer())
        return b""

    async def _observe(self, requests: AsyncIterator[bytes], context: aio.ServicerContext) -> bytes:
        """Receive an observation, which comes in pieces of 2 MB."""
        robot = self._robots.get(context.peer())
        pickled = bytearray()
        async for message in requests:
            piece = _parsed(_pb2.Observation, message)
            pickled += piece.data
            if len(pickled) > self._config.max_message_bytes:
                raise RequestError(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"The observation has more than {self._config.max_message_bytes} bytes (--max_message_mb).",
                )
            if piece.transfer_state == _pb2.TransferState.TRANSFER_END:
                break
        robot.receive(restricted_pickle.load_message(bytes(pickled), restricted_pickle.TimedObservation))
        return b""

    async def _act(self, requests: AsyncIterator[bytes], context: aio.ServicerContext) -> bytes:
        """Send the actions for the newest observation, or nothing if none came in the last two seconds."""
        robot = self._robots.get(context.peer())
        try:
            async with asyncio.timeout(_OBSERVATION_WAIT_S):
                await robot.arrived.wait()
        except TimeoutError:
            return b""
        if robot.observation_queue.empty():  # another call of the same client was quicker
            return b""
        actions = await self._thread.run(robot.predict, robot.next_observation())
        return _pb2.Actions(data=pickle.dumps(actions)).SerializeToString()


def _parsed(kind: Any, message: bytes) -> Any:
    """Read a message as a protocol buffer of one kind.

    Raises:
        MessageError: If it is something else.
    """
    try:
        return kind.FromString(message)
    except DecodeError as error:
        raise MessageError(f"The message is not a {kind.__name__}.") from error


def _check_asked_for(served: ServedPolicy, fields: Mapping[str, Any]) -> None:
    """Refuse another policy than the served one."""
    kind, path = fields.get("policy_type"), fields.get("pretrained_name_or_path")
    count = fields.get("actions_per_chunk")
    if type(kind) is not str or type(path) is not str or type(count) is not int or count < 1:
        raise MessageError(
            "RemotePolicyConfig must have a policy_type, a pretrained_name_or_path and actions_per_chunk of at least 1."
        )
    # Compared as text: what a client names is not looked up on this machine.
    same = path == served.checkpoint or os.path.abspath(path) == os.path.abspath(served.checkpoint)
    if kind != served.policy.config.type or not same:
        raise RequestError(
            grpc.StatusCode.FAILED_PRECONDITION,
            f"This server serves {served.checkpoint!r} of type {served.policy.config.type}, and the client asked for "
            f"{path!r} of type {kind}; start the client with --policy_type={served.policy.config.type} "
            f"--pretrained_name_or_path={served.checkpoint}.",
        )
    if fields.get("rename_map"):
        raise RequestError(
            grpc.StatusCode.FAILED_PRECONDITION,
            "This server does not rename observations; name the robot's cameras as the policy does.",
        )


def _features(served: ServedPolicy, asked: Any) -> dict[str, dict[str, Any]]:
    """The client's description of its robot, reduced to what the policy reads.

    Raises:
        MessageError: If it is malformed.
        ObservationError: If the robot lacks something.
    """
    spec = served.spec
    if type(asked) is not dict or not all(type(value) is dict for value in asked.values()):
        raise MessageError("RemotePolicyConfig.lerobot_features must be a dict of dicts.")
    # LeRobot's prediction always reads a state.
    needed = (*(key for key in spec.cameras if key not in spec.optional), OBS_STATE)
    missing = [key for key in needed if key not in asked]
    if missing:
        raise ObservationError(
            f"The robot has no {missing}; the policy reads {list(spec.keys)}. Name the robot's cameras accordingly "
            "(--robot.cameras)."
        )
    features: dict[str, dict[str, Any]] = {key: {"dtype": "image"} for key in spec.cameras if key in asked}
    names = asked[OBS_STATE].get("names")
    if type(names) is not list or not all(type(name) is str for name in names):
        raise MessageError(f"{OBS_STATE} must have a list of names.")
    if spec.state_dim not in (None, len(names)):
        raise ObservationError(f"{OBS_STATE} must have {spec.state_dim} numbers, the robot has {len(names)}.")
    return features | {OBS_STATE: {"dtype": "float32", "shape": (len(names),), "names": names}}


def _number(name: str, value: Any) -> float:
    if isinstance(value, restricted_pickle.Array) and value.value is not None and value.value.ndim == 0:
        value = value.value.item()
    # The state becomes float32; integers in pickles have any size.
    if type(value) not in (int, float) or not abs(value) <= _LARGEST:
        shown = value if type(value) is float else type(value).__name__
        raise ObservationError(f"{name} must be a number that float32 can hold, got {shown}.")
    return float(value)


def _image(name: str, value: Any) -> np.ndarray:
    image = value.value if isinstance(value, restricted_pickle.Array) else None
    if image is None or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        got = type(value).__name__ if image is None else f"{image.dtype} of shape {image.shape}"
        raise ObservationError(f"{name} must be an image, uint8 of shape (H, W, 3), got {got}.")
    return image
