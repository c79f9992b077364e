import pytest

from tests.helpers.geometry.dataset import write_geometry_dataset


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    return write_geometry_dataset(tmp_path_factory.mktemp("data") / "geometry", episodes=3, frames=2)
