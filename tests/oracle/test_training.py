"""Trainings against a peer: diffusers' network and PEFT's adapter, taught the same pictures with
the same captions, noise and noise levels from the same start.

danqing sees the pictures of a step in packs, the peer one by one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import QwenImageTransformer2DModel
from torch import Tensor, nn

from danqing.training import prepare
from danqing.training.data.pictures import Picture
from danqing.training.data.records import Place, Record
from danqing.training.loop import Stepped, Training
from danqing.training.loss import Example, sigma_sampler
from danqing.training.memory import checkpoint_blocks
from danqing.training.settings import Settings, make
from danqing.training.stock import Stock, Take
from danqing.training.subject import FullSubject, LoraSubject
from danqing.weights.configs import read_schedule
from danqing.weights.names import NAMES

from . import training_reference as reference
from .adapter_files import ATTENTION, MLP, all_linears, in_blocks
from .compare import normal
from .random_models import Pair
from .test_components import GetPair
from .training_reference import Loss, Shown

# Relative differences allowed, and in brackets those found; a gradient's and a weight's are
# relative to the largest value of their tensor.
GRADIENTS = 1e-5  # (2.6e-6)
LOSSES, NORMS = 6e-7, 2e-6  # of any of 30 steps (2.0e-7, 5.3e-7)
WEIGHTS = 1e-3  # after 30 steps (2.1e-4): Adam makes steps of one size of the smallest gradients
KINDS: dict[str, dict[str, bool]] = {
    "LoRA": {},
    "rank-stabilised": {"rank_stabilised": True},
    "DoRA": {"dora": True},
}
# Captions, sizes in pixels, and what a picture counts; the second and third are of one shape.
PICTURES = [
    ("a red fox", (64, 64), 1.0),
    ("一只猫", (96, 32), 1.0),
    ("a cat", (96, 32), 0.5),
    ("a house in the snow, far away", (32, 48), 1.0),
    ("a hill by the sea", (48, 80), 1.0),
]
PRIOR = "a place"
SETTINGS = {
    "data": ["photos"],
    "out": "mine.safetensors",
    "targets": ["all"],
    "rank": 4,
    "alpha": 6.0,
    "caption_dropout": 0.2,
    "batch": 2,
    "rate": 1e-2,
    "ema": 0.0,
    "save_every": 0,
    "evaluate_every": 0,
    "sample_every": 0,
    "prior_prompts": [PRIOR],
}
WORDS = {
    "lora_A.default.weight": "down",
    "lora_B.default.weight": "up",
    "lora_magnitude_vector.default.weight": "magnitude",
}
Parts = dict[str, tuple[Tensor, Tensor]]  # values and gradients
Parameters = Mapping[str, nn.Parameter]


# ---- what is learnt from ----------------------------------------------------------------------


@dataclass(frozen=True)
class Shelf:
    """Random latents and text features that follow from a picture's and a caption's name."""

    channels: int
    joint: int

    def latents(self, picture: Picture) -> tuple[Tensor, Tensor]:
        width, height = (pixels // reference.FACTOR for pixels in picture.size)
        mean = normal((self.channels, height, width), int(picture.record.origin))
        return mean, torch.full_like(mean, -4.0)

    def text(self, caption: str) -> Tensor:
        return 2 * normal((2 + len(caption), self.joint), len(caption))


class WatchedStock(Stock):
    """Keeps what it hands out as it was before danqing packed it."""

    def __init__(self, pictures: Sequence[Picture], shelf: Shelf, take: Take) -> None:
        super().__init__(pictures, shelf, take)
        self.shelf = shelf
        self.shown: list[Shown] = []

    def laid(
        self, picture: Picture, clean: Tensor, noise: Tensor, caption: str, sigma: float
    ) -> Example:
        text, weight = self.shelf.text(caption), picture.record.weight
        self.shown.append(Shown(clean, noise, text, sigma, weight))
        return super().laid(picture, clean, noise, caption, sigma)


def settings(**values: Any) -> Settings:
    return make({**SETTINGS, **values})


def stock(pair: Pair, own: Settings) -> WatchedStock:
    config = pair.oracle.transformer.config
    options = {"mean": own.sigma_mean, "std": own.sigma_std, "shift": own.shift}
    draw_sigma = sigma_sampler(own.sigma, options, read_schedule(pair.folder))
    pictures = [
        Picture(Record(str(n), Place(Path(str(n))), (caption,), weight=weight), size)
        for n, (caption, size, weight) in enumerate(PICTURES)
    ]
    shelf = Shelf(config.in_channels // 4, config.joint_attention_dim)
    return WatchedStock(pictures, shelf, Take(draw_sigma, own.caption_dropout, None, own.seed))


def steps_of(pair: Pair, own: Settings) -> list[list[Shown]]:
    """The pictures of every step, those of all its packs together."""
    found = stock(pair, own)
    for place in range(own.steps * own.accumulate):
        found.examples(place, own.batch)
    size = own.batch * own.accumulate
    return [found.shown[start : start + size] for start in range(0, len(found.shown), size)]


# ---- both sides -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Both:
    """The same training twice, at its beginning."""

    training: Training
    network: QwenImageTransformer2DModel  # the peer's
    parameters: Parameters  # what it trains, in danqing's words
    steps: list[list[Shown]]
    loss: Loss

    @property
    def ours(self) -> Parts:
        """What danqing trains and its gradients, named and cut as the peer's."""
        found: Parts = {}
        for name, parameter in self.training.parameters.items():
            gradient = gradient_of(parameter)
            names = self._names(name)
            cut = zip(parameter.detach().chunk(len(names)), gradient.chunk(len(names)), strict=True)
            found |= zip(names, cut, strict=True)
        return found

    @property
    def theirs(self) -> Parts:
        return {name: (p.detach(), gradient_of(p)) for name, p in self.parameters.items()}

    def _names(self, name: str) -> tuple[str, ...]:
        """An adapter's parts have published names; of all weights some are fused."""
        if self.training.settings.kind == "lora":
            return (name,)
        return NAMES["transformer"].in_file(name.replace(".block.", "."))  # of a checkpointed one


