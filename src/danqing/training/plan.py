"""How much memory a training will take, said before anything is loaded.

A run goes through phases that hold different things: the encoders fill the cache and leave, the
transformer comes, steps are made, and now and then it measures, saves and paints. The peak is that
of the phase that takes the most.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

import torch

from danqing.adapters.targets import targets
from danqing.errors import TrainingError
from danqing.models.text_encoder import TextEncoder, TextEncoderConfig
from danqing.models.transformer import Transformer, TransformerConfig
from danqing.models.vae import VAE, VAEConfig
from danqing.training.measure import SIGMAS, levels_at_once
from danqing.training.optimise import STATE_BYTES
from danqing.training.settings import Settings, chosen_layers
from danqing.training.simulate import (
    Shapes,
    decode_bytes,
    encode_bytes,
    forward_bytes,
    step_bytes,
    text_bytes,
)
from danqing.weights import loader
from danqing.weights.files import READ_AT_ONCE, SHARD_BYTES, dtype_named
from danqing.weights.plan import gigabytes, weight_bytes

QUANTISED_LAYERS = (".qkv.", ".out.", ".mlp_in.", ".mlp_out.", ".mod.")

# Measured on a CPU with torch 2.13: code that is touched for the first time, modules that are
# imported after the plan was made, and what matrix products keep for themselves. With `mini` it was
# 10 MB through `train` alone, and 45 MB with the command line and TensorBoard.
LIBRARIES = 30 * 1024**2
# Of what comes and goes: gaps that the allocator leaves.
ROOM = 0.05
# Small tensors, whose sizes change with the captions, leave more. With `mini`, whose tensors
# are all small, 87 MB lay idle beside 45 MB of activations; larger ones are mapped one by one.
GAPS = 64 * 1024**2


@dataclass(frozen=True)
class Around:
    """What a run holds and does around its steps; sizes are (width, height) in pixels.

    Attributes:
        largest: size of the largest picture that is encoded.
        sample: size of the samples.
        sample_steps: noise levels of the samples' schedule.
        tokens: of the longest text.
        data: bytes of latents and texts that stay in memory.
        encoded: whether the cache is full already.
        cpu: whether the network is in the process's own memory.
    """

    text_encoder: TextEncoderConfig
    vae: VAEConfig
    largest: tuple[int, int]
    sample: tuple[int, int]
    sample_steps: int
    tokens: int
    data: int = 0
    encoded: bool = False
    cpu: bool = True


@dataclass(frozen=True)
class Plan:
    """Bytes, by what they are for; ``trained`` counts parameters.

    ``working`` is the most that activations and gradients take together during a step, ``process``
    what Python and torch take without any of it, and ``phases`` what each part of the run takes
    beyond that.
    """

    trained: int
    weights: int
    adapter: int
    optimiser: int
    average: int
    working: int
    process: int
    phases: dict[str, int]

    @property
    def gradients(self) -> int:
        """A part of ``working``; float32, as what is trained."""
        return 4 * self.trained

    @property
    def fullest(self) -> str:
        """The phase that takes the most."""
        return max(self.phases, key=lambda name: self.phases[name])

    @property
    def peak(self) -> int:
        return self.process + self.phases[self.fullest]


def plan(
    config: TransformerConfig,
    settings: Settings,
    shapes: Shapes,
    process: int = 0,
    around: Around | None = None,
) -> Plan:
    """Of a training of this transformer on packs of these pictures.

    Without ``around``: of the steps and of what is done between them, on a CPU.
    """
    run = Run(config, settings, shapes, around)
    return Plan(
        trained=run.trained,
        weights=run.weights,
        adapter=run.adapter,
        optimiser=run.optimiser,
        average=run.average,
        working=run.working,
        process=process,
        phases=run.phases(),
    )


class Run:
    """What a run holds, and what it takes beside that in each of its phases."""

    def __init__(
        self, config: TransformerConfig, settings: Settings, shapes: Shapes, around: Around | None
    ) -> None:
        self.config, self.settings, self.shapes, self.around = config, settings, shapes, around
        self.cpu = around is None or around.cpu
        self.dtype = dtype_of(settings)
        self.network = cast(Transformer, loader.build(lambda: Transformer(config)))
        self.trained = num_trained(self.network, settings)
        copies = (1 if settings.ema else 0) + (1 if settings.holdout else 0)  # the best one is kept
        self.weights = network_bytes(self.network, settings)
        self.adapter = 4 * self.trained if settings.kind == "lora" else 0
        self.optimiser = STATE_BYTES[settings.optimiser] * self.trained
        self.average = 4 * self.trained * copies
        self.working = step_bytes(config, settings, shapes)

    def phases(self) -> dict[str, int]:
        settings, between = self.settings, self.kept + 4 * self.trained  # with the gradients
        found = {
            "step": self.kept + added(self.working) + self.gaps,
            "update": between + added(self.update()),
        }
        if settings.holdout:
            found["measure"] = between + added(self.measure())
        if self.cpu:
            found["save"] = between + added(self.save())
        if self.around is not None:
            found["load"] = self.weights + self.beside + added(self.load())
            if settings.quantise != "none":
                found["compare"] = self.weights + self.beside + added(self.compare())
            if not self.around.encoded:
                found["encode"] = self.encode(self.around)
            if settings.prompts and settings.sample_every:
                found["paint"] = between + added(self.paint(self.around))
        return {name: size + (LIBRARIES if self.cpu else 0) for name, size in found.items()}

    # ---- held -----------------------------------------------------------------------------

    @property
    def kept(self) -> int:
        return self.weights + self.adapter + self.optimiser + self.average + self.beside

    @cached_property
    def beside(self) -> int:
        """The decoder for the samples, and the data."""
        if self.around is None:
            return 0
        decoder = self.vae_bytes(self.around) if self.settings.prompts else 0
        return decoder + (self.around.data if self.cpu else 0)

    def vae_bytes(self, around: Around) -> int:
        return weight_bytes(loader.build(lambda: VAE(around.vae)), self.dtype)

    @cached_property
    def largest(self) -> int:
        """Numbers in the largest matrix of the network."""
        return max(parameter.numel() for parameter in self.network.parameters())

    @property
    def gaps(self) -> int:
        return min(GAPS, self.working) if self.cpu else 0

    # ---- coming and going -----------------------------------------------------------------

    def encode(self, around: Around) -> int:
        text = loader.build(lambda: TextEncoder(around.text_encoder))
        own = weight_bytes(text, self.dtype) + self.vae_bytes(around)
        return own + added(
            max(
                encode_bytes(around.vae, *around.largest, self.dtype),
                text_bytes(around.text_encoder, around.tokens, self.dtype),
            )
        )

    def load(self) -> int:
        """A matrix on its way into eight bits is there in its own dtype, and twice in float32."""
        if self.settings.quantise != "none":
            return max(self.read, (self.dtype.itemsize + 8) * self.largest)
        return self.read

    def compare(self) -> int:
        """The rounded weights with those of the files, which are read again one by one."""
        return self.read + self.dtype.itemsize * self.largest + self.evaluate()

    @property
    def read(self) -> int:
        """Of the files, bfloat16 as models are published, until what was read is let go."""
        size = weight_bytes(self.network, torch.bfloat16)
        return min(READ_AT_ONCE, size) if self.cpu else 0

    def update(self) -> int:
        """torch's AdamW goes from one parameter to the next on a CPU, and on a GPU over all."""
        if not self.cpu:
            return 4 * self.trained
        one = self.largest if self.settings.kind == "full" else self.settings.rank * self.largest
        return 8 * min(one, self.trained)

    def measure(self) -> int:
        """A picture at its noise levels; then a new best one beside the last."""
        return max(self.evaluate(), 4 * self.trained)

    def evaluate(self) -> int:
        """A picture at as many noise levels as go together."""
        rows, columns, _ = self.shapes[0]
        pack = [self.shapes[0]] * min(len(SIGMAS), levels_at_once(rows * columns))
        return forward_bytes(self.config, self.settings, pack)

    def save(self) -> int:
        """The state goes to its file as it comes. Of all weights a model is written: the live ones
        are put aside, and there are a shard and its content. An adapter is written likewise."""
        shard = min(SHARD_BYTES, 2 * self.trained) if self.settings.kind == "full" else 0
        return 4 * self.trained + (2 * shard or 8 * self.trained)

    def paint(self, around: Around) -> int:
        """With guidance two evaluations ride together; then comes the decoder."""
        width, height = around.sample
        side = 2 * around.vae.factor
        pack = [(height // side, width // side, around.tokens)] * 2
        rows = 12 * self.config.width * self.config.num_layers * self.dtype.itemsize
        table = around.sample_steps * rows  # modulation of all steps
        return max(
            table + forward_bytes(self.config, self.settings, pack),
            decode_bytes(around.vae, width, height, self.dtype),
        )


def added(work: int) -> int:
    return round((1 + ROOM) * work)


def dtype_of(settings: Settings) -> torch.dtype:
    full = settings.kind == "full"
    return torch.float32 if full else dtype_named(settings.dtype or "float32")


def num_trained(network: Transformer, settings: Settings) -> int:
    if settings.kind == "full":
        return sum(parameter.numel() for parameter in network.parameters())
    known = targets(network)
    shapes = [known[name].weight for name in chosen_layers(settings.targets, known)]
    magnitudes = sum(out for out, _ in shapes) if settings.dora else 0
    return sum(settings.rank * (out + width) for out, width in shapes) + magnitudes


def network_bytes(network: Transformer, settings: Settings) -> int:
    dtype, total = dtype_of(settings), 0
    for name, parameter in network.named_parameters():
        eight = settings.quantise != "none" and name.startswith("blocks.")
        if eight and name.endswith(".weight") and any(part in name for part in QUANTISED_LAYERS):
            total += parameter.numel() + 4 * parameter.shape[0]  # and a scale for each row
        else:
            total += parameter.numel() * dtype.itemsize
    return total


# ---- whether it fits --------------------------------------------------------------------------


def savings(
    config: TransformerConfig, settings: Settings, shapes: Shapes, around: Around | None = None
) -> list[tuple[str, int]]:
    """What would lower the peak, and by how much; the most first."""

    def peak(own: Settings, pack: Shapes = shapes) -> int:
        return plan(config, own, pack, around=around).peak

    ways: dict[str, Settings] = {}
    if not settings.checkpointing:
        ways["--checkpointing"] = replace(settings, checkpointing=True)
    if settings.kind == "lora" and settings.quantise == "none":
        ways["--quantise int8"] = replace(settings, quantise="int8")
    if settings.kind == "lora" and settings.dtype in (None, "float32"):
        ways["--dtype bfloat16"] = replace(settings, dtype="bfloat16")
    if settings.optimiser == "adamw":
        ways["--optimiser adamw8bit"] = replace(settings, optimiser="adamw8bit")
    if settings.ema:
        ways["--ema 0"] = replace(settings, ema=0.0)
    now = peak(settings)
    found = [(way, now - peak(other)) for way, other in ways.items()]
    if len(shapes) > 1:
        found.append(("--batch 1", now - peak(settings, shapes[:1])))
    return sorted(((w, saved) for w, saved in found if saved > 0), key=lambda pair: -pair[1])


def check_fits(
    config: TransformerConfig,
    settings: Settings,
    shapes: Shapes,
    process: int,
    free: int | None,
    around: Around | None = None,
) -> Plan:
    """The plan; TrainingError if it takes more than is free, with what would lower it."""
    found = plan(config, settings, shapes, process, around)
    needed = found.peak - process
    if free is not None and needed > free:
        own = savings(config, settings, shapes, around)
        ways = ", ".join(f"{way} saves {gigabytes(saved)}" for way, saved in own)
        raise TrainingError(
            f"the training takes {gigabytes(needed)} ({found.fullest}), {gigabytes(free)} are "
            f"free; {ways or 'use a machine with more memory'}"
        )
    return found
