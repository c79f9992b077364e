"""The robot's side of the policy server: a policy that computes on another machine.

::

    from lerobot.utils.constants import OBS_STR
    from lerobot.utils.feature_utils import build_dataset_frame, hw_to_dataset_features
    from lerobot_atlasvla.serving.client import PolicyClient

    robot.connect()
    features = hw_to_dataset_features(robot.observation_features, OBS_STR)
    with PolicyClient("127.0.0.1:8080") as policy:
        policy.reset()  # an episode starts
        for _ in range(300):
            frame = build_dataset_frame(features, robot.get_observation(), OBS_STR)
            action = policy.select_action({**frame, "task": "put the bowl on the plate"})
            robot.send_action(dict(zip(robot.action_features, action.tolist(), strict=True)))

On the machine with the GPU: ``python -m lerobot_atlasvla.policy_server --checkpoint=user/model --device=cuda``, and on
the robot a tunnel to it: ``ssh -L 8080:127.0.0.1:8080 gpu-machine``. Without a tunnel the server needs ``--host=0.0.0.0
--token=SECRET`` and the client ``PolicyClient("gpu-machine:8080", token="SECRET")``; token and images then travel
unencrypted.
"""

from collections.abc import Mapping
from typing import Any, Self

import grpc
import numpy as np
import torch
from torch import Tensor

from .observation_spec import ObservationError, ObservationSpec
from .wire import SERVICE, SESSION_KEY, TASK_KEY, TOKEN_KEY, pack, unpack, unpack_json


class PolicyServerError(RuntimeError):
    """The server refused a request or can't be reached.

    Attributes:
        code: gRPC's name for the kind of error, such as ``UNAUTHENTICATED`` or ``INVALID_ARGUMENT``.
    """

    def __init__(self, code: str, text: str):
        super().__init__(f"{text} ({code})")
        self.code = code


class PolicyClient:
    """A session with a policy server; has the methods of a policy that a robot loop calls.

    Observations are those of one time step, without a batch axis, arrays or tensors by the policy's keys:
    ``observation.images.*`` as cameras deliver them, uint8 (H, W, 3), or as datasets hold them, float (3, H, W) in
    [0, 1]; ``observation.state`` (N,) in the units of the training data; ``task``, the instruction. Entries that the
    policy does not read are not sent. No pre- or postprocessing is needed: the server has the checkpoint's.

    Args:
        address: Host and port of the server.
        token: The server's ``--token``.
        timeout_s: Time limit of each call, seconds.

    Raises:
        PolicyServerError: If there is no server, or it refuses.
    """

    def __init__(self, address: str = "127.0.0.1:8080", token: str | None = None, *, timeout_s: float = 30.0):
        self._address = address
        self._timeout_s = timeout_s
        self._token = () if token is None else ((TOKEN_KEY, f"Bearer {token}"),)
        self._session: tuple[tuple[str, str], ...] = ()
        # Actions of the last chunk that the server holds for this client.
        self._queued = 0
        self._closed = False
        self._channel = grpc.insecure_channel(
            address,
            options=[
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
                # A proxy for web pages is not the way to a robot's server.
                ("grpc.enable_http_proxy", 0),
                # Each client has its own connection, also among others in the same process.
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )
        try:
            self._open()
        except BaseException:
            self._channel.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def reset(self) -> None:
        """Start an episode: actions that were predicted and not executed are dropped.

        A session that the server has forgotten meanwhile is opened again.

        Raises:
            PolicyServerError: If the server can't be reached or has no room.
        """
        self._queued = 0
        try:
            self._call("Reset")
        except PolicyServerError as error:
            if error.code != grpc.StatusCode.NOT_FOUND.name:
                raise
            self._open()

    def select_action(self, observation: Mapping[str, Any]) -> Tensor:
        """Return the next action (A,) in the robot's units, float32; the policy runs every ``n_action_steps`` calls.

        In between, the observation is neither sent nor checked.

        Raises:
            ObservationError: If the observation does not fit the policy.
            PolicyServerError: If the server refuses or can't be reached.
        """
        message = b"" if self._queued else self._pack(observation)
        self._queued = 0  # also after an error, when it is not known
        answer = unpack(self._call("SelectAction", message))
        self._queued = int(answer["queued"].item())
        return torch.from_numpy(answer["action"].copy())

    def predict_action_chunk(self, observation: Mapping[str, Any]) -> Tensor:
        """Return a chunk of actions (``chunk_size``, A) in the robot's units, float32; the queue stays as it is.

        Raises:
            ObservationError: If the observation does not fit the policy.
            PolicyServerError: If the server refuses or can't be reached.
        """
        return torch.from_numpy(unpack(self._call("PredictActionChunk", self._pack(observation)))["action"].copy())

    def close(self) -> None:
        """End the session; a server that is gone already is no error, and a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            self._call("Close")
        except PolicyServerError:
            pass
        finally:
            self._channel.close()

    def _open(self) -> None:
        answer = unpack_json(self._call("Open"))
        self._session = ((SESSION_KEY, str(answer["session"])),)
        self._spec = ObservationSpec.from_json(answer["observation"])
        self._max_message_bytes = int(answer["max_message_bytes"])
        self.chunk_size = int(answer["chunk_size"])
        self.n_action_steps = int(answer["n_action_steps"])
        self.action_dim = int(answer["action_dim"])

    def _pack(self, observation: Mapping[str, Any]) -> bytes:
        """The entries that the policy reads, checked, as a message."""
        arrays = {key: _array(observation[key]) for key in self._spec.keys if key in observation}
        task = {TASK_KEY: observation[TASK_KEY]} if TASK_KEY in observation else {}
        self._spec.check(arrays | task)
        message = pack(arrays | {TASK_KEY: np.frombuffer(task[TASK_KEY].encode(), np.uint8)})
        if len(message) > self._max_message_bytes:
            raise ObservationError(
                f"The observation has {len(message)} bytes; the server takes {self._max_message_bytes} "
                "(--max_message_mb)."
            )
        return message

    def _call(self, method: str, message: bytes = b"") -> bytes:
        try:
            return self._channel.unary_unary(f"/{SERVICE}/{method}")(
                message, timeout=self._timeout_s, metadata=self._token + self._session
            )
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            text = f"The policy server at {self._address}: {error.details()}"
            raise PolicyServerError(code.name, text) from None


def _array(value: Any) -> np.ndarray:
    """An array on the CPU; floating-point numbers of any precision become float32."""
    array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    return array.astype(np.float32, copy=False) if array.dtype.kind == "f" else array
