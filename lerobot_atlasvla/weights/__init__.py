"""Pretrained weights: where they are, and the tensors that are needed of them."""
