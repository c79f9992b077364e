"""Our client and server over a real socket, and whatever else may connect to it."""

import contextlib
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import grpc
import numpy as np
import pytest
import torch

from lerobot_atlasvla.serving import server
from lerobot_atlasvla.serving.client import PolicyClient, PolicyServerError
from lerobot_atlasvla.serving.observation_spec import ObservationError
from lerobot_atlasvla.serving.served_policy import ServedPolicy
from lerobot_atlasvla.serving.sessions import Sessions
from lerobot_atlasvla.serving.wire import SERVICE, unpack
from tests.conftest import ACTION_DIM, CHUNK, IMAGE, STATE, WRIST
from tests.helpers.released import save_checkpoint
from tests.serving.helpers import PATIENCE_S, Local, RawClient, observe, packed, serving


@pytest.fixture
def raw(address):
    """A client in a session of its own."""
    with RawClient(address) as client:
        client.open()
        yield client


TASKS = ("open the drawer", "put the bowl on the plate", "turn on the stove", "close the cabinet")


def test_actions_are_those_of_a_local_policy(address, local):
    local.policy.reset()
    with PolicyClient(address) as client:
        assert (client.chunk_size, client.n_action_steps, client.action_dim) == (CHUNK, 4, ACTION_DIM)
        for step in range(6):
            action = client.select_action(observe(step))
            assert action.dtype == torch.float32
            torch.testing.assert_close(action, local.select_action(observe(step)))
        chunk = client.predict_action_chunk(observe(9))
        assert chunk.shape == (CHUNK, ACTION_DIM)
        torch.testing.assert_close(chunk, local.chunk(observe(9)))
        # The queue goes on where it was, until the episode ends.
        torch.testing.assert_close(client.select_action(observe(6)), local.select_action(observe(6)))
        client.reset()
        torch.testing.assert_close(client.select_action(observe(7)), local.chunk(observe(7))[0])


def test_closing_twice_is_no_error(address):
    with PolicyClient(address) as client:
        client.close()


def test_chunks_are_averaged_per_client_as_a_local_policy_does(tmp_path):
    checkpoint = save_checkpoint(tmp_path, n_action_steps=1, temporal_ensemble_coeff=0.2)
    local = Local(checkpoint)
    local.policy.reset()
    expected = [local.select_action(observe(step)) for step in range(4)]
    with (
        serving(ServedPolicy.load(str(checkpoint), "cpu")) as address,
        PolicyClient(address) as one,
        PolicyClient(address) as other,
    ):
        for step in range(4):
            torch.testing.assert_close(one.select_action(observe(step)), expected[step])
            if step > 1:
                torch.testing.assert_close(other.select_action(observe(step - 2)), expected[step - 2])
        one.reset()
        torch.testing.assert_close(one.select_action(observe(0)), expected[0])


def test_tensors_as_datasets_hold_them_give_the_same_actions(address):
    seen = observe(1)
    floats = {key: torch.from_numpy(seen[key]).permute(2, 0, 1).float() / 255 for key in (IMAGE, WRIST)}
    other = floats | {STATE: seen[STATE].astype(np.float64).tolist(), "task": seen["task"], "frame_index": 3}
    with PolicyClient(address) as client:
        assert torch.equal(client.predict_action_chunk(other), client.predict_action_chunk(seen))


