"""How much memory a training will take, said before anything is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from danqing.adapters.targets import targets
from danqing.errors import TrainingError
from danqing.models.transformer import Transformer, TransformerConfig
from danqing.training.optimise import STATE_BYTES
from danqing.training.settings import Settings, chosen_layers
from danqing.training.simulate import step_bytes
from danqing.weights import loader
from danqing.weights.files import dtype_named
from danqing.weights.plan import gigabytes

Shapes = Sequence[tuple[int, int, int]]  # rows, columns and text tokens of each picture of a pack
ROOM = 0.03  # of the sum, for what kernels and the allocator take for themselves
QUANTISED_LAYERS = (".qkv.", ".out.", ".mlp_in.", ".mlp_out.", ".mod.")


@dataclass(frozen=True)
class Plan:
    """Bytes, by what they are for; ``trained`` counts parameters.

    ``process`` is what Python and torch take without any of it. ``working`` is the most that
    activations and gradients take together during a step.
    """

    trained: int
    weights: int
    adapter: int
    optimiser: int
    average: int
    working: int
    process: int

    @property
    def gradients(self) -> int:
        """A part of ``working``; float32, as what is trained."""
        return 4 * self.trained

    @property
    def peak(self) -> int:
        kept = self.weights + self.adapter + self.optimiser + self.average
        return self.process + round((1 + ROOM) * (kept + self.working))


def plan(config: TransformerConfig, settings: Settings, shapes: Shapes, process: int = 0) -> Plan:
    """Of a training of this transformer on packs of these pictures."""
    network = loader.build(lambda: Transformer(config))
    assert isinstance(network, Transformer)
    trained = num_trained(network, settings)
    lora = settings.kind == "lora"
    copies = (1 if settings.ema else 0) + (1 if settings.holdout else 0)  # the best one is kept
    return Plan(
        trained=trained,
        weights=weight_bytes(network, settings),
        adapter=4 * trained if lora else 0,
        optimiser=STATE_BYTES[settings.optimiser] * trained,
        average=4 * trained * copies,
        working=step_bytes(config, settings, shapes),
        process=process,
    )


def num_trained(network: Transformer, settings: Settings) -> int:
    if settings.kind == "full":
        return sum(parameter.numel() for parameter in network.parameters())
    known = targets(network)
    shapes = [known[name].weight for name in chosen_layers(settings.targets, known)]
    magnitudes = sum(out for out, _ in shapes) if settings.dora else 0
    return sum(settings.rank * (out + width) for out, width in shapes) + magnitudes


def weight_bytes(network: Transformer, settings: Settings) -> int:
    dtype = torch.float32 if settings.kind == "full" else dtype_named(settings.dtype or "float32")
    total = 0
    for name, parameter in network.named_parameters():
        eight = settings.quantise != "none" and name.startswith("blocks.")
        if eight and name.endswith(".weight") and any(part in name for part in QUANTISED_LAYERS):
            total += parameter.numel() + 4 * parameter.shape[0]  # and a scale for each row
        else:
            total += parameter.numel() * dtype.itemsize
    return total


def savings(config: TransformerConfig, settings: Settings, shapes: Shapes) -> list[tuple[str, int]]:
    """What would lower the peak, and by how much; the most first."""
    now = plan(config, settings, shapes).peak
    ways: dict[str, Settings] = {}
    if not settings.checkpointing:
        ways["--checkpointing"] = replace(settings, checkpointing=True)
    if settings.kind == "lora" and settings.quantise == "none":
        ways["--quantise int8"] = replace(settings, quantise="int8")
    if settings.kind == "lora" and settings.dtype in (None, "float32"):
        ways["--dtype bfloat16"] = replace(settings, dtype="bfloat16")
    if settings.optimiser == "adamw":
        ways["--optimiser adamw8bit"] = replace(settings, optimiser="adamw8bit")
    found = [(way, now - plan(config, other, shapes).peak) for way, other in ways.items()]
    if len(shapes) > 1:
        found.append(("--batch 1", now - plan(config, settings, shapes[:1]).peak))
    return sorted(((w, saved) for w, saved in found if saved > 0), key=lambda pair: -pair[1])


def check_fits(
    config: TransformerConfig, settings: Settings, shapes: Shapes, process: int, free: int | None
) -> Plan:
    """The plan; TrainingError if it takes more than is free, with what would lower it."""
    found = plan(config, settings, shapes, process)
    needed = found.peak - process
    if free is not None and needed > free:
        ways = ", ".join(f"{w} saves {gigabytes(s)}" for w, s in savings(config, settings, shapes))
        raise TrainingError(
            f"the training takes {gigabytes(needed)}, {gigabytes(free)} are free; "
            f"{ways or 'use a machine with more memory'}"
        )
    return found