def both(pair: Pair, folder: Path, own: Settings, *, moved: bool = False) -> Both:
    training = begin(pair, folder, own)
    network = reference.open_network(pair.folder)
    parameters = trained(pair, network, own)
    if moved:
        move(training.parameters, own.seed)
    loss = Loss(own.weighting, own.prior, stock(pair, own).shelf.text(PRIOR))
    told = Both(training, network, parameters, steps_of(pair, own), loss)
    ours = told.ours
    assert set(ours) == set(parameters)
    with torch.no_grad():
        for name, parameter in parameters.items():
            assert own.kind == "lora" or torch.equal(parameter, ours[name][0])
            parameter.copy_(ours[name][0])
    return told


def begin(pair: Pair, folder: Path, own: Settings) -> Training:
    place = prepare.Place(pair.folder, torch.device("cpu"), torch.float32)
    network = prepare.load_transformer(place)
    subject = (LoraSubject if own.kind == "lora" else FullSubject)(network, own)
    if own.checkpointing:
        checkpoint_blocks(network)
    shown = stock(pair, own)
    return Training(subject, shown, [], [shown.shelf.text(PRIOR)], own, folder)


def trained(pair: Pair, network: QwenImageTransformer2DModel, own: Settings) -> Parameters:
    """What the peer trains: an adapter of the same layers, or all weights."""
    if own.kind == "full":
        return dict(network.requires_grad_(True).named_parameters())
    blocks = pair.spec.transformer["num_layers"]
    layers = {"usual": in_blocks(blocks, ATTENTION + MLP), "all": all_linears(blocks)}
    found = reference.add_adapter(
        network,
        layers[own.targets[0]],
        r=own.rank,
        lora_alpha=own.alpha,
        use_rslora=own.rank_stabilised,
        use_dora=own.dora,
    )
    return {in_our_words(name): parameter for name, parameter in found.items()}


def in_our_words(name: str) -> str:
    (end,) = (end for end in WORDS if name.endswith(end))
    return name.removesuffix(end) + WORDS[end]


@torch.no_grad()
def move(parameters: Parameters, seed: int) -> None:
    """As after some training: B is not zero, magnitudes are up to a third off."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in parameters.items():
        if name.endswith(".magnitude"):
            parameter.mul_(torch.empty_like(parameter).uniform_(0.7, 1.3, generator=generator))
        elif name.endswith(".up"):
            parameter.normal_(0, 0.1, generator=generator)


def gradient_of(parameter: nn.Parameter) -> Tensor:
    """Zero where a layer is of no use, as those behind the last block's text are."""
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def run(training: Training) -> list[Stepped]:
    return [event for event in training.run() if isinstance(event, Stepped)]


def relative(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, as a share of the tensor's largest value."""
    assert ours.shape == theirs.shape
    error = (ours.double() - theirs.double()).abs().max().item()
    return error / theirs.abs().max().item() if error else 0.0


# ---- the first step ---------------------------------------------------------------------------


def first(**values: Any) -> Settings:
    return settings(**{"steps": 1, "batch": 5, "clip": 0.0, **values})


def assert_first_step(pair: Pair, folder: Path, own: Settings, *, moved: bool) -> None:
    """Loss and gradients, which have their own size: nothing is clipped."""
    told = both(pair, folder, own, moved=moved)
    (step,) = run(told.training)
    loss, prior = reference.backward(told.network, told.steps[0], told.loss)
    assert step.loss == pytest.approx(loss, rel=1e-6)
    assert step.prior == pytest.approx(prior, rel=1e-5)
    ours, theirs = told.ours, told.theirs
    errors = {name: relative(ours[name][1], theirs[name][1]) for name in theirs}
    worst = max(errors, key=errors.__getitem__)
    assert errors[worst] <= GRADIENTS, f"{worst}: the gradient differs by {errors[worst]:.2e}"
    whole = torch.cat([gradient.double().flatten() for _, gradient in theirs.values()])
    assert step.norm == pytest.approx(whole.norm().item(), rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 1])
