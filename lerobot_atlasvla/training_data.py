"""What a policy in training has of its dataset besides the batches: actions in memory, VGGT's features on disk.

Shape suffixes: B batch, T chunk, A action.
"""

from typing import Any

from lerobot.utils.constants import ACTION
from torch import Tensor

from .action_table import ActionTable
from .configuration_atlasvla import AtlasVLAConfig
from .feature_cache.key import WITHOUT, CacheKey
from .feature_cache.reader import FeatureCache
from .model.atlas import AtlasVLA
from .model.frozen import is_frozen
from .model.tokens import GeometryTokens
from .observations import entry, read_views
from .weights import backbones
from .weights.backbones import BackboneRecord

ACTION_IS_PAD = "action_is_pad"


class TrainingData:
    """Reads what is to be learned from a batch.

    Args:
        config: The policy's configuration, features filled in.
        meta: LeRobot's metadata of the dataset; None for a policy that is not made for one.

    Attributes:
        feature_cache: VGGT's features on disk; None where they are computed.
    """

    def __init__(self, config: AtlasVLAConfig, meta: Any | None):
        self._config, self._meta = config, meta
        self._actions: ActionTable | None = None
        self.feature_cache: FeatureCache | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "TrainingData":
        # Nothing in it changes, and a copy of a policy learns from the same data.
        return self

    def open_feature_cache(self, model: AtlasVLA, record: BackboneRecord) -> None:
        """Open the feature cache, if one is set and there is a dataset; the weights must be in place.

        Raises:
            FeatureCacheError: If it is missing, damaged, or of something else.
        """
        if not self._config.feature_cache or self._meta is None:
            return
        key = CacheKey.of(
            self._config,
            model.spec,
            dataset=self._meta.repo_id,
            frames=self._meta.total_frames,
            vggt=record.fingerprint("vggt", model.backbones()["vggt"]),
            dtype=backbones.part_dtype(self._config, "vggt"),
        )
        self.feature_cache = FeatureCache(self._config.feature_cache, key)

    def actions(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The chunks to learn, (B, T, A), and which of their actions are before the end of the episode, (B, T).

        Raises:
            ValueError: If the batch's actions have another shape, or are not those in memory, or there are no files to
                read those from.
        """
        actions_BTA = entry(batch, ACTION)
        if self._config.actions_in_memory and self._meta is not None and actions_BTA.ndim == 2:
            if self._actions is None:
                # Only now: whoever gives a policy an empty dataset, to record into, reads no batches.
                self._actions = ActionTable.read(self._config, self._meta)
            return self._actions.chunks(batch)
        expected = (self._config.chunk_size, self._config.action_dim)
        if actions_BTA.ndim != 3 or tuple(actions_BTA.shape[1:]) != expected:
            raise ValueError(
                f"{ACTION} must have shape (B, {expected[0]}, {expected[1]}), got {tuple(actions_BTA.shape)} "
                "(--policy.chunk_size; the action size comes from the dataset; single actions are enough with "
                "--policy.actions_in_memory=true, for a policy from LeRobot's make_policy with a dataset)."
            )
        return actions_BTA, ~entry(batch, ACTION_IS_PAD)

    def features(self, batch: dict[str, Tensor], model: AtlasVLA, *, training: bool) -> GeometryTokens | None:
        """What the feature cache has for a batch; augmented copies are for training only.

        Raises:
            ValueError: If VGGT is not what the cache was made with, or the frames are not the cache's.
        """
        if self.feature_cache is None or not (training or self.feature_cache.key.copies == 1):
            return None
        assert model.aggregator is not None  # a blind policy has no feature cache
        if not is_frozen(model.aggregator):
            raise ValueError(
                "VGGT learns (an adapter is in it?), so what it made of the data before is of no use. Name modules "
                f"outside VGGT with --peft.target_modules, or {WITHOUT}."
            )

        def compute(part: dict[str, Tensor]) -> GeometryTokens:
            return model.encode_views(read_views(self._config, part, training=training))

        return self.feature_cache.look_up(batch, compute)
