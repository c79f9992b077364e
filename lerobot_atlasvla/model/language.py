"""The instruction encoder: a Qwen language model read at its last layer.

Shape suffixes: B batch, L language tokens, U distinct instructions, E language width.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2Model, Qwen3Config, Qwen3Model

from .frozen import is_frozen, parameters_of
from .releasing import ReleasableWeights
from .sizes.architecture import architecture_sizes
from .types import TokenGroup

logger = logging.getLogger(__name__)

# model_type -> (configuration, model without a language-model head: nothing here predicts words).
QWEN_MODELS: dict[str, tuple[type[Any], type[Any]]] = {
    "qwen3": (Qwen3Config, Qwen3Model),
    "qwen2": (Qwen2Config, Qwen2Model),
}


def small_qwen3(
    *, vocab_size: int, hidden_size: int, num_layers: int, num_heads: int, max_length: int
) -> dict[str, Any]:
    """Return the architecture of a Qwen3 that starts from random weights.

    Args:
        vocab_size: Tokens of the tokenizer.
        hidden_size: Width E.
        num_layers: Transformer blocks.
        num_heads: Attention heads (twice as many as key/value heads).
        max_length: Most tokens an instruction may have.
    """
    return {
        "model_type": "qwen3",
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "intermediate_size": 3 * hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "num_key_value_heads": max(1, num_heads // 2),
        "head_dim": hidden_size // num_heads,
        "max_position_embeddings": max_length,
    }


class LanguageEncoder(nn.Module):
    """Instruction tokens to one feature per token; each distinct instruction is encoded once.

    While the language model is frozen, "once" holds across batches: features are remembered per instruction, least
    recently used ones dropped first. A model that learns is not asked again outside of training while the batch stays
    the same. All is forgotten when a weight or the device changes.

    While others learn and no new instruction comes, the frozen model's weights are not needed (:attr:`releasable`).

    Args:
        architecture: Sizes of the model under transformers' names; ``model_type`` is one of :data:`QWEN_MODELS`. Other
            entries are left out (:mod:`.architecture_sizes`).
        cache_size: Most instructions to remember.
        on_cpu: Keep the language model in host memory, wherever the rest of the network is moved, and compute there:
            for a frozen one, whose features are remembered, it saves the GPU its weights. Tokens and features stay
            with the rest.

    Attributes:
        releasable: Lets go of the weights in training and reads them again; None keeps them.

    Raises:
        ValueError: For another model type, or a size that is no number.
    """

    def __init__(self, architecture: Mapping[str, Any], *, cache_size: int, on_cpu: bool = False):
        super().__init__()
        self.on_cpu = on_cpu
        kind = architecture.get("model_type", "")
        if kind not in QWEN_MODELS:
            raise ValueError(
                f"The language model's type must be one of {', '.join(QWEN_MODELS)}, got {kind!r} "
                "(--policy.language_model)."
            )
        make_config, make_model = QWEN_MODELS[kind]
        sizes = architecture_sizes(architecture)
        del sizes["model_type"]
        self.backbone: Qwen2Model | Qwen3Model = make_model(make_config(**sizes | {"use_cache": False}))
        self.hidden_size: int = self.backbone.config.hidden_size
        self._cache = InstructionCache(cache_size)
        self._cached_for: tuple[Any, ...] = ()
        self._warned = False
        self._num_own = len(self._weights_state())
        self.releasable: ReleasableWeights | None = None

    def forward(self, tokens_BL: Tensor, mask_BL: Tensor) -> TokenGroup:
        """Encode tokenized instructions, each distinct one only once.

        Args:
            tokens_BL: Token ids, padded on the right.
            mask_BL: True = real token.

        Returns:
            Features ``(B, L, E)``, at least one token wide; those of padding are zero. An empty instruction counts as
            one zero token, so that whoever attends to it has something to look at.
        """
        if tokens_BL.shape[1] == 0:
            tokens_BL, mask_BL = tokens_BL.new_zeros(len(tokens_BL), 1), mask_BL.new_zeros(len(mask_BL), 1)
        self._forget_if_changed()
        keyed_BL = torch.where(mask_BL, tokens_BL, -1)
        frozen = is_frozen(self.backbone)
        # An adapter inside can be switched off without a weight changing, so nothing is remembered with one.
        steady = len(self._cached_for) == self._num_own
        learning = self.training or self.backbone.training or (torch.is_grad_enabled() and not frozen)
        if learning or not steady:
            self._cache.forget_batch()
            computed = self._cache.computed
            group = self._encode(keyed_BL, mask_BL, remember=steady and frozen)
            if self.releasable and self.training and frozen and steady:
                self.releasable.after_batch(new=self._cache.computed > computed)
            return group
        # A frozen model computes in its own dtype, whatever autocast it is in.
        device = tokens_BL.device.type
        circumstances = frozen or (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))
        group = self._cache.same_batch(keyed_BL, circumstances)
        if group is None:
            group = self._encode(keyed_BL, mask_BL, remember=frozen)
            self._cache.keep_batch(keyed_BL, circumstances, group)
        return group

    def _encode(self, keyed_BL: Tensor, mask_BL: Tensor, *, remember: bool) -> TokenGroup:
        features_BLE = (self._remembered if remember else self._encoded)(keyed_BL, mask_BL)
        empty_B = ~mask_BL.any(dim=1)
        first_L = torch.arange(mask_BL.shape[1], device=mask_BL.device) == 0
        return TokenGroup(features_BLE, mask_BL | (empty_B[:, None] & first_L))

    def _encoded(self, keyed_BL: Tensor, mask_BL: Tensor) -> Tensor:
        # A batch of robot data repeats a handful of sentences: encode each once and hand out copies.
        distinct_UL, index_B = torch.unique(keyed_BL, dim=0, return_inverse=True)
        mask_UL = distinct_UL >= 0
        # An instruction without a token has nothing to attend to, not even itself.
        visible_UL = mask_UL | ~mask_UL.any(dim=1, keepdim=True)
        home = self.backbone.device
        features_ULE = self.backbone(
            input_ids=distinct_UL.clamp(min=0).to(home), attention_mask=visible_UL.long().to(home), use_cache=False
        ).last_hidden_state.to(keyed_BL.device)
        # Float32 like what is remembered: with an adapter inside, a bfloat16 model comes this way too.
        return (features_ULE.float() * mask_UL[..., None])[index_B]

    def _remembered(self, keyed_BL: Tensor, mask_BL: Tensor) -> Tensor:
        device = keyed_BL.device
        rows = [tuple(token for token in row if token >= 0) for row in keyed_BL.tolist()]
        known = {row: self._cache.lookup(row, lambda row: self._compute(row, device)) for row in dict.fromkeys(rows)}
        if self.on_cpu and self._cache.dropped and not self._warned:
            self._warned = True
            logger.warning(
                "More than %d distinct instructions: the language model computes on the CPU again and again. Raise "
                "--policy.language_cache_size, or set --policy.language_on_cpu=false.",
                self._cache.size,
            )
        table_ULE = torch.zeros(len(known), keyed_BL.shape[1], self.hidden_size, device=device)
        for features_LE, (row, features) in zip(table_ULE, known.items(), strict=True):
            features_LE[: len(row)] = features
        place = {row: index for index, row in enumerate(known)}
        index_B = torch.tensor([place[row] for row in rows], device=device)
        # The n-th real token gets the n-th feature. Through positions and not mask[index] = ..., which would stop and
        # read the mask once per sample.
        nth_BL = (mask_BL.cumsum(dim=1) - 1).clamp(min=0)
        return table_ULE[index_B[:, None], nth_BL].where(mask_BL[..., None], 0.0)

    def _compute(self, row: tuple[int, ...], device: torch.device) -> Tensor:
        # Not an inference tensor, even when LeRobot evaluates in inference mode: a later backward pass uses it too. And
        # always in the model's own dtype, so that what is remembered does not depend on who asked first.
        if not row:
            return torch.zeros(0, self.hidden_size, device=device)
        self._restore(too_early=True)
        home = self.backbone.device
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(home.type, enabled=False):
            tokens = torch.tensor([row], device=home)
            return self.backbone(input_ids=tokens, use_cache=False).last_hidden_state[0].float().to(device)

    def make_releasable(self, *, unchanged: Callable[[nn.Module], bool], read: Callable[[nn.Module], None]) -> None:
        """Let training go on without the weights; arguments as in :class:`~.releasing.ReleasableWeights`."""
        self.releasable = ReleasableWeights(self.backbone, unchanged=unchanged, read=read, replaced=self._note_weights)

    def _restore(self, *, too_early: bool = False) -> None:
        if self.releasable:
            self.releasable.restore(too_early=too_early)

    def _note_weights(self) -> None:
        self._cached_for = self._weights_state()

    def train(self, mode: bool = True) -> Self:
        """Switch the mode and forget what may be outdated: PEFT, merging an adapter, leaves no other trace."""
        self._forget_if_changed()
        # An optimizer may write to weights that learn behind autograd's back.
        self._cache.forget_batch()
        return super().train(mode)

    def _forget_if_changed(self) -> None:
        state = self._weights_state()
        if state != self._cached_for:
            self._cache.clear()
            self._cached_for = state

    def _weights_state(self) -> tuple[Any, ...]:
        """Changes whenever a weight is written to, replaced, cast or moved."""
        # A model built in inference mode has no versions, and no weight of it can be written to.
        weights = parameters_of(self.backbone)
        return tuple((id(p), 0 if p.is_inference() else p._version, p.data_ptr()) for p in weights)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._restore()
        self._cache.clear()
        rotary = self.backbone.rotary_emb
        frequencies = rotary.inv_freq
        super()._apply((lambda tensor: tensor.to(fn(tensor).dtype)) if self.on_cpu else fn, recurse)
        # Rotary angles in bfloat16 would be wrong by whole turns at long distances; only the device may change.
        rotary.inv_freq = frequencies.to(rotary.inv_freq.device)
        return self


def pool_tokens(group: TokenGroup) -> Tensor:
    """Average the real tokens, ``(B, D)``."""
    if group.mask_BS is None:
        return group.tokens_BSD.mean(1)
    weights = group.mask_BS[..., None].to(group.tokens_BSD.dtype)
    return (group.tokens_BSD * weights).sum(1) / weights.sum(1).clamp(min=1)


class InstructionCache:
    """Features of the instructions used last; its length is their number.

    A rollout asks for the same batch of instructions at every chunk, so the last batch is kept beside them, assembled.
    To see that a batch is that one takes a single look at the device; to find its rows takes reading all token ids.

    Args:
        size: Most instructions to remember.
    """

    def __init__(self, size: int):
        self.size = size
        # How often an instruction was not known, and how often it took the place of another.
        self.computed = 0
        self.dropped = 0
        self._features: OrderedDict[tuple[int, ...], Tensor] = OrderedDict()
        # Token ids, what else the features depend on, features. One object, because rollouts run in threads.
        self._batch: tuple[Tensor, Any, TokenGroup] | None = None

    def __len__(self) -> int:
        return len(self._features)

    def clear(self) -> None:
        """Forget the features of all instructions, and the last batch."""
        self._features.clear()
        self._batch = None

    def lookup(self, row: tuple[int, ...], compute: Callable[[tuple[int, ...]], Tensor]) -> Tensor:
        """Return the features (L, E) of one instruction without padding, computed if they are not known."""
        features = self._features.pop(row, None)
        if features is None:
            self.computed += 1
            features = compute(row)
        self._features[row] = features
        while len(self._features) > self.size:
            self._features.popitem(last=False)
            self.dropped += 1
        return features

    def keep_batch(self, keyed_BL: Tensor, circumstances: Any, group: TokenGroup) -> None:
        """Remember a batch in place of the last one.

        Args:
            keyed_BL: Token ids, padding -1.
            circumstances: What the features depend on besides; compared by value.
            group: The features; copied.
        """
        self._batch = (keyed_BL, circumstances, _copy(group))

    def same_batch(self, keyed_BL: Tensor, circumstances: Any) -> TokenGroup | None:
        """Return a copy of the last batch's features, if this is that batch."""
        if self._batch is None:
            return None
        known_BL, known_circumstances, group = self._batch
        comparable = (known_BL.dtype, known_BL.device) == (keyed_BL.dtype, keyed_BL.device)
        if not comparable or known_circumstances != circumstances or not torch.equal(known_BL, keyed_BL):
            return None
        return _copy(group)

    def forget_batch(self) -> None:
        """Forget the last batch, but not the instructions in it."""
        self._batch = None


def _copy(group: TokenGroup) -> TokenGroup:
    # What a caller does to its features must not reach the next one.
    return TokenGroup(group.tokens_BSD.detach().clone(), None if group.mask_BS is None else group.mask_BS.clone())
