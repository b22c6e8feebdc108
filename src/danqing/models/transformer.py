"""The double-stream diffusion transformer (MMDiT) of Qwen-Image, on the packed token stream.

What is unlike the usual implementations:
- no batch dimension, no padding, no mask: the tokens of all images lie end to end, and attention
  runs per segment of the ``Layout``;
- query, key and value of a stream are one matrix;
- modulation comes in as rows of a table, because it depends on nothing but the noise level:
  ``modulate(sigmas)`` computes it, ``bake`` keeps it without the weights;
- rotary positions in real arithmetic;
- the text stream of the last block gives keys and values and nothing else, so nothing else of it
  is computed.

Axes: T patches of the pack (all images), L text tokens of the pack, D width, N heads, K head
dimension, C channels of a patch, J joint (text feature) width, M rows of modulation.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from danqing.models.activations import gelu, silu
from danqing.models.layout import Layout, spread
from danqing.models.linear import MIN_ROWS, Linear, linear
from danqing.models.rotary import inverse_frequencies

MAX_POSITION = 4096  # the reference's position tables end here
Rope = tuple[Tensor, Tensor]  # cosine and sine, [T, 1, K/2] each


@dataclass(frozen=True)
class TransformerConfig:
    """What the published ``transformer/config.json`` says; the defaults are Qwen-Image's."""

    patch_size: int = 2
    in_channels: int = 64
    out_channels: int = 16
    num_layers: int = 60
    attention_head_dim: int = 128
    num_attention_heads: int = 24
    joint_attention_dim: int = 3584
    axes_dims_rope: tuple[int, int, int] = (16, 56, 56)
    use_additional_t_cond: bool = False
    use_layer3d_rope: bool = False

    @property
    def width(self) -> int:
        return self.attention_head_dim * self.num_attention_heads

    @property
    def patch_channels(self) -> int:
        return self.patch_size**2 * self.out_channels


@dataclass(frozen=True)
class Modulation:
    """The modulation table: shift, scale and gate of every block at every noise level.

    ``img`` and ``txt`` hold one [M, 6 D] tensor a block, ``out`` is [M, 2 D].
    """

    sigmas: tuple[float, ...]
    img: list[Tensor]
    txt: list[Tensor]
    out: Tensor


