"""Freeze backbones, and run frozen ones in their own dtype, with a graph only if something before them learns."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from operator import attrgetter, is_
from typing import Any

import torch
from torch import Tensor, nn

_LEARNS = attrgetter("requires_grad")
_NAME = "_parameter_list"


def freeze(module: nn.Module) -> None:
    """Take a module out of training: no gradients for its parameters, eval mode."""
    module.requires_grad_(False).eval()


def is_frozen(module: nn.Module) -> bool:
    """Return whether no parameter of the module learns (adapters put inside it, such as LoRA's, count)."""
    parameters = parameters_of(module)
    if torch.compiler.is_compiling():
        # The compiler can't trace attrgetter, and would cut the model into pieces here.
        return not any(parameter.requires_grad for parameter in parameters)
    return not any(map(_LEARNS, parameters))


@contextmanager
def frozen_forward(module: nn.Module, *inputs: Tensor | None) -> Iterator[None]:
    """Run a backbone's forward pass inside this.

    One that learns runs as the host wants it (grad mode, autocast). A frozen one computes in the dtype of its weights,
    whatever autocast the host is in, and builds a graph only when one of ``inputs`` needs a gradient.
    """
    tensors = [tensor for tensor in inputs if tensor is not None]
    device = tensors[0].device.type
    # First the question that costs nothing: without either, it makes no difference who is frozen.
    host_asks = torch.is_grad_enabled() or torch.is_autocast_enabled(device)
    if not host_asks or not is_frozen(module):
        yield
        return
    graph = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    with torch.set_grad_enabled(graph), torch.autocast(device, enabled=False):
        yield


def parameters_of(module: nn.Module) -> tuple[nn.Parameter, ...]:
    """Return what ``module.parameters()`` gives, some twenty times faster from the second call on.

    It is as exact: a parameter or a child that was added, replaced or removed, such as by an adapter, is noticed.
    """
    if torch.compiler.is_compiling():
        # The compiler walks once, while it traces, and guards what it has found.
        return tuple(module.parameters())
    known = vars(module).get(_NAME)
    if known is None:
        known = vars(module)[_NAME] = _ParameterList()
    return known.of(module)


class _ParameterList:
    """Remembers the registries of all parameters and children below a module, and what was registered there."""

    def __init__(self) -> None:
        self._registries: list[dict[str, Any]] = []
        self._members: list[Any] = []
        self._parameters: tuple[nn.Parameter, ...] = ()

    def of(self, module: nn.Module) -> tuple[nn.Parameter, ...]:
        """The parameters of ``module``, always the same one."""
        # No Python code per member: VGGT-1B has 1068 modules and 1306 parameters, and this runs in every forward pass.
        found = list(chain.from_iterable(map(dict.values, self._registries)))
        if not found or len(found) != len(self._members) or not all(map(is_, found, self._members)):
            below = list(module.modules())
            self._registries = [registry for one in below for registry in (one._modules, one._parameters)]
            self._members = list(chain.from_iterable(map(dict.values, self._registries)))
            self._parameters = tuple(module.parameters())
        return self._parameters

    def __reduce__(self) -> tuple[Callable[[], Any], tuple[()]]:
        # Copies and pickles of the module make their own list.
        return (_ParameterList, ())