def test_gradients(pair_of: GetPair, tmp_path: Path, seed: int, kind: str) -> None:
    assert_first_step(pair_of(seed), tmp_path, first(seed=seed, **KINDS[kind]), moved=True)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_where_b_is_zero(pair_of: GetPair, tmp_path: Path, kind: str) -> None:
    assert_first_step(pair_of(3), tmp_path, first(seed=3, **KINDS[kind]), moved=False)


@pytest.mark.parametrize(
    "values",
    [
        {"accumulate": 2, "batch": 2},
        {"accumulate": 3, "batch": 1, "checkpointing": True, "dora": True},
        {"checkpointing": True},
        {"prior": 0.7, "dora": True},
        {"prior": 0.7, "weighting": "sigma_sqrt"},
        {"weighting": "cosmap"},
        {"targets": ["usual"], "dora": True},
        {"kind": "full"},
        {"kind": "full", "seed": 1, "accumulate": 2, "batch": 2, "checkpointing": True},
    ],
    ids=str,
)
def test_gradients_under_other_settings(
    pair_of: GetPair, tmp_path: Path, values: dict[str, Any]
) -> None:
    moved = values.get("kind") != "full"
    assert_first_step(pair_of(2), tmp_path, first(**values), moved=moved)


@pytest.mark.parametrize("kind", KINDS)
def test_the_start_is_pefts(pair_of: GetPair, tmp_path: Path, kind: str) -> None:
    """A uniform within the same bounds, B zero, magnitudes the weights' norms."""
    pair, own = pair_of(0), settings(**KINDS[kind], rank=64)
    ours = begin(pair, tmp_path, own).parameters
    theirs = trained(pair, reference.open_network(pair.folder), own)
    for name, their in theirs.items():
        if name.endswith(".down"):
            assert ours[name].std().item() == pytest.approx(their.std().item(), rel=0.1)
            most = their.abs().max().item()
            assert ours[name].abs().max().item() == pytest.approx(most, rel=0.01)
        else:
            torch.testing.assert_close(ours[name], their, rtol=1e-6, atol=0)


# ---- many steps -------------------------------------------------------------------------------


def rates(own: Settings) -> list[float]:
    """diffusers' schedule. Its first step has rate 0, so its warm-up is met one step later."""
    name = {"constant": "constant_with_warmup"}.get(own.schedule, own.schedule)
    found = reference.scheduled(name, own.rate, own.steps, own.warm_up)
    return [found[step + 1 if step < own.warm_up else step] for step in range(own.steps)]


def base_loss(pair: Pair, pictures: Sequence[Shown], loss: Loss) -> float:
    network = reference.open_network(pair.folder)
    with torch.no_grad():
        losses = [reference.picture_loss(network, shown, loss).item() for shown in pictures]
    return sum(losses) / len(losses)


@pytest.mark.parametrize(
    "values",
    [
        *({"seed": seed} for seed in (0, 1, 4)),
        *({"seed": 1, **values} for values in KINDS.values() if values),
        {"seed": 4, "steps": 15, "accumulate": 2, "schedule": "constant"},
        {"seed": 1, "steps": 15, "checkpointing": True, "targets": ["all"]},
        {"seed": 4, "steps": 15, "prior": 0.5, "weighting": "cosmap", "dora": True},
        {"seed": 4, "kind": "full", "rate": 2e-3},
    ],
    ids=str,
)
def test_curves(pair_of: GetPair, tmp_path: Path, values: dict[str, Any]) -> None:
    """Losses and norms of all steps, and the weights that they lead to."""
    usual = {"steps": 30, "warm_up": 5, "clip": 0.5, "targets": ["usual"]}
    pair, own = pair_of(values["seed"]), settings(**{**usual, **values})
    told = both(pair, tmp_path, own)
    theirs = reference.train(
        told.network,
        told.parameters.values(),
        told.steps,
        rates=rates(own),
        weight_decay=own.weight_decay,
        clip=own.clip,
        loss=told.loss,
    )
    ours = run(told.training)
    assert [step.rate for step in ours] == pytest.approx(rates(own))
    for step, (loss, norm) in zip(ours, theirs, strict=True):
        assert step.loss + step.prior == pytest.approx(loss, rel=LOSSES), f"step {step.step}"
        assert step.norm == pytest.approx(norm, rel=NORMS), f"step {step.step}"
    assert sum(norm > own.clip for _, norm in theirs) >= 5, "clipping is not tried"
    base = base_loss(pair, told.steps[-1], told.loss)
    assert theirs[-1][0] < 0.8 * base, "too little is learnt to prove much"
    assert_weights(told)


def assert_weights(told: Both) -> None:
    """Of layers of use: the others have no gradient here and one of zeros there, where weight
    decay goes on."""
    ours = told.ours
    for name, (weights, gradient) in told.theirs.items():
        error = relative(ours[name][0], weights) if gradient.any() else 0.0
        assert error <= WEIGHTS, f"{name} differs by {error:.2e}"
