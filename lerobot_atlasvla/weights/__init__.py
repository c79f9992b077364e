"""Weights on disk and on the Hub: pretrained backbones, checkpoints, adapters and the card of a pushed checkpoint."""
