"""How a frozen backbone is run: in its own dtype, and with a graph only if something before it learns."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def freeze(module: nn.Module) -> None:
    """Take a module out of training: no gradients for its parameters, eval mode."""
    module.requires_grad_(False).eval()


def is_frozen(module: nn.Module) -> bool:
    """Whether no parameter of the module learns (adapters put inside it, such as LoRA's, count)."""
    return not any(parameter.requires_grad for parameter in module.parameters())


@contextmanager
def running(module: nn.Module, *inputs: Tensor | None) -> Iterator[None]:
    """Run a backbone's forward pass inside this.

    One that learns runs as the host wants it (grad mode, autocast). A frozen one computes in the dtype of its weights,
    whatever autocast the host is in, and builds a graph only when one of ``inputs`` needs a gradient.
    """
    if not is_frozen(module):
        yield
        return
    tensors = [tensor for tensor in inputs if tensor is not None]
    graph = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    with torch.set_grad_enabled(graph), torch.autocast(tensors[0].device.type, enabled=False):
        yield
