"""What an adapter is, whatever file it came from: updates of a transformer's layers, by name.

Layers bear the published names (``transformer_blocks.0.attn.to_q``). An ``Update`` keeps the
tensors of the file as they are; ``delta`` and ``change`` are the formulas that make a matrix of
them. Axes: R rank. Does not know files, namings or networks.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

# Names of the tensors of an update, by kind; LoKr's two factors may each be a product.
LORA = ("down", "up", "up_bias")
LOHA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
LOKR = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b")
FULL = ("diff",)
ANY = ("magnitude", "bias")  # beside each kind


@dataclass(frozen=True)
class Sampling:
    """How to sample with an adapter that was made for few steps.

    ``also``: the noise levels for other numbers of steps that it serves.
    """

    steps: int
    sigmas: tuple[float, ...] | None = None
    guidance: float | None = None
    also: tuple[tuple[float, ...], ...] = ()

    def levels(self, steps: int | None) -> tuple[float, ...] | None:
        """Those of so many steps, where they are known."""
        known = {len(own) - 1: own for own in self.also}
        return self.sigmas if steps == self.steps else known.get(steps or 0)

    def serves(self, steps: int | None) -> bool:
        return steps == self.steps or any(len(own) - 1 == steps for own in self.also)

    def __str__(self) -> str:
        given = ", ".join(f"{sigma:.4g}" for sigma in self.sigmas or () if sigma)
        levels = f" at {given}" if given else ""
        guidance = f", guidance {self.guidance:g}" if self.guidance is not None else ""
        others = ", ".join(str(len(own) - 1) for own in self.also)
        return f"{self.steps} steps{levels}{guidance}{f' (also {others} steps)' if others else ''}"


@dataclass(frozen=True)
class Update:
    """What an adapter does to one layer.

    ``parts``, by kind (``magnitude`` and ``bias`` may come with any):
        lora: down [R, in], up [out, R], up_bias [out] (of the up projection, scaled with it)
        loha: hada_w1_a, hada_w2_a [out, R], hada_w1_b, hada_w2_b [R, in]
        lokr: lokr_w1 [a, b], lokr_w2 [c, d] with a c = out and b d = in; each may be given as a
            product _a [a, R], _b [R, b]
        full: diff [out, in], or [D] for a norm's gain
        magnitude: [out] or, over the input axis, [1, in]: weight-decomposed (DoRA)
        bias: [out], a change of the layer's bias
    ``alpha`` over the rank is the scale; of a Kronecker product of whole matrices, which has no
    rank, it is the scale itself. Without it the scale is 1.
    """

    parts: Mapping[str, Tensor]
    alpha: float | None = None

    @property
    def kind(self) -> str:
        kinds = {"down": "lora", "hada_w1_a": "loha", "lokr_w1": "lokr", "lokr_w1_a": "lokr"}
        return next((kind for part, kind in kinds.items() if part in self.parts), "full")

    @property
    def rank(self) -> int | None:
        """The inner size; none for whole matrices."""
        for part in ("down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b"):
            if part in self.parts:
                return self.parts[part].shape[0]
        return None

    @property
    def scale(self) -> float:
        if self.alpha is None or self.kind == "full":
            return 1.0
        return self.alpha / (self.rank or 1)

    @property
    def magnitude(self) -> Tensor | None:
        return self.parts.get("magnitude")

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Of the weight that it changes; none if it changes the bias only."""
        parts = self.parts
        if self.kind == "lora":
            return parts["up"].shape[0], parts["down"].shape[1]
        if self.kind == "loha":
            return parts["hada_w1_a"].shape[0], parts["hada_w1_b"].shape[1]
        if self.kind == "lokr":
            (a, b), (c, d) = factor_shape(parts, "lokr_w1"), factor_shape(parts, "lokr_w2")
            return a * c, b * d
        return tuple(parts["diff"].shape) if "diff" in parts else None

    @property
    def bytes(self) -> int:
        return sum(part.numel() * part.element_size() for part in self.parts.values())

    def to(self, device: torch.device, dtype: torch.dtype) -> "Update":
        return Update({n: part.to(device, dtype) for n, part in self.parts.items()}, self.alpha)


@dataclass(frozen=True)
class Adapter:
    """Updates by the published name of their layer, and what the file says about itself.

    ``naming`` describes how the file names its tensors, ``notes`` anything odd in it. ``base`` is
    the id and fingerprint of the model it was made for, where known.
    """

    updates: Mapping[str, Update]
    naming: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    base: Mapping[str, str] | None = None
    sampling: Sampling | None = None
    notes: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        return sum(update.bytes for update in self.updates.values())


# ---- formulas ---------------------------------------------------------------------------------


def delta(update: Update) -> Tensor:
    """The update as a float32 matrix at strength 1, before any magnitude."""
    parts = {name: part.float() for name, part in update.parts.items()}
    if update.kind == "lora":
        return update.scale * (parts["up"] @ parts["down"])
    if update.kind == "loha":  # FedPara (arXiv 2108.06098): two products, element by element
        first = parts["hada_w1_a"] @ parts["hada_w1_b"]
        return update.scale * (first * (parts["hada_w2_a"] @ parts["hada_w2_b"]))
    if update.kind == "lokr":  # LyCORIS (arXiv 2309.14859): a Kronecker product
        return update.scale * torch.kron(factor(parts, "lokr_w1"), factor(parts, "lokr_w2"))
    return parts["diff"]


def change(update: Update, weight: Tensor) -> Tensor:
    """What the update adds to this weight at strength 1, float32."""
    if update.magnitude is None:
        return delta(update)
    weight = weight.float()
    moved = weight + delta(update)
    return moved * gain(update.magnitude.float(), moved) - weight


def gain(magnitude: Tensor, moved: Tensor) -> Tensor:
    """DoRA (arXiv 2402.09353): magnitude over the moved weight's norm, [out, 1] or [1, in]."""
    if magnitude.ndim == 1:
        return (magnitude / moved.norm(dim=1))[:, None]
    return magnitude / moved.norm(dim=0, keepdim=True)


def bias_change(update: Update) -> Tensor | None:
    """What the update adds to the layer's bias at strength 1, float32."""
    own, of_up = update.parts.get("bias"), update.parts.get("up_bias")
    if of_up is None:
        return None if own is None else own.float()
    scaled = update.scale * of_up.float()
    return scaled if own is None else scaled + own.float()


def factor(parts: Mapping[str, Tensor], name: str) -> Tensor:
    """A factor of a Kronecker product, given whole or as a product of two."""
    return parts[name] if name in parts else parts[f"{name}_a"] @ parts[f"{name}_b"]


def factor_shape(parts: Mapping[str, Tensor], name: str) -> tuple[int, int]:
    if name in parts:
        return parts[name].shape[0], parts[name].shape[1]
    return parts[f"{name}_a"].shape[0], parts[f"{name}_b"].shape[1]
