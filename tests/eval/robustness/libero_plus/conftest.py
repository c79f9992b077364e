"""Fixtures of the tests of LIBERO-Plus."""

from tests.libero.conftest import suite

__all__ = ["suite"]
