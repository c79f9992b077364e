"""Pickles that robots send are read; pickles that do something are not, and do nothing."""

import builtins
import contextlib
import os
import pickle
import struct
import subprocess

import numpy as np
import pytest
import torch
from lerobot.async_inference import helpers

from lerobot_atlasvla.serving.restricted_pickle import Array, RemotePolicyConfig, TimedObservation, load_message
from lerobot_atlasvla.serving.wire import MessageError

FEATURES = {"observation.state": {"dtype": "float32", "shape": (2,), "names": ["a.pos", "b.pos"]}}
IMAGE = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)


def observation(**values) -> helpers.TimedObservation:
    return helpers.TimedObservation(timestamp=1.5, timestep=3, observation=values, must_go=True)


class Reduces:
    """Pickles as a call."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


class SetsState:
    def __init__(self, function, arguments, state):
        self.parts = (function, arguments, state)

    def __reduce__(self):
        return self.parts


@pytest.mark.parametrize("protocol", [4, 5])
def test_what_robots_send_is_read(protocol):
    values = {
        "a.pos": 1.25,
        "b.pos": np.float32(2.5),
        "c.pos": np.float64(-1),
        "count": 300_000,
        "image": IMAGE,
        "flipped": IMAGE[:, ::-1],
        "columns": np.asfortranarray(IMAGE),
        "task": "put the bowl on the plate",
    }
    sent = observation(**values)
    got = load_message(pickle.dumps(sent, protocol=protocol), TimedObservation).fields
    assert (got["timestamp"], got["timestep"], got["must_go"]) == (1.5, 3, True)
    assert got["observation"].keys() == values.keys()
    for name, value in values.items():
        read = got["observation"][name]
        if isinstance(value, np.generic | np.ndarray):
            assert isinstance(read, Array)
            np.testing.assert_array_equal(read.value, value)
            assert read.value.dtype == value.dtype
        else:
            assert read == value

    asked = helpers.RemotePolicyConfig("atlasvla", "user/model", FEATURES, 10, "cuda")
    got = load_message(pickle.dumps(asked, protocol=protocol), RemotePolicyConfig).fields
    assert got == vars(asked)


def test_the_pickles_of_the_default_protocol_are_accepted():
    assert pickle.DEFAULT_PROTOCOL >= 4


MARKER = "marker"
HOSTILE = {
    "os.system": Reduces(os.system, (f"touch {MARKER}",)),
    "subprocess": Reduces(subprocess.Popen, (["touch", MARKER],)),
    "eval": Reduces(eval, (f"open({MARKER!r}, 'w')",)),
    "exec": Reduces(exec, (f"open({MARKER!r}, 'w')",)),
    "open": Reduces(open, (MARKER, "w")),
    "getattr": Reduces(getattr, ("text", "upper")),
    "import": Reduces(builtins.__import__, ("antigravity",)),
    "inside an observation": observation(a=Reduces(os.system, (f"touch {MARKER}",))),
    "inside instructions": helpers.RemotePolicyConfig(
        "atlasvla", Reduces(os.system, (f"touch {MARKER}",)), FEATURES, 1
    ),
    "as a key": {Reduces(os.system, (f"touch {MARKER}",)): 1},
    "torch.load": Reduces(torch.storage._load_from_bytes, (pickle.dumps(Reduces(os.system, (f"touch {MARKER}",))),)),
    "tensor": observation(a=torch.zeros(2)),
    "pickle.loads": Reduces(pickle.loads, (pickle.dumps(Reduces(os.system, (f"touch {MARKER}",))),)),
    "numpy.load": Reduces(np.load, (MARKER,)),
    "object array": observation(a=np.array([Reduces(os.system, (f"touch {MARKER}",))], dtype=object)),
    "structured array": observation(a=np.zeros(2, dtype=[("x", "f4")])),
    "text array": observation(a=np.array(["text"])),
    "big-endian array": observation(a=np.zeros(2, dtype=">f4")),
    "another class of LeRobot's": helpers.TimedAction(1.0, 1, torch.zeros(2)),
    "a call's result and its state": SetsState(os.system, (f"touch {MARKER}",), {"observation": 1}),
    "plain data": {"observation": 1},
    "none": None,
}


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("case", HOSTILE)
def test_nothing_else_is_read_and_nothing_runs(case, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickled = pickle.dumps(HOSTILE[case], protocol=protocol)
    for kind in (TimedObservation, RemotePolicyConfig):
        with pytest.raises(MessageError) as caught:
            load_message(pickled, kind)
        assert len(str(caught.value)) < 1000
    assert not list(tmp_path.iterdir())


def string(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


def named(module: str, name: str) -> bytes:
    return string(module) + string(name) + b"\x93"


HELPERS = "lerobot.async_inference.helpers"
NDARRAY = named("numpy", "ndarray")
RECONSTRUCT = named("numpy._core.multiarray", "_reconstruct")
U1 = named("numpy", "dtype") + string("u1") + b"\x85R"


def array_state(shape: bytes, content: bytes = b"C\x04abcd", dtype: bytes = U1) -> bytes:
    """A pickle's instructions for an array with this state."""
    return (
        RECONSTRUCT
        + b"("
        + NDARRAY
        + b"K\x00\x85C\x01bt"
        + b"R"
        + b"(K\x01"
        + shape
        + dtype
        + b"\x89"
        + content
        + b"tb"
    )


