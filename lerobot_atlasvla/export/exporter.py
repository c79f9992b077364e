"""Write a policy as a folder that runs on its own: the graph, what is to be known of it, and the file that runs it."""

import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.constants import CONFIG_NAME, SAFETENSORS_SINGLE_FILE

from lerobot_atlasvla.configuration_atlasvla import AtlasVLAConfig
from lerobot_atlasvla.files.replacing import replacing
from lerobot_atlasvla.utils.paths import why_not
from lerobot_atlasvla.weights import backbones, model_card

from .comparison import TOLERANCE, Deviation, compare, observations
from .exported_policy import ABOUT_FILE, GRAPH_FILE, ExportedPolicy
from .graph import PolicyGraph, write_onnx
from .reference import Reference, read_config, state_sizes
from .settings import TABLE, ExportConfig, ExportError, camera_sizes
from .training_data import action_names, tasks_of, training_data

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
RUNTIME_FILE = "exported_policy.py"
# Not convolutions: onnxruntime has no 8-bit ones for the CPU. It makes a MatMul of a Gemm and calls that NAME_MatMul.
_LINEAR = ("MatMul", "Gemm")
# For --language=input, whose graph has no instructions: some that the comparison encodes itself.
_SAMPLE_INSTRUCTIONS = ("pick up the cube", "open the drawer and put the bowl into it")


def export(settings: ExportConfig) -> dict[str, Any]:
    """Write an export, whole or not at all, after it was found to be equal to PyTorch.

    Args:
        settings: The settings.

    Returns:
        What ``export.json`` says.

    Raises:
        ExportError: If the policy can't be exported, or the graph does something else than PyTorch.
        WeightsError: If the checkpoint can't be loaded.
        OSError: If a file can't be read.
    """
    settings.validate()
    folder, target = settings.checkpoint, settings.output_dir
    config = read_config(folder)
    cameras = camera_sizes(config, settings.image_sizes)
    data = training_data(folder)
    instructions = settings.instructions or ([] if data is None else tasks_of(data))
    if settings.language == TABLE and not instructions:
        raise ExportError(
            f"--checkpoint={folder} was trained on data that are not on this machine; name what the policy will be "
            "told: --instructions='[\"pick up the cube\"]'."
        )
    reference = Reference(folder, config)
    table = [reference.encode(text) for text in instructions] if settings.language == TABLE else []
    graph = PolicyGraph(reference, cameras, table)
    about = {
        "schema_version": SCHEMA_VERSION,
        "format": settings.format,
        "int8": settings.int8,
        "cameras": {key: list(size) for key, size in cameras.items()},
        "state": state_sizes(config),
        "chunk_size": config.chunk_size,
        "n_action_steps": config.n_action_steps,
        "action_size": config.action_dim,
        "action_names": None if data is None else action_names(data, config.action_dim),
        "instructions": instructions if table else None,
        "language": None if table else [config.tokenizer_max_length, graph.model.language.hidden_size],
        "parameters": graph.parameter_bytes // 4,
        "checkpoint": {name: _sha256(folder / name) for name in (CONFIG_NAME, SAFETENSORS_SINGLE_FILE)},
        "versions": _versions(),
    }
    try:
        with replacing(target) as scratch:
            scratch.mkdir()
            _write(scratch, settings, graph, about, reference, instructions or _SAMPLE_INSTRUCTIONS)
    except FileExistsError as error:
        raise ExportError(f"--output_dir={target} is not empty any more; choose a new one.") from error
    except OSError as error:
        raise ExportError(f"{why_not(error, target, '--output_dir')}.") from error
    return about


def _write(
    folder: Path,
    settings: ExportConfig,
    graph: PolicyGraph,
    about: dict[str, Any],
    reference: Reference,
    instructions: Sequence[str],
) -> None:
    """Fill the folder of the export; ``about`` gets what was measured."""
    write_onnx(graph, folder / GRAPH_FILE)
    _write_about(folder, about)
    seen = list(observations(reference, graph.cameras, instructions))
    found = compare(ExportedPolicy(folder), reference, seen)
    if not found.largest_normalized <= TOLERANCE:
        raise ExportError(
            f"The exported graph deviates from PyTorch by {found.largest_normalized:.2g} (normalized actions), more "
            f"than the {TOLERANCE:g} allowed, so nothing was written. Please report the policy's config.json."
        )
    logger.info("Largest deviation from PyTorch over %d observations: %.2g.", found.observations, found.largest)
    about["deviation"] = found._asdict()
    if settings.int8:
        quantize(folder / GRAPH_FILE)
        about["deviation_int8"] = compare(ExportedPolicy(folder), reference, seen)._asdict()
        logger.info(
            "int8: deviation from PyTorch %.3f (largest) and %.4f (mean), in standard deviations of the actions.",
            about["deviation_int8"]["largest_in_std"],
            about["deviation_int8"]["mean_in_std"],
        )
    _write_about(folder, about)
    # What the policy is; python -m eval.run reads it.
    shutil.copyfile(settings.checkpoint / CONFIG_NAME, folder / CONFIG_NAME)
    source = files(__package__)
    (folder / RUNTIME_FILE).write_text(source.joinpath(RUNTIME_FILE).read_text(encoding="utf-8"), encoding="utf-8")
    card = _card(reference.config, about, reference.policy.backbone_record.sources)
    (folder / "README.md").write_text(str(card), encoding="utf-8")


def quantize(file: Path) -> None:
    """Quantize the linear layers of a graph: weights to 8 bits beforehand, activations when it runs."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(file).graph
    matrices = {tensor.name for tensor in model.initializer if len(tensor.dims) == 2}
    linear = [node.name for node in model.node if node.op_type in _LINEAR and node.input[1] in matrices]
    quantized = file.with_name(f"int8_{file.name}")
    quantize_dynamic(
        file,
        quantized,
        op_types_to_quantize=list(_LINEAR),
        # Not attention to what is constant, such as a blind policy's geometry: it has more than two dimensions.
        nodes_to_quantize=[*linear, *(f"{name}_MatMul" for name in linear)],
        per_channel=True,
        weight_type=QuantType.QInt8,
    )
    quantized.replace(file)


def _card(config: AtlasVLAConfig, about: dict[str, Any], sources: Any) -> ModelCard:
    # The language model is not in the graph.
    used = [part for part in backbones.used_parts(config) if part != "language"]
    parts = [model_card.part_row(config, part, sources.get(part, {}), ()) for part in used]
    license, license_name = model_card.license_of(parts, None)
    data = ModelCardData(
        license=license,
        license_name=license_name,
        library_name="onnxruntime",
        pipeline_tag="robotics",
        tags=["robotics", "onnx", config.type],
    )
    return ModelCard.from_template(
        data,
        template_str=files(__package__).joinpath("card.md").read_text(encoding="utf-8"),
        about=about,
        parts=parts,
        license=license_name or license,
        deviation=Deviation(**about["deviation"]),
        int8=Deviation(**about["deviation_int8"]) if about["int8"] else None,
    )


def _write_about(folder: Path, about: dict[str, Any]) -> None:
    text = json.dumps(about, indent=2, ensure_ascii=False) + "\n"
    (folder / ABOUT_FILE).write_text(text, encoding="utf-8")


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _versions() -> dict[str, str]:
    return {
        "lerobot": version("lerobot"),
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
    }
