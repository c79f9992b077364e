"""A picture that is the same everywhere: integers only, so that no machine rounds it otherwise."""

import numpy as np


def picture(size: int) -> np.ndarray:
    """Return gradients, rectangles and grain, (size, size, 3) uint8."""
    rng = np.random.RandomState(7)
    rows, columns = np.mgrid[:size, :size]
    image = np.stack([rows * 255 // size, columns * 255 // size, (rows + columns) * 127 // size], axis=-1)
    for _ in range(14):
        row, column = rng.randint(0, size - 8, 2)
        side = rng.randint(4, size // 3)
        image[row : row + side, column : column + side] = rng.randint(0, 256, 3)
    return np.clip(image + rng.randint(-6, 7, image.shape), 0, 255).astype(np.uint8)
