"""Tells, in one sentence, which extra of this distribution has a package that is missing."""

import importlib.util


class MissingExtraError(ModuleNotFoundError):
    """A package of an extra is not installed; the message has the command that installs it."""


def require(module: str, extra: str, user: str) -> None:
    """Refuse to start something whose packages are not there.

    Args:
        module: Top-level module that it needs, such as ``h5py``.
        extra: Extra of ``lerobot_policy_atlasvla`` that brings it, such as ``libero``.
        user: What needs it, at the beginning of the message.

    Raises:
        MissingExtraError: If the module is not installed.
    """
    if importlib.util.find_spec(module) is None:
        raise MissingExtraError(
            f"{user} needs {module}, which is not installed. Run `pip install 'lerobot_policy_atlasvla[{extra}]'`",
            name=module,
        )
