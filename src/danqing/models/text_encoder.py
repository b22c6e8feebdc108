"""The language model of Qwen2.5-VL, up to its final norm: prompts become text features.

Packed: the prompts of a batch lie end to end, attention is causal within each. Every prompt begins
with the same template, so the template's keys and values are computed once (``prefix``) and
attended to by all. No vision tower, no ``lm_head``, no logits.

Axes: T tokens of the pack, D width, N query heads, G key-value heads, K head dimension.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danqing.models.activations import silu
from danqing.models.linear import Linear
from danqing.models.rotary import inverse_frequencies

QUERY_BLOCK = 32
Rope = tuple[Tensor, Tensor]
KeysValues = tuple[Tensor, Tensor]  # [S, G, K] each


@dataclass(frozen=True)
class TextEncoderConfig:
    """The text part of the published ``text_encoder/config.json``; defaults are Qwen-Image's."""

    vocab_size: int = 152064
    hidden_size: int = 3584
    intermediate_size: int = 18944
    num_hidden_layers: int = 28
    num_attention_heads: int = 28
    num_key_value_heads: int = 4
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1000000.0
    head_dim: int | None = None

    @property
    def head_width(self) -> int:
        return self.head_dim or self.hidden_size // self.num_attention_heads


@dataclass(frozen=True)
class TextFeatures:
    """What the transformer reads of one prompt: ``features`` [L, D], without any padding."""

    features: Tensor

    def __len__(self) -> int:
        return self.features.shape[0]


@dataclass(frozen=True)
class Prefix:
    """Keys and values of the template's tokens, one pair a layer."""

    layers: list[KeysValues]
    length: int