RAW = {
    "a shape larger than the content": array_state(b"\x8a\x05\x00\x00\x00\x00\x10\x85"),
    "a shape that multiplies to more": array_state(b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86"),
    "a negative length": array_state(b"J\xff\xff\xff\xff\x85"),
    "a shape of floats": array_state(b"G" + struct.pack(">d", 4.0) + b"\x85"),
    "no content": array_state(b"K\x04\x85", b"N"),
    "content that is a list": array_state(b"K\x04\x85", b"]"),
    "a dtype that is text": array_state(b"K\x04\x85", dtype=string("u1")),
    "a dtype of objects": named("numpy", "dtype") + string("O") + b"\x85R",
    "a dtype whose name is a list": named("numpy", "dtype") + b"]\x85R",
    "a state on a class": named(HELPERS, "TimedObservation") + b"}" + string("__init__") + b"K\x01s\x86b",
    "an attribute on a class": named(HELPERS, "TimedObservation") + b"N}" + string("fields") + b"K\x01s\x86b",
    "an attribute on a message": named(HELPERS, "TimedObservation")
    + b")\x81N}"
    + string("__class__")
    + NDARRAY
    + b"s\x86b",
    "a name with dots": named("numpy", "dtype.__init__.__globals__"),
    "a memo of 64 GB": b"Nr\xff\xff\xff\xff",
    "text longer than the pickle": b"X\xff\xff\xff\x7fab",
    "bytes longer than the pickle": b"B\xff\xff\xff\x7fab",
    "bytes of 2**62": b"\x8e" + struct.pack("<Q", 2**62) + b"ab",
    "a bytearray of 2**62": b"\x96" + struct.pack("<Q", 2**62) + b"ab",
    "a frame of 2**62": b"\x95" + struct.pack("<Q", 2**62) + b"N",
    "a persistent id": string("id") + b"Q",
    "a registered extension": b"\x82\x01",
    "tuples too deep to hash": b"}" + b")" + b"\x85" * 200_000 + b"Ns",
    "an empty stack": b"0",
    "an unhashable key": b"}]Ns",
    "nothing": b"",
}


@pytest.mark.parametrize("case", RAW)
def test_malformed_pickles_end_in_an_error_and_nothing_worse(case):
    kept = dict(vars(TimedObservation))
    with pytest.raises(MessageError):
        load_message(b"\x80\x04" + RAW[case] + b".", TimedObservation)
    assert dict(vars(TimedObservation)) == kept


def test_random_bytes_and_damaged_messages_end_in_an_error_or_a_message():
    random = np.random.default_rng(0)
    good = pickle.dumps(observation(a=1.0, image=IMAGE, task="x"))
    for _ in range(2000):
        damaged = bytearray(good)
        for _ in range(random.integers(1, 4)):
            damaged[random.integers(len(damaged))] = random.integers(256)
        with contextlib.suppress(MessageError):
            assert type(load_message(bytes(damaged), TimedObservation)) is TimedObservation
    for _ in range(500):
        with pytest.raises(MessageError):
            load_message(random.bytes(random.integers(1, 200)), TimedObservation)
