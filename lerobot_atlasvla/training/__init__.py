"""Training beside the batches: action chunks in memory, cached features, random numbers per step, TensorBoard."""
