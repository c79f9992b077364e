"""The policy of a run: a checkpoint, what its views mean, and what is recorded of its training."""
