import pytest

from lerobot_atlasvla.serving.served_policy import ServedPolicy
from tests.helpers.released import save_checkpoint
from tests.serving.helpers import Local, serving


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("served"), n_action_steps=4)


@pytest.fixture(scope="session")
def served(checkpoint):
    return ServedPolicy.load(str(checkpoint), "cpu")


@pytest.fixture(scope="session")
def local(checkpoint):
    return Local(checkpoint)


@pytest.fixture(scope="module")
def address(served):
    with serving(served) as address:
        yield address
