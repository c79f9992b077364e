"""Sizes of networks: which are allowed, and what memory they come to."""