class Transformer(nn.Module):
    """Velocity (noise - clean) of packed patches at a noise level, given text features."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.time_in = TimeEmbedding(width, config.use_additional_t_cond)
        self.txt_norm = RMSNorm(config.joint_attention_dim)
        self.img_in = Linear(config.in_channels, width)
        self.txt_in = Linear(config.joint_attention_dim, width)
        blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.blocks = cast("list[Block]", blocks)  # a ModuleList forgets its members' class
        self.norm_out = Linear(width, 2 * width)
        self.proj_out = Linear(width, config.patch_channels)

    def forward(
        self,
        patches_TC: Tensor,
        text_LJ: Tensor,
        layout: Layout,
        table: Modulation,
        rows: Iterable[int],
    ) -> Tensor:
        """Velocity [T, C].

        Args:
            patches_TC: noisy patches of all segments, end to end.
            text_LJ: text features of all segments, end to end.
            layout: the segments.
            table: modulation for the noise levels in use.
            rows: the table's row for each segment.
        """
        img_rows = spread(rows, layout.patch_lengths)
        txt_rows = spread(rows, layout.text_lengths)
        img_rope, txt_rope = self.rope(layout, patches_TC.device)
        x_TD = self.img_in(patches_TC)
        c_LD = self.txt_in(self.txt_norm(text_LJ))
        last = len(self.blocks) - 1
        for i, block in enumerate(self.blocks):
            img_mod, txt_mod = table.img[i][img_rows], table.txt[i][txt_rows]
            if i < last:
                x_TD, c_LD = block(x_TD, c_LD, img_mod, txt_mod, img_rope, txt_rope, layout)
            else:
                x_TD = block.finish(x_TD, c_LD, img_mod, txt_mod, img_rope, txt_rope, layout)
        scale, shift = table.out[img_rows].chunk(2, dim=-1)
        return self.proj_out(modulate(x_TD, shift, scale))

    def modulation(self, sigmas_M: Tensor) -> Modulation:
        """The table for these noise levels, in float32 [M], 1 = noise. Differentiable."""
        c_MD = silu(self.time_in(sigmas_M, self.norm_out.weight.dtype))
        return Modulation(
            sigmas=tuple(sigmas_M.tolist()),
            img=[block.img.mod(c_MD) for block in self.blocks],
            txt=[block.txt.mod(c_MD) for block in self.blocks],
            out=self.norm_out(c_MD),
        )

    @torch.no_grad()
    def bake(self, sigmas: Sequence[float]) -> Modulation:
        """The table of a whole schedule; after it the modulation weights are not needed."""
        device = self.norm_out.weight.device
        return self.modulation(torch.tensor(sigmas, dtype=torch.float32, device=device))

    def drop_modulation(self) -> None:
        """Free the weights that only ``modulation`` uses: a third of all parameters."""
        for block in self.blocks:
            del block.img.mod, block.txt.mod
        del self.time_in, self.norm_out

    def rope(self, layout: Layout, device: torch.device) -> tuple[Rope, Rope]:
        """Rotary tables of the image tokens and of the text tokens."""
        grid, line = layout.image_positions, layout.text_positions
        # A layered model counts a lone picture as its condition picture, at frame -1.
        frame = torch.full_like(grid[:, :1], -1 if self.config.use_layer3d_rope else 0)
        axes = self.config.axes_dims_rope
        img = rope_table(torch.cat([frame, grid], dim=1), axes, device)
        return img, rope_table(line[:, None].expand(-1, 3), axes, device)


class Block(nn.Module):
    """Two streams with weights of their own that meet in one attention."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.img = Stream(config.width, config.attention_head_dim)
        self.txt = Stream(config.width, config.attention_head_dim)

    def forward(
        self,
        x_TD: Tensor,
        c_LD: Tensor,
        img_mod: Tensor,
        txt_mod: Tensor,
        img_rope: Rope,
        txt_rope: Rope,
        layout: Layout,
    ) -> tuple[Tensor, Tensor]:
        img1, img2 = img_mod.chunk(2, dim=-1)
        txt1, txt2 = txt_mod.chunk(2, dim=-1)
        img_qkv = self.img.queries_keys_values(x_TD, img1, img_rope)
        txt_qkv = self.txt.queries_keys_values(c_LD, txt1, txt_rope)
        img_TD, txt_LD = joint_attention(img_qkv, txt_qkv, layout)
        x_TD = self.img.mlp(self.img.attended(x_TD, img_TD, img1), img2)
        c_LD = self.txt.mlp(self.txt.attended(c_LD, txt_LD, txt1), txt2)
        return clip_half(x_TD), clip_half(c_LD)

    def finish(
        self,
        x_TD: Tensor,
        c_LD: Tensor,
        img_mod: Tensor,
        txt_mod: Tensor,
        img_rope: Rope,
        txt_rope: Rope,
        layout: Layout,
    ) -> Tensor:
        """The last block: the text gives its keys and values, and its own output is not needed."""
        img1, img2 = img_mod.chunk(2, dim=-1)
        img_qkv = self.img.queries_keys_values(x_TD, img1, img_rope)
        txt_kv = self.txt.keys_values(c_LD, txt_mod.chunk(2, dim=-1)[0], txt_rope)
        img_TD = image_attention(img_qkv, txt_kv, layout)
        return clip_half(self.img.mlp(self.img.attended(x_TD, img_TD, img1), img2))


