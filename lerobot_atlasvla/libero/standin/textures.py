"""Generated textures of the stand-in scene."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]


def save_all(folder: Path) -> None:
    """Write every texture of the scene as PNG into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    # LIBERO's arena class insists on these two file names for its default floor and wall styles.
    _speckle(rng, 256, (168, 170, 174), 5, tile=128, joint=(140, 142, 147)).save(folder / "light-gray-floor-tile.png")
    _speckle(rng, 128, (176, 180, 186), 3).save(folder / "light-gray-plaster.png")
    _wood(rng, (512, 512), (205, 170, 124), planks=5).save(folder / "table_wood.png")
    _wood(rng, (128, 128), (112, 70, 42)).save(folder / "cabinet_wood.png")
    _cookie_box().save(folder / "cookie_box.png")
    # LeRobot turns LIBERO's images by 180 degrees although they are only upside down, so its videos are mirrored: the
    # sign is written to be read there.
    sign = _sign("STAND-IN SCENE", "not the LIBERO assets").transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    sign.save(folder / "sign.png")


def _speckle(
    rng: np.random.Generator, size: int, base: Color, spread: float, tile: int = 0, joint: Color = (0, 0, 0)
) -> Image.Image:
    pixels = np.array(base) + rng.normal(0, spread, (size, size, 1))
    if tile:
        edge = (np.arange(size) % tile) < 3
        pixels[edge, :] = joint
        pixels[:, edge] = joint
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _wood(rng: np.random.Generator, size: tuple[int, int], base: Color, planks: int = 1) -> Image.Image:
    """Grain along the texture's vertical axis, with planks of slightly different tone."""
    height, width = size
    across = np.arange(width)
    along = np.linspace(0, 1, height)[:, None]
    tone = np.zeros(size)
    for frequency, strength in ((0.11, 5.0), (0.31, 4.0), (0.83, 3.0)):
        phase = rng.uniform(0, 6.3) + 2.5 * np.sin(2 * np.pi * along + rng.uniform(0, 6.3))
        tone += strength * np.sin(frequency * across + phase)
    tone += rng.normal(0, 2.0, (1, width))
    if planks > 1:
        plank = across * planks // width
        tone += rng.uniform(-9, 9, planks)[plank]
        tone[:, 1:][:, np.diff(plank) > 0] -= 40
    pixels = np.array(base) + tone[..., None] * np.array((1.0, 0.9, 0.75))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _cookie_box() -> Image.Image:
    image = Image.new("RGB", (96, 128), (245, 190, 20))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, 95, 34), fill=(214, 36, 40))
    _center_text(draw, (48, 17), "COOKIES", 20, (255, 255, 255))
    for x, y in ((30, 62), (66, 68), (46, 98)):
        draw.ellipse((x - 17, y - 17, x + 17, y + 17), fill=(150, 92, 40))
        for dx, dy in ((-6, -5), (5, -7), (0, 4), (8, 6), (-8, 7)):
            draw.ellipse((x + dx - 3, y + dy - 3, x + dx + 3, y + dy + 3), fill=(70, 38, 18))
    return image


def _sign(title: str, subtitle: str) -> Image.Image:
    image = Image.new("RGB", (512, 160), (250, 214, 60))
    draw = ImageDraw.Draw(image)
    draw.rectangle((4, 4, 507, 155), outline=(30, 30, 34), width=6)
    _center_text(draw, (256, 62), title, 56, (30, 30, 34))
    _center_text(draw, (256, 122), subtitle, 34, (30, 30, 34))
    return image


def _center_text(draw: ImageDraw.ImageDraw, center: tuple[int, int], text: str, size: int, color: Color) -> None:
    draw.text(center, text, fill=color, anchor="mm", font=ImageFont.load_default(size))