def test_eight_clients_at_once_beside_slow_and_vanishing_ones(served, checkpoint):
    """Each gets the actions of its own observations, step by step over two episodes."""
    steps, episodes = 9, 2

    def seen(robot: int, episode: int, step: int) -> dict:
        return observe(1000 * robot + 100 * episode + step, TASKS[robot % len(TASKS)])

    local = Local(checkpoint)
    expected = {}
    for robot in range(8):
        for episode in range(episodes):
            local.policy.reset()
            for step in range(steps):
                expected[robot, episode, step] = local.select_action(seen(robot, episode, step))

    def drive(address: str, robot: int) -> None:
        with PolicyClient(address) as client:
            for episode in range(episodes):
                client.reset()
                for step in range(steps):
                    action = client.select_action(seen(robot, episode, step))
                    torch.testing.assert_close(action, expected[robot, episode, step])

    stop = threading.Event()

    def never_done():
        stop.wait()
        yield b""

    def vanish(address: str) -> int:
        count = 0
        while not stop.is_set():
            raw = RawClient(address)
            raw.open()
            raw.channel.unary_unary(f"/{SERVICE}/SelectAction").future(packed(observe(count)), metadata=raw.metadata)
            time.sleep(0.005 * (1 + count % 5))
            raw.channel.close()
            count += 1
        return count

    with serving(served, max_sessions=10_000) as address, ThreadPoolExecutor(12) as threads:
        slow = RawClient(address)
        slow.open()
        stuck = [  # holds the calls, which would end with their futures
            slow.channel.stream_unary(f"/{SERVICE}/{method}").future(never_done(), metadata=slow.metadata)
            for method in ("SelectAction", "PredictActionChunk", "Open", "Reset") * 5
        ]
        try:
            vanishing = [threads.submit(vanish, address) for _ in range(2)]
            robots = [threads.submit(drive, address, robot) for robot in range(8)]
            for robot in robots:
                robot.result(timeout=PATIENCE_S)
        finally:
            stop.set()
        assert all(future.result() > 0 for future in vanishing)
        del stuck
        slow.channel.close()


def test_one_client_that_calls_twice_at_once_gets_each_action_once(raw, local):
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: unpack(raw("SelectAction", packed(observe(5)))), range(8)))
    chunk = local.chunk(observe(5))[:4]
    expected = sorted(action.tolist() for action in torch.cat([chunk, chunk]))
    got = sorted(answer["action"].tolist() for answer in answers)
    torch.testing.assert_close(torch.tensor(got), torch.tensor(expected))
    # Two chunks were predicted, the second when the first was used up.
    assert sorted(answer["queued"].item() for answer in answers) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_call_given_up_by_the_client_takes_no_action_away(served, local, monkeypatch):
    predict, entered, go_on = served.predict, threading.Event(), threading.Event()

    def slowly(*arguments):
        entered.set()
        assert go_on.wait(PATIENCE_S)
        return predict(*arguments)

    monkeypatch.setattr(served, "predict", slowly)
    with serving(served) as address:
        raw = RawClient(address)
        raw.open()
        call = raw.channel.unary_unary(f"/{SERVICE}/SelectAction").future(packed(observe(1)), metadata=raw.metadata)
        assert entered.wait(PATIENCE_S)
        call.cancel()
        go_on.set()
        answer = unpack(raw("SelectAction", packed(observe(2))))
    torch.testing.assert_close(torch.from_numpy(answer["action"].copy()), local.chunk(observe(2))[0])


def test_requests_have_a_time_limit_and_slow_uploads_count(served, monkeypatch):
    wait = threading.Event()
    monkeypatch.setattr(served, "predict", lambda *_: wait.wait())

    def never_done():
        wait.wait()
        yield b""

    with serving(served, request_timeout_s=0.2) as address:
        try:
            raw = RawClient(address)
            while not raw.metadata:  # on a busy machine even this can take longer
                with contextlib.suppress(grpc.RpcError):
                    raw.open()
            assert raw.error("PredictActionChunk", packed(observe(1)))[0] == "DEADLINE_EXCEEDED"
            with pytest.raises(grpc.RpcError, match=r"took longer than 0\.2 s") as caught:
                raw.channel.stream_unary(f"/{SERVICE}/SelectAction")(
                    never_done(), metadata=raw.metadata, timeout=PATIENCE_S
                )
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        finally:
            wait.set()


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass for the server's sessions only when a test says so."""
    now = [0.0]
    monkeypatch.setattr(server, "Sessions", partial(Sessions, clock=lambda: now[0]))
    return now


def test_sessions_are_bounded_unguessable_and_expire(served, clock):
    with serving(served, max_sessions=2, session_idle_s=60.0) as address:
        first, second, third = (RawClient(address) for _ in range(3))
        assert len({first.open(), second.open()}) == 2
        assert all(len(client.metadata[0][1]) >= 43 for client in (first, second))
        code, text = third.error("Open")
        assert code == "RESOURCE_EXHAUSTED"
        assert "--max_sessions" in text
        # Nobody's session was taken; closing one makes room.
        first("Reset")
        second("Close")
        third.open()
        assert second.error("Reset")[0] == "NOT_FOUND"
        with pytest.raises(PolicyServerError, match="RESOURCE_EXHAUSTED"):
            PolicyClient(address)
        clock[0] += 61
        code, text = first.error("SelectAction", packed(observe(1)))
        assert code == "NOT_FOUND"
        assert "--session_idle_s" in text


