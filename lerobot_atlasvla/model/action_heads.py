"""Action heads: ``loss`` trains decoded queries on demonstrated chunks, ``sample`` makes a chunk of them.

Both heads take the same arguments, so that nobody has to ask which one a policy has.

Shape suffixes: B batch, T chunk, A action, D decoder width.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from lerobot.policies.common.flow_matching import euler_integrate, sample_noise, sample_time_beta
from torch import Tensor, nn

from .layers import Mlp, SelfAttention


def mean_over_real(error_BT: Tensor, valid_BT: Tensor) -> Tensor:
    """Average over the real actions of each sample, ``(B,)``; zero for a sample that has none."""
    # `where` and not a product: a NaN in a padded action must not reach the sum.
    return error_BT.where(valid_BT, 0.0).sum(1) / valid_BT.sum(1).clamp(min=1)


class L1Head(nn.Module):
    """All actions of the chunk at once, trained with the mean absolute error.

    Source: parallel decoding with an L1 objective, Kim et al., OpenVLA-OFT, RSS 2025, arXiv:2502.19645, sec. IV.
    """

    can_be_guided: ClassVar[bool] = False

    def __init__(self, dim: int, action_dim: int):
        super().__init__()
        self.proj = nn.Linear(dim, action_dim)

    def forward(self, decoded_BTD: Tensor) -> Tensor:
        """Map ``(B, T, D)`` to normalized actions ``(B, T, A)``."""
        return self.proj(decoded_BTD)

    def sample(
        self, decoded_BTD: Tensor, noise_BTA: Tensor | None = None, *, guidance: Mapping[str, Any] | None = None
    ) -> Tensor:
        """Return normalized actions ``(B, T, A)``, float32; noise and guidance are for heads that denoise."""
        return self(decoded_BTD).float()

    def loss(
        self,
        decoded_BTD: Tensor,
        actions_BTA: Tensor,
        valid_BT: Tensor,
        noise_BTA: Tensor | None = None,
        time_B: Tensor | None = None,
    ) -> Tensor:
        """Return the mean absolute error per sample over its real actions, ``(B,)``; arguments as of FlowHead's.

        Noise and time are for heads that denoise.
        """
        error_BT = (self(decoded_BTD).float() - actions_BTA.float()).abs().mean(-1)
        return mean_over_real(error_BT, valid_BT)


class FlowHead(nn.Module):
    """A small denoiser that turns noise into a chunk, conditioned on the decoded queries (flow matching).

    Time runs as in LeRobot's ``flow_matching``: at t = 1 a sample is noise, at t = 0 it is the action chunk,
    ``x_t = t * noise + (1 - t) * actions``, and the velocity is ``dx/dt = noise - actions``. :meth:`sample` integrates
    it with one :meth:`velocity` per step; the decoder has run once before.

    Source: Lipman et al., Flow Matching for Generative Modeling, ICLR 2023, arXiv:2210.02747; modulation by time with
    zero-initialized gates: Peebles and Xie, DiT, ICCV 2023, arXiv:2212.09748, sec. 3.2.

    Args:
        dim: Decoder width D.
        action_dim: Size A of an action.
        num_layers: Denoiser blocks.
        num_heads: Attention heads.
        num_steps: Denoising steps of one :meth:`sample`.
    """

    can_be_guided: ClassVar[bool] = True

    def __init__(self, dim: int, action_dim: int, *, num_layers: int, num_heads: int, num_steps: int):
        super().__init__()
        self.num_steps = num_steps
        self.action_in = nn.Linear(action_dim, dim)
        self.time = Mlp(dim, dim)
        self.blocks = nn.ModuleList(DenoiserBlock(dim, num_heads) for _ in range(num_layers))
        self.norm = nn.LayerNorm(dim)
        self.proj = nn.Linear(dim, action_dim)
        self.register_buffer("periods", _time_periods(dim), persistent=False)

    def velocity(self, decoded_BTD: Tensor, noisy_BTA: Tensor, time_B: Tensor) -> Tensor:
        """Predict the velocity ``(B, T, A)``, float32, of a noisy chunk at time ``(B,)`` in [0, 1]."""
        angles = time_B.float()[:, None] * (2 * math.pi / self.periods)
        time_B1D = self.time(torch.cat((angles.sin(), angles.cos()), dim=-1))[:, None]
        x_BTD = decoded_BTD + self.action_in(noisy_BTA)
        for block in self.blocks:
            x_BTD = block(x_BTD, time_B1D)
        return self.proj(self.norm(x_BTD)).float()

    def sample(
        self, decoded_BTD: Tensor, noise_BTA: Tensor | None = None, *, guidance: Mapping[str, Any] | None = None
    ) -> Tensor:
        """Return normalized actions ``(B, T, A)``, float32.

        Args:
            decoded_BTD: The decoder's output.
            noise_BTA: Standard normal, where the chunk starts; drawn if not given.
            guidance: Real-time chunking, as LeRobot's ``euler_integrate`` takes it.
        """
        if noise_BTA is None:
            noise_BTA = sample_noise((*decoded_BTD.shape[:2], self.proj.out_features), decoded_BTD.device)
        return euler_integrate(partial(self.velocity, decoded_BTD), noise_BTA, self.num_steps, **(guidance or {}))

    def loss(
        self,
        decoded_BTD: Tensor,
        actions_BTA: Tensor,
        valid_BT: Tensor,
        noise_BTA: Tensor | None = None,
        time_B: Tensor | None = None,
    ) -> Tensor:
        """Return the mean squared error of the velocity per sample over its real actions, ``(B,)``.

        Args:
            decoded_BTD: The decoder's output.
            actions_BTA: Normalized demonstrated actions.
            valid_BT: True = a real action, False = padding past the end of the episode.
            noise_BTA: Standard normal; drawn if not given.
            time_B: In [0, 1], 1 = all noise; drawn if not given.
        """
        if noise_BTA is None:
            noise_BTA = sample_noise(actions_BTA.shape, actions_BTA.device)
        if time_B is None:
            # The distribution of openpi: times near 1 (noise) come up most, times near 0 least.
            time_B = sample_time_beta(
                len(actions_BTA), actions_BTA.device, alpha=1.5, beta=1.0, scale=0.999, offset=0.001
            )
        # Padding must not reach real actions through the denoiser's attention.
        actions = actions_BTA.float().where(valid_BT[..., None], 0.0)
        time_B11 = time_B[:, None, None]
        noisy = time_B11 * noise_BTA + (1 - time_B11) * actions
        error_BT = (self.velocity(decoded_BTD, noisy, time_B) - (noise_BTA - actions)).square().mean(-1)
        return mean_over_real(error_BT, valid_BT)


class DenoiserBlock(nn.Module):
    """Self-attention over the chunk and an MLP, both modulated by time; does nothing at the start of training."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.attention = SelfAttention(dim, num_heads, qk_norm=False)
        self.mlp_norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.mlp = Mlp(dim, 4 * dim)
        self.modulation = nn.Linear(dim, 6 * dim)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x_BTD: Tensor, time_B1D: Tensor) -> Tensor:
        """Map ``(B, T, D)`` to ``(B, T, D)``."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.modulation(time_B1D).chunk(6, dim=-1)
        x_BTD = x_BTD + gate * self.attention(self.attention_norm(x_BTD) * (1 + scale) + shift)
        return x_BTD + mlp_gate * self.mlp(self.mlp_norm(x_BTD) * (1 + mlp_scale) + mlp_shift)


def _time_periods(dim: int) -> Tensor:
    """Periods of the sinusoids that encode time in [0, 1]: 0.004 to 4, as in LeRobot's pi0 and SmolVLA; (D / 2,)."""
    return torch.logspace(math.log10(4e-3), math.log10(4.0), dim // 2)
