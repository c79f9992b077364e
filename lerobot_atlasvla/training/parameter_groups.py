"""Sort the parameters that learn into groups for the optimizer."""

from typing import TYPE_CHECKING, Any

from lerobot_atlasvla.weights import backbones

if TYPE_CHECKING:
    from lerobot_atlasvla.modeling_atlasvla import AtlasVLAPolicy


def parameter_groups(policy: "AtlasVLAPolicy") -> list[dict[str, Any]]:
    """Return the parameters that learn, in a fixed order: new parts, then unfrozen pretrained backbones.

    Each comes as tensors of two or more axes (decayed), then vectors and scalars (not). Backbones learn at
    ``optimizer_backbone_lr``; adapters put into them, such as LoRA's, count as new. All ask the optimizer for one fused
    step, which saves small policies time; one that has none ignores it.
    """
    config, modules = policy.config, policy.model.backbones()
    # Under PEFT, whatever learns inside a backbone is an adapter.
    inside = {
        id(parameter)
        for part in backbones.pretrained_parts(config)
        if not config.use_peft
        for name, parameter in modules[part].named_parameters()
        if "lora_" not in name
    }
    trainable = [p for p in policy.parameters() if p.requires_grad]
    new = [p for p in trainable if id(p) not in inside]
    old = [p for p in trainable if id(p) in inside]
    groups: list[dict[str, Any]] = []
    for members, own in ((new, {}), (old, {"lr": config.optimizer_backbone_lr})):
        own |= {"fused": True}  # LeRobot's AdamWConfig has no such field
        groups.append(own | {"params": [p for p in members if p.ndim >= 2]})
        groups.append(own | {"params": [p for p in members if p.ndim < 2], "weight_decay": 0.0})
    return [group for group in groups if group["params"]]
