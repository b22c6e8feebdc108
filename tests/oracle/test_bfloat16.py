"""bfloat16: danqing is not further from the float32 truth than diffusers is in bfloat16.

The truth is the float32 oracle on the same weights and inputs, all of which bfloat16 can hold; so
only the rounding inside the networks is compared. The statistic: the squared error of every
output, divided by the mean square of the true tensor, averaged over models and inputs with equal
weight; then the root. One ratio for each kind, over ``MODELS`` x ``INPUTS`` cases.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from diffusers import QwenImagePipeline
from torch import Tensor

from danqing.engine import Pipeline, load
from danqing.models.layout import Layout, Segment

from . import reference
from .compare import normal
from .random_models import build, save
from .random_specs import draw

HALF = torch.bfloat16
MODELS = range(100, 108)
INPUTS = range(3)
ALLOWED = 1.1
SIGMAS = (1.0, 0.625, 0.1875)  # bfloat16 holds them; the oracle rounds its timestep
PROMPTS = ["a red fox", "一只红色的狐狸在雪地里, and more than that", "the sea by a hill " * 4]


@dataclass(frozen=True)
class Trio:
    """One model three times: the truth in float32, diffusers and danqing in bfloat16."""

    truth: QwenImagePipeline
    oracle: QwenImagePipeline
    pipe: Pipeline


def make_trio(seed: int, folder: Path) -> Trio:
    spec = draw(seed).with_vae(base_dim=12)  # 3-D convolutions in bfloat16 are slow on a CPU
    truth = build(spec)
    for component in (truth.transformer, truth.text_encoder, truth.vae):
        for parameter in component.parameters():
            parameter.copy_(parameter.to(HALF))
    save(truth, spec, folder)
    oracle = QwenImagePipeline.from_pretrained(folder, dtype=HALF)
    return Trio(truth, oracle, load(str(folder), device="cpu", dtype="bfloat16"))


@pytest.fixture(scope="module")
def trios(tmp_path_factory: pytest.TempPathFactory) -> list[Trio]:
    return [make_trio(s, tmp_path_factory.mktemp("bfloat16") / str(s)) for s in MODELS]


Kind = Callable[[Trio, int], Iterator[Tensor]]  # yields the truth, diffusers' and danqing's


def rounded(x: Tensor) -> Tensor:
    return x.to(HALF).float()


def features(trio: Trio, i: int) -> Iterator[Tensor]:
    yield reference.features(trio.truth, [PROMPTS[i]])[0]
    yield reference.features(trio.oracle, [PROMPTS[i]])[0]
    yield trio.pipe.encode([PROMPTS[i]])[0].features


def velocities(trio: Trio, i: int, sigmas: tuple[float, ...] = SIGMAS) -> Iterator[Tensor]:
    config, segment = trio.truth.transformer.config, Segment(5, 4 + i, text=9 + 7 * i)
    grid = (segment.rows, segment.columns)
    patches = rounded(normal((segment.patches, config.in_channels), i))
    text = rounded(2 * normal((segment.text, config.joint_attention_dim), i + 50))
    arguments = (grid, sigmas[i])
    yield reference.velocity(trio.truth.transformer, patches, text, *arguments)
    half = patches.to(HALF), text.to(HALF)
    yield reference.velocity(trio.oracle.transformer, *half, *arguments)
    network = trio.pipe.model.transformer
    with torch.inference_mode():
        yield network(*half, Layout((segment,)), network.bake(sigmas), torch.tensor([i]))


def images(trio: Trio, i: int) -> Iterator[Tensor]:
    latent = rounded(normal((1, trio.truth.vae.config.z_dim, 4, 3 + i), i))
    yield reference.decoded(trio.truth.vae, latent)
    yield reference.decoded(trio.oracle.vae, latent.to(HALF))
    with torch.inference_mode():
        yield trio.pipe.model.vae.decode(latent.to(HALF))


def relative_square(found: Tensor, truth: Tensor) -> float:
    error, scale = found.double() - truth.double(), truth.double()
    return (error.square().mean() / scale.square().mean()).item()


def errors(trios: list[Trio], kind: Kind) -> tuple[float, float]:
    """danqing's and diffusers' relative error over all models and inputs."""
    ours, theirs = [], []
    for trio in trios:
        for i in INPUTS:
            truth, oracle, danqing = kind(trio, i)
            assert oracle.dtype == danqing.dtype == HALF
            ours.append(relative_square(danqing, truth))
            theirs.append(relative_square(oracle, truth))
    return (sum(ours) / len(ours)) ** 0.5, (sum(theirs) / len(theirs)) ** 0.5


@pytest.mark.parametrize("kind", [features, velocities, images])
def test_error(trios: list[Trio], kind: Kind) -> None:
    ours, theirs = errors(trios, kind)
    assert 1e-3 < theirs < 0.1
    assert ours <= ALLOWED * theirs, f"{ours / theirs:.3f} times the oracle's own error"


def test_a_noise_level_that_bfloat16_cannot_hold(trios: list[Trio]) -> None:
    """The oracle rounds its timestep first; danqing's table starts from float32."""

    def kind(trio: Trio, i: int) -> Iterator[Tensor]:
        return velocities(trio, i, (0.9061342478, 0.7667093277, 0.4556137323))

    ours, theirs = errors(trios, kind)
    assert ours < 0.5 * theirs