class TextEncoder(nn.Module):
    """Token ids to features after the final norm."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        ids_T: Tensor,
        lengths: Sequence[int],
        prefix: Prefix | None = None,
        template: int = 0,
    ) -> Tensor:
        """Features [T, D] of prompts laid end to end.

        Args:
            ids_T: token ids, int64.
            lengths: tokens of each prompt; they sum to T.
            prefix: what stands before every prompt, if it was computed already.
            template: without ``prefix``, how many leading tokens of each prompt are the template.
                They attend in a call of their own, so that the bits are those of a ``prefix``.
        """
        start = prefix.length if prefix else 0
        rope = self.rope(lengths, start, ids_T.device)
        x_TD = self.embed_tokens(ids_T)
        for i, layer in enumerate(self.layers):
            past = prefix.layers[i] if prefix else None
            x_TD, _ = layer(x_TD, lengths, rope, past, template)
        return self.norm(x_TD)

    def prefix(self, ids_T: Tensor) -> Prefix:
        """Keys and values of tokens with which every prompt begins."""
        lengths = [len(ids_T)]
        rope = self.rope(lengths, 0, ids_T.device)
        x_TD, kept = self.embed_tokens(ids_T), []
        for layer in self.layers:
            x_TD, keys_values = layer(x_TD, lengths, rope, None, 0)
            kept.append(keys_values)
        return Prefix(kept, len(ids_T))

    def rope(self, lengths: Sequence[int], start: int, device: torch.device) -> Rope:
        """Cosine and sine [T, 1, K]; text alone has plain positions on all multimodal axes."""
        positions = torch.cat([torch.arange(start, start + n) for n in lengths]).float()
        inverse = inverse_frequencies(self.config.head_width, self.config.rope_theta)
        angle = (positions[:, None] * inverse).repeat(1, 2)[:, None].to(device)
        return angle.cos(), angle.sin()


class Layer(nn.Module):
    """Pre-norm block: grouped-query attention, then SwiGLU."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        width, inner, eps = config.hidden_size, config.intermediate_size, config.rms_norm_eps
        self.input_layernorm = RMSNorm(width, eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(width, eps)
        self.mlp = SwiGLU(width, inner)

    def forward(
        self,
        x_TD: Tensor,
        lengths: Sequence[int],
        rope: Rope,
        past: KeysValues | None,
        template: int,
    ) -> tuple[Tensor, KeysValues]:
        h_TD = self.input_layernorm(x_TD)
        h_TD, keys_values = self.self_attn(h_TD, lengths, rope, past, template)
        x_TD = x_TD + h_TD
        return x_TD + self.mlp(self.post_attention_layernorm(x_TD)), keys_values


class Attention(nn.Module):
    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.head_dim = config.head_width
        heads = config.num_attention_heads * self.head_dim
        groups = config.num_key_value_heads * self.head_dim
        self.q_proj = Linear(config.hidden_size, heads)
        self.k_proj = Linear(config.hidden_size, groups)
        self.v_proj = Linear(config.hidden_size, groups)
        self.o_proj = Linear(heads, config.hidden_size, bias=False)

    def forward(
        self,
        x_TD: Tensor,
        lengths: Sequence[int],
        rope: Rope,
        past: KeysValues | None,
        template: int,
    ) -> tuple[Tensor, KeysValues]:
        """The output [T, D], and this pack's own keys and values."""
        split = (-1, self.head_dim)
        q_TNK = rotate(self.q_proj(x_TD).unflatten(-1, split), rope)
        k_TGK = rotate(self.k_proj(x_TD).unflatten(-1, split), rope)
        v_TGK = self.v_proj(x_TD).unflatten(-1, split)
        out = causal_attention(q_TNK, k_TGK, v_TGK, lengths, past, template)
        return self.o_proj(out.flatten(-2)), (k_TGK, v_TGK)


class SwiGLU(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = Linear(width, inner, bias=False)
        self.up_proj = Linear(width, inner, bias=False)
        self.down_proj = Linear(inner, width, bias=False)

    def forward(self, x_TD: Tensor) -> Tensor:
        return self.down_proj(silu(self.gate_proj(x_TD)) * self.up_proj(x_TD))


class RMSNorm(nn.Module):
    """As in Qwen2: the normalised value is rounded to the weights' dtype before the gain."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x_TD: Tensor) -> Tensor:
        weight = self.weight.to(x_TD.dtype)  # another in mixed precision
        return F.rms_norm(x_TD, weight.shape, weight, self.eps)


def causal_attention(
    q_TNK: Tensor,
    k_TGK: Tensor,
    v_TGK: Tensor,
    lengths: Sequence[int],
    past: KeysValues | None,
    template: int,
) -> Tensor:
    """[T, N, K]: each prompt attends to ``past`` and to its own tokens up to the current one.

    Neighbours of equal length are attended to at once.
    """
    runs = [(len(list(group)), length) for length, group in groupby(lengths)]
    sizes = [count * length for count, length in runs]
    out = []
    for (count, _), q, k, v in zip(
        runs, q_TNK.split(sizes), k_TGK.split(sizes), v_TGK.split(sizes), strict=True
    ):
        q, k, v = (x.unflatten(0, (count, -1)).transpose(1, 2) for x in (q, k, v))
        if past is not None:
            k, v = prepend(past[0], k), prepend(past[1], v)
        head = [x[:, :, :template] for x in (q, k, v)]
        rest = attend(q[:, :, template:], k, v)
        whole = torch.cat([attend(*head), rest], dim=2) if template else rest
        out.append(whole.transpose(1, 2).flatten(0, 1))
    return torch.cat(out)


def prepend(past_SGK: Tensor, x_BGTK: Tensor) -> Tensor:
    past = past_SGK.transpose(0, 1).expand(x_BGTK.shape[0], -1, -1, -1)
    return torch.cat([past, x_BGTK], dim=2)


def attend(q_BNTK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor) -> Tensor:
    """Causal attention of the last T of S positions.

    The queries are filled up to whole blocks of the CPU kernel, so that a row's bits do not depend
    on how many queries there are (compare ``Linear``).
    """
    rows, length = q_BNTK.shape[2], k_BGSK.shape[2]
    missing = -rows % QUERY_BLOCK
    position = torch.arange(length - rows, length + missing, device=q_BNTK.device)
    mask = position[:, None] >= torch.arange(length, device=q_BNTK.device)
    repeats = q_BNTK.shape[1] // k_BGSK.shape[1]
    k, v = (x.repeat_interleave(repeats, dim=1) for x in (k_BGSK, v_BGSK))
    q = F.pad(q_BNTK, (0, 0, 0, missing))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)[:, :, :rows]


def rotate(x_TNK: Tensor, rope: Rope) -> Tensor:
    """Rotate the two halves of the head against each other."""
    cos, sin = rope
    a, b = x_TNK.float().chunk(2, dim=-1)
    return (x_TNK.float() * cos + torch.cat([-b, a], dim=-1) * sin).to(x_TNK.dtype)
