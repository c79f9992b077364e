"""Folders that look like LIBERO's assets, and digests for them."""

import hashlib
from pathlib import Path

FOLDERS = ("articulated_objects", "scenes", "stable_hope_objects", "stable_scanned_objects", "textures")
#: The files that the tests take for LIBERO's whole asset tree, one for each asset package.
FILES = {f"{folder}/{folder}.xml": f"<{folder}/>" for folder in FOLDERS} | {
    "scenes/libero_tabletop_base_style.xml": "<mujoco/>",
}


def make_assets(folder: Path) -> Path:
    for name, content in FILES.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return folder


def make_packages(site: Path, name: str) -> Path:
    """The five asset packages as an installer leaves them: one common tree, and a marker file of each."""
    make_assets(site / name / "assets")
    for part in range(1, 6):
        (site / name / f"part_{part}.py").write_text("")
    return site / name / "assets"


def write_manifest(file: Path) -> Path:
    lines = [f"{hashlib.sha256(content.encode()).hexdigest()}  {name}\n" for name, content in FILES.items()]
    file.write_text("# a comment\n" + "".join(lines))
    return file