class Stream(nn.Module):
    """The weights of one stream (image or text) in one block."""

    def __init__(self, width: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.mod = Linear(width, 6 * width)
        self.qkv = FusedLinear(width, 3 * width)
        self.norm_q = RMSNorm(head_dim)
        self.norm_k = RMSNorm(head_dim)
        self.out = Linear(width, width)
        self.mlp_in = Linear(width, 4 * width)
        self.mlp_out = Linear(4 * width, width)

    def queries_keys_values(self, x_TD: Tensor, mod: Tensor, rope: Rope) -> list[Tensor]:
        """Three tensors [T, N, K], queries and keys normalised and rotated."""
        shift, scale, _ = mod.chunk(3, dim=-1)
        qkv = self.qkv(modulate(x_TD, shift, scale))
        q, k, v = rearrange(qkv, "T (J N K) -> J T N K", J=3, K=self.head_dim)
        return [rotate(self.norm_q(q), rope), rotate(self.norm_k(k), rope), v]

    def keys_values(self, x_TD: Tensor, mod: Tensor, rope: Rope) -> list[Tensor]:
        shift, scale, _ = mod.chunk(3, dim=-1)
        kv = self.qkv.without_first_third(modulate(x_TD, shift, scale))
        k, v = rearrange(kv, "T (J N K) -> J T N K", J=2, K=self.head_dim)
        return [rotate(self.norm_k(k), rope), v]

    def attended(self, x_TD: Tensor, heads_TD: Tensor, mod: Tensor) -> Tensor:
        return torch.addcmul(x_TD, mod.chunk(3, dim=-1)[2], self.out(heads_TD))

    def mlp(self, x_TD: Tensor, mod: Tensor) -> Tensor:
        shift, scale, gate = mod.chunk(3, dim=-1)
        h = gelu(self.mlp_in(modulate(x_TD, shift, scale)))
        return torch.addcmul(x_TD, gate, self.mlp_out(h))


class FusedLinear(Linear):
    """Query, key and value as one matrix, of which the query part can be left out."""

    def without_first_third(self, x_TD: Tensor) -> Tensor:
        first = self.out_features // 3
        return linear(x_TD, self.weight[first:], self.bias[first:])


class TimeEmbedding(nn.Module):
    """Noise level in [0, 1] to a vector of the model's width."""

    def __init__(self, width: int, additional: bool) -> None:
        super().__init__()
        self.linear_1 = Linear(256, width)
        self.linear_2 = Linear(width, width)
        self.additional = nn.Embedding(2, width) if additional else None

    def forward(self, sigmas_M: Tensor, dtype: torch.dtype) -> Tensor:
        waves = time_waves(sigmas_M).to(dtype)
        c_MD = self.linear_2(silu(self.linear_1(waves)))
        # Text to image has no additional condition; the layered pipeline passes row 0 as well.
        return c_MD if self.additional is None else c_MD + self.additional.weight[0]


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis; statistics in float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.to(x.dtype)  # another in mixed precision
        return F.rms_norm(x, weight.shape, weight, 1e-6)


def modulate(x_TD: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LayerNorm without gain, then x (1 + scale) + shift."""
    return torch.addcmul(shift, F.layer_norm(x_TD, x_TD.shape[-1:], eps=1e-6), 1 + scale)


def joint_attention(img: list[Tensor], txt: list[Tensor], layout: Layout) -> tuple[Tensor, Tensor]:
    """Text and image tokens of a segment attend to each other; [T, D] and [L, D]."""
    img_out, txt_out = [], []
    for (q_i, k_i, v_i), (q_t, k_t, v_t), text in runs(img, txt, layout):
        out = attend(join(q_t, q_i), join(k_t, k_i), join(v_t, v_i))
        txt_out.append(out[:, :text].flatten(0, 1))
        img_out.append(out[:, text:].flatten(0, 1))
    return torch.cat(img_out), torch.cat(txt_out)


def image_attention(img: list[Tensor], txt: list[Tensor], layout: Layout) -> Tensor:
    """As ``joint_attention``, for the image's queries only; ``txt`` is keys and values."""
    out = [
        attend(q_i, join(k_t, k_i), join(v_t, v_i)).flatten(0, 1)
        for (q_i, k_i, v_i), (k_t, v_t), _ in runs(img, txt, layout)
    ]
    return torch.cat(out)


def runs(img: list[Tensor], txt: list[Tensor], layout: Layout):
    """Per run of equal segments: its image tensors and text tensors [B, P or L, N, K], and L."""
    shapes = layout.runs
    img_parts = [x.split([count * patches for count, patches, _ in shapes]) for x in img]
    txt_parts = [x.split([count * text for count, _, text in shapes]) for x in txt]
    for i, (count, _, text) in enumerate(shapes):
        yield (
            [part[i].unflatten(0, (count, -1)) for part in img_parts],
            [part[i].unflatten(0, (count, -1)) for part in txt_parts],
            text,
        )


def join(text: Tensor, image: Tensor) -> Tensor:
    return torch.cat([text, image], dim=1)


def attend(q_BSNK: Tensor, k_BSNK: Tensor, v_BSNK: Tensor) -> Tensor:
    """[B, S, D], heads side by side. Few queries are filled up, as ``Linear`` fills up few rows."""
    queries = q_BSNK.shape[1]
    q, k, v = (x.transpose(1, 2) for x in (q_BSNK, k_BSNK, v_BSNK))
    if queries < MIN_ROWS:
        q = F.pad(q, (0, 0, 0, MIN_ROWS - queries))
    out = F.scaled_dot_product_attention(q, k, v)[:, :, :queries]
    return rearrange(out, "B N S K -> B S (N K)")


def rope_table(positions_TA: Tensor, axes: tuple[int, ...], device: torch.device) -> Rope:
    """Cosine and sine [T, 1, K/2] of positions on several axes, in float32."""
    angles = [
        positions_TA[:, axis, None].float() * inverse_frequencies(dim, 10000.0)
        for axis, dim in enumerate(axes)
    ]
    angle = torch.cat(angles, dim=1)[:, None].to(device)
    return angle.cos(), angle.sin()


def rotate(x_TNK: Tensor, rope: Rope) -> Tensor:
    """Rotate adjacent pairs (2k, 2k + 1) by the table's angles, in float32."""
    cos, sin = rope
    a, b = x_TNK.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2).to(x_TNK.dtype)


def time_waves(sigmas_M: Tensor) -> Tensor:
    """[M, 256]: cosines, then sines, of 128 geometric frequencies; float32."""
    # The order of operations is the reference's: angles reach 1000, so roundings would show.
    k = torch.arange(128, device=sigmas_M.device, dtype=torch.float32)
    frequency = torch.exp(-math.log(10000) * k / 128)
    angle = 1000.0 * (sigmas_M[:, None] * frequency)
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def clip_half(x: Tensor) -> Tensor:
    """float16 overflows in this network; the reference clips at the end of each block."""
    return x.clip(-65504, 65504) if x.dtype == torch.float16 else x