def test_an_expired_client_goes_on_at_its_next_episode(served, local, clock):
    with serving(served, session_idle_s=60.0) as address, PolicyClient(address) as client:
        client.select_action(observe(1))
        clock[0] += 61
        with pytest.raises(PolicyServerError, match="NOT_FOUND"):
            client.select_action(observe(2))
        client.reset()
        torch.testing.assert_close(client.select_action(observe(3)), local.chunk(observe(3))[0])


def test_sessions_in_use_do_not_expire():
    now = [0.0]
    sessions = Sessions(1, 10, clock=lambda: now[0])
    session = sessions.open("robot")
    for _ in range(5):
        now[0] += 9
        assert sessions.get(session) == "robot"
    now[0] += 10
    assert sessions.open("another") != session
    assert len(sessions) == 1


def test_a_client_that_lost_an_answer_sends_an_observation_again(address, local, monkeypatch):
    with PolicyClient(address) as client:
        client.select_action(observe(1))
        with monkeypatch.context() as patched:
            patched.setattr(client, "_timeout_s", -1.0)
            with pytest.raises(PolicyServerError, match="DEADLINE_EXCEEDED"):
                client.select_action(observe(1))
        # Whether the server holds more actions of the chunk or not: its answer counts.
        for expected in local.chunk(observe(1))[1:4]:
            torch.testing.assert_close(client.select_action(observe(1)), expected)
        torch.testing.assert_close(client.select_action(observe(2)), local.chunk(observe(2))[0])


@pytest.mark.parametrize("method", ["SelectAction", "PredictActionChunk", "Reset"])
def test_without_a_session_nothing_is_computed(address, method):
    assert RawClient(address).error(method, packed(observe(1)))[0] == "NOT_FOUND"


@pytest.mark.parametrize("token", [None, "wrong", "secre", "secret2", "", "Secret"])
def test_a_wrong_token_is_turned_away(served, token):
    with serving(served, host="127.0.0.1", token="secret") as address:
        raw = RawClient(address, token)
        # Every method, before anything else is looked at.
        assert {
            raw.error(method, b"x")[0] for method in ("Open", "Reset", "SelectAction", "PredictActionChunk", "Close")
        } == {"UNAUTHENTICATED"}
        with pytest.raises(PolicyServerError, match="--token") as caught:
            PolicyClient(address, token)
        assert caught.value.code == "UNAUTHENTICATED"


def test_other_addresses_with_the_token(served, local):
    with serving(served, host="0.0.0.0", token="secret") as address, PolicyClient(address, "secret") as client:
        torch.testing.assert_close(client.predict_action_chunk(observe(1)), local.chunk(observe(1)))


def huge_header(shape: str, dtype: str = "U8") -> bytes:
    header = f'{{"{IMAGE}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,4]}}}}'.encode()
    return struct.pack("<Q", len(header)) + header + bytes(4)


def test_with_nothing_queued_an_observation_is_needed(raw):
    assert raw.error("SelectAction")[0] == "FAILED_PRECONDITION"


@pytest.mark.parametrize(
    "message",
    [
        b"\x00" * 7,
        b"garbage" * 1000,
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2**40) + b"{}",
        struct.pack("<Q", 70_000) + b" " * 70_000,
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 60_000) + b"[" * 60_000,
        huge_header("[1000000000000]"),
        huge_header("[4294967296, 4294967296, 3]"),
        huge_header("[18446744073709551615]"),
        huge_header("[-4]"),
        huge_header("[1]", "F8_E4M3"),
        huge_header("[1]", "no such type"),
        b"\x80\x04\x95\x1b\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x02id\x94\x85\x94R\x94.",
    ],
)
def test_garbage_is_refused_in_one_sentence(raw, message):
    code, text = raw.error("SelectAction", message)
    assert code == "INVALID_ARGUMENT"
    assert "safetensors" in text
    assert "Traceback" not in text
    # The session goes on.
    assert unpack(raw("SelectAction", packed(observe(1))))["action"].shape == (ACTION_DIM,)


