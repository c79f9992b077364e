"""How a frozen backbone is run: in its own dtype, and with a graph only if something before it learns."""

from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter

import torch
from torch import Tensor, nn

from .parameter_list import parameters_of

_LEARNS = attrgetter("requires_grad")


def freeze(module: nn.Module) -> None:
    """Take a module out of training: no gradients for its parameters, eval mode."""
    module.requires_grad_(False).eval()


def is_frozen(module: nn.Module) -> bool:
    """Whether no parameter of the module learns (adapters put inside it, such as LoRA's, count)."""
    return not any(map(_LEARNS, parameters_of(module)))


@contextmanager
def running(module: nn.Module, *inputs: Tensor | None) -> Iterator[None]:
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
