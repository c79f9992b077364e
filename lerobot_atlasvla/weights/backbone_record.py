"""Record where each pretrained backbone of a policy came from, so that a checkpoint can find it again."""

from collections.abc import Mapping
from functools import partial

from torch import nn

from lerobot_atlasvla.configuration_atlasvla import AtlasVLAConfig
from lerobot_atlasvla.model.language import LanguageEncoder

from . import backbones, download
from .download import ResolvedWeights, WeightsError


class BackboneRecord:
    """Keeps what each pretrained backbone of one policy was filled from, and what frozen ones were right after it.

    Args:
        config: The policy's configuration. LeRobot saves nothing else beside an adapter, so a saved record comes, and
            goes (:meth:`note_in`), as ``backbone_sources`` of config.json.

    Attributes:
        sources: Part -> ``source``, ``revision``, ``digest`` and, if it is not quite what was asked, ``fallback``.
        fingerprints: Part -> :func:`.backbones.fingerprint` right after it was read; frozen parts of a source only.
    """

    def __init__(self, config: AtlasVLAConfig):
        self._config = config
        self.sources: dict[str, dict[str, str]] = dict(config.backbone_sources)
        self.fingerprints: dict[str, str] = {}

    def load(self, name: str, module: nn.Module, resolved: ResolvedWeights) -> None:
        """Fill a part of a new policy, and record its source.

        Raises:
            WeightsError: As :func:`.backbones.read`.
        """
        found = self._read(name, module, resolved)
        self.sources[name] = {"source": resolved.name, "revision": resolved.revision, "digest": found}
        if resolved.fallback:
            self.sources[name]["fallback"] = resolved.fallback

    def load_from_checkpoint(self, name: str, module: nn.Module) -> None:
        """Fill a part that a checkpoint refers to, and verify that it is the one the checkpoint was made with.

        Raises:
            WeightsError: If it can't be found, or its digest is another one.
        """
        known = self.sources.get(name, {})
        if "digest" not in known:
            raise WeightsError(
                f"The checkpoint refers to {name} by source and digest, but its config.json has no entry "
                f"backbone_sources.{name}. Use the config.json it was saved with."
            )
        resolved = self.resolve_from_checkpoint(name)
        found = self._read(name, module, resolved)
        if found != known["digest"]:
            raise WeightsError(
                f"The {name} weights of {resolved.name} are not the ones this checkpoint was made with "
                f"({known['source']}{' at ' + known['revision'] if known.get('revision') else ''}): digest {found}, "
                f"expected {known['digest']}. Point {backbones.PARTS[name].flag} to the right ones."
            )

    def resolve_from_checkpoint(self, name: str) -> ResolvedWeights:
        """Find the weights that a part was filled from: at the recorded commit, unless the setting now names others.

        Raises:
            WeightsError: If they can't be had; neither a substitute nor random weights could take their place.
        """
        part, known = backbones.PARTS[name], self.sources.get(name, {})
        source, revision = getattr(self._config, part.model_field), getattr(self._config, f"{name}_revision")
        if known.get("source") == source:
            revision = known.get("revision") or revision
        # A checkpoint brings its own architecture and tokenizer.
        return download.resolve(source, revision=revision, companions=(), flag=part.flag)

    def _read(self, name: str, module: nn.Module, resolved: ResolvedWeights) -> str:
        found, mark = backbones.read(self._config, name, module, resolved)
        if self._config.is_frozen(name):
            self.fingerprints[name] = mark
        return found

    def fingerprint(self, name: str, module: nn.Module) -> str:
        """Return the fingerprint of a part that nothing has changed since it was read."""
        return self.fingerprints.get(name) or backbones.fingerprint(name, module)

    def unchanged(self, parts: Mapping[str, nn.Module]) -> list[str]:
        """Return the frozen parts that are still, bit for bit, what their source gave."""
        return [name for name in self.fingerprints if self.is_unchanged(name, parts[name])]

    def is_unchanged(self, name: str, module: nn.Module) -> bool:
        """Return whether a part is frozen and still, bit for bit, what its source gave."""
        return name in self.fingerprints and backbones.fingerprint(name, module) == self.fingerprints[name]

    def note_in(self, config: AtlasVLAConfig) -> None:
        """Write the record into a configuration; a substitute for the language model becomes the setting."""
        config.backbone_sources = self.sources
        if "language" in backbones.pretrained_parts(config):
            config.language_model = self.sources["language"]["source"]

    def make_releasable(self, language: LanguageEncoder) -> None:
        """Let training go on without a frozen language model whose weights can be read again."""
        # A blind policy's first parameter is the language model's, and LeRobot looks there for the policy's device.
        config = self._config
        if config.is_frozen("language") and "language" in backbones.pretrained_parts(config) and not config.is_blind:
            language.make_releasable(
                unchanged=partial(self.is_unchanged, "language"),
                read=partial(self.load_from_checkpoint, "language"),
            )