def test_messages_have_a_size_limit_compressed_or_not(served):
    with serving(served, max_message_mb=1) as address:
        raw = RawClient(address)
        raw.open()
        assert raw.error("SelectAction", bytes(2 << 20))[0] == "RESOURCE_EXHAUSTED"
        # 16 MiB in 16 kB: taken as it came, not unpacked.
        code, text = raw.error("SelectAction", bytes(16 << 20), compression=grpc.Compression.Gzip)
        assert code == "INVALID_ARGUMENT"
        assert int(text.split("message of ")[1].split(" bytes")[0]) < 2**15


def without(key: str) -> dict:
    seen = observe(1)
    del seen[key]
    return seen


UNFIT = {
    "no state": (without(STATE), STATE),
    "no camera": (without(WRIST), WRIST),
    "no task": (without("task"), "task"),
    "another camera": (observe(1) | {"observation.images.front": observe(1)[IMAGE]}, "observation.images.front"),
    "state of another size": (observe(1) | {STATE: np.zeros(7, np.float32)}, STATE),
    "state with a batch axis": (observe(1) | {STATE: np.zeros((1, 8), np.float32)}, STATE),
    "integer state": (observe(1) | {STATE: np.zeros(8, np.int64)}, STATE),
    "float64 state": (observe(1) | {STATE: np.zeros(8)}, STATE),
    "state not a number": (observe(1) | {STATE: np.full(8, np.nan, np.float32)}, f"{STATE} is not finite at index 0"),
    "infinite state": (observe(1) | {STATE: np.array([0] * 7 + [np.inf], np.float32)}, "not finite at index 7"),
    "image of another size": (observe(1) | {IMAGE: np.zeros((16, 16, 3), np.uint8)}, IMAGE),
    "gray image": (observe(1) | {IMAGE: np.zeros((32, 32, 1), np.uint8)}, IMAGE),
    "channels first": (observe(1) | {IMAGE: np.zeros((3, 32, 32), np.uint8)}, IMAGE),
    "no pixels": (observe(1) | {IMAGE: np.zeros((0, 32, 3), np.uint8)}, IMAGE),
    "float image in bytes' range": (observe(1) | {IMAGE: np.full((3, 32, 32), 255, np.float32)}, IMAGE),
    "negative image": (observe(1) | {IMAGE: np.full((3, 32, 32), -0.5, np.float32)}, IMAGE),
    "image not a number": (observe(1) | {WRIST: np.full((3, 32, 32), np.nan, np.float32)}, f"{WRIST} must be in"),
    "long task": (observe(1, "x" * 5000), "task"),
    "names as long as a header": ({f"{'k' * 9000}{i}": np.zeros(1, np.uint8) for i in range(6)}, "lacks"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_observations_that_do_not_fit_are_refused_by_name(raw, case):
    observation, named = UNFIT[case]
    code, text = raw.error("PredictActionChunk", packed(observation))
    assert code == "INVALID_ARGUMENT"
    assert named in text
    assert len(text) <= 1000


def test_a_task_that_is_not_text_is_refused(raw):
    message = packed(without("task") | {"task": np.array([255, 254], np.uint8)})
    code, text = raw.error("PredictActionChunk", message)
    assert code == "INVALID_ARGUMENT"
    assert "task is not UTF-8" in text


def test_the_client_checks_before_it_sends(address):
    with PolicyClient(address) as client:
        for observation, named in (UNFIT["no camera"], UNFIT["state not a number"], UNFIT["image of another size"]):
            with pytest.raises(ObservationError, match=named.replace(".", r"\.")):
                client.select_action(observation)
        for task in (None, 3, "half of a character: \ud83d"):
            with pytest.raises(ObservationError, match="task must be text"):
                client.select_action(observe(1) | {"task": task})


def test_no_server_is_said():
    with pytest.raises(PolicyServerError, match="UNAVAILABLE") as caught:
        PolicyClient("127.0.0.1:9", timeout_s=5)
    assert "127.0.0.1:9" in str(caught.value)
