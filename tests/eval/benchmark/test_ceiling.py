"""The arithmetic of a call, counted by dtype, and the rate of matrix products."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own alias)

from eval.benchmark.ceiling import DTYPES, floor_s, flops_by_dtype, matmul_flops_per_s


def test_products_convolutions_and_attention_are_counted_by_dtype():
    x, image = torch.randn(4, 6), torch.randn(1, 3, 8, 8)
    layer, convolution = torch.nn.Linear(6, 5), torch.nn.Conv2d(3, 2, 4, stride=4)
    heads = torch.randn(1, 2, 7, 8).bfloat16()

    def call():
        layer(x)
        convolution(image)
        F.scaled_dot_product_attention(heads, heads, heads)

    products, patches, attention = 2 * 4 * 6 * 5, 2 * (2 * 2) * 2 * 3 * 16, 2 * 2 * 2 * 7 * 7 * 8
    with torch.inference_mode():
        assert flops_by_dtype(call) == {"float32": products + patches, "bfloat16": attention}
    assert flops_by_dtype(call) == {"float32": products + patches, "bfloat16": attention}


def test_autocast_counts_as_the_dtype_it_casts_to():
    layer, x = torch.nn.Linear(6, 5), torch.randn(4, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert flops_by_dtype(lambda: layer(x)) == {"bfloat16": 240}


def test_a_compiled_call_is_counted_too():
    layer = torch.nn.Linear(6, 5)
    compiled = torch.compile(layer, backend="eager")
    assert flops_by_dtype(lambda: compiled(torch.randn(4, 6))) == {"float32": 240}


def test_the_floor():
    rates = {"float32": 100.0, "bfloat16": 400.0}
    assert floor_s({"float32": 50, "bfloat16": 100}, rates) == pytest.approx(0.75)
    assert floor_s({}, rates) is None
    assert floor_s({"float64": 1}, rates) is None


def test_the_rate_of_matrix_products(monkeypatch):
    monkeypatch.setattr("eval.benchmark.ceiling.SIDES", {"cpu": (32, 64)})
    for dtype in DTYPES:
        assert 1e6 < matmul_flops_per_s("cpu", dtype, seconds=0.01) < 1e15
