"""Each network against its oracle, over random configurations opened from saved folders."""

from collections.abc import Callable
from random import Random

import pytest
import torch
from diffusers import QwenImageTransformer2DModel
from torch import Tensor

from danqing.models.layout import Layout, Segment
from danqing.models.transformer import Transformer, TransformerConfig
from danqing.weights.names import NAMES

from . import reference
from .compare import assert_close, normal, uniform_in
from .random_models import Pair, randomise
from .random_specs import draw

SEEDS = range(24)
PROMPTS = [
    "a red fox",
    "一只红色的狐狸在雪地里",
    "two foxes on a hill, 一只猫 by the sea",
    "",
    "A far longer text of many words, so that the lengths in a batch are as unequal as can be; "
    "it tells of the sea, of a hill and of snow that falls and falls",
]
GRIDS = [(1, 1), (5, 4), (4, 7), (3, 3), (8, 2), (2, 8), (1, 9), (6, 6)]  # rows, columns
SIGMAS = [1.0, 0.9061342478, 0.5, 0.0199999809, 0.3]
GetPair = Callable[[int], Pair]


def random_pack(seed: int, channels: int, joint: int) -> tuple[list[Segment], Tensor, Tensor]:
    """A few images of unequal grids and text lengths, two of them equal neighbours."""
    chance = Random(seed)
    segments = [Segment(*grid, text=chance.randint(1, 24)) for grid in chance.sample(GRIDS, 4)]
    segments.insert(2, segments[1])
    patches = normal((sum(s.patches for s in segments), channels), seed)
    return segments, patches, 2 * normal((sum(s.text for s in segments), joint), seed + 1)


@torch.no_grad()
def packed_velocity(
    network: Transformer, segments: list[Segment], patches: Tensor, text: Tensor
) -> list[Tensor]:
    """danqing's velocities of one pack in which every image has a noise level of its own."""
    layout = Layout(tuple(segments))
    table = network.bake(SIGMAS)
    out = network(patches, text, layout, table, torch.arange(len(segments)))
    return list(out.split(layout.patch_lengths))


def assert_velocities(
    network: Transformer, oracle: QwenImageTransformer2DModel, seed: int, **conditions: Tensor
) -> None:
    config = network.config
    segments, patches, text = random_pack(seed, config.in_channels, config.joint_attention_dim)
    ours = packed_velocity(network, segments, patches, text)
    parts = patches.split([s.patches for s in segments]), text.split([s.text for s in segments])
    for i, (segment, part, words) in enumerate(zip(segments, *parts, strict=True)):
        grid = (segment.rows, segment.columns)
        theirs = reference.velocity(oracle, part, words, grid, SIGMAS[i], **conditions)
        assert theirs.std() > 0.1
        assert_close(ours[i], theirs)


def copied(oracle: QwenImageTransformer2DModel, config: TransformerConfig) -> Transformer:
    """danqing's transformer with the oracle's weights, without a file between them."""
    network, state = Transformer(config), oracle.state_dict()
    for name, parameter in network.named_parameters():
        parts = [state.pop(theirs) for theirs in NAMES["transformer"].in_file(name)]
        parameter.data.copy_(torch.cat(parts))
    assert not state, f"not used: {sorted(state)}"
    return network


@pytest.mark.parametrize("seed", SEEDS)
def test_text_features(pair_of: GetPair, seed: int) -> None:
    pair = pair_of(seed)
    ours = [t.features for t in pair.pipe.encode(PROMPTS)]
    alone = [reference.features(pair.oracle, [prompt])[0] for prompt in PROMPTS]
    batched = reference.features(pair.oracle, PROMPTS)
    assert len({len(features) for features in ours}) > 2
    for mine, single, row in zip(ours, alone, batched, strict=True):
        assert_close(mine, single)
        assert_close(mine, row)


@pytest.mark.parametrize("seed", SEEDS)
def test_velocity(pair_of: GetPair, seed: int) -> None:
    pair = pair_of(seed)
    assert_velocities(pair.pipe.model.transformer, pair.oracle.transformer, seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_vae_mean_and_variance(pair_of: GetPair, seed: int) -> None:
    pair = pair_of(seed)
    for shape in ((1, 3, 40, 56), (2, 3, 64, 24)):
        image = uniform_in(-1, 1, shape, seed)
        ours, theirs = pair.pipe.model.vae.encode(image), reference.moments(pair.oracle.vae, image)
        assert theirs[0].std() > 0.1
        assert_close(ours[0], theirs[0])
        assert_close(ours[1], theirs[1])


@pytest.mark.parametrize("seed", SEEDS)
def test_pixels(pair_of: GetPair, seed: int) -> None:
    pair = pair_of(seed)
    for grid in ((5, 7), (8, 3)):
        latent = normal((pair.spec.vae["z_dim"], *grid), seed)
        raw = reference.raw_latent(pair.oracle.vae, latent[None])
        theirs = reference.decoded(pair.oracle.vae, raw)[0]
        inside = (theirs.abs() < 1).float().mean()
        assert inside > 0.5, "a picture that is all clamped would prove nothing"
        assert_close(pair.pipe.decode([latent])[0], theirs)
        back = pair.pipe.model.vae.normalise(raw)
        assert_close(back, latent[None])


def test_the_oracles_encode_is_the_encoder_on_one_frame(pair_of: GetPair) -> None:
    plain = [pair_of(seed) for seed in SEEDS if not draw(seed).vae["attn_scales"]]
    assert len(plain) >= 5
    for pair in plain[:5]:
        image = uniform_in(-1, 1, (1, 3, 40, 56), pair.spec.seed)
        whole = pair.oracle.vae.encode(image[:, :, None]).latent_dist.mean[:, :, 0]
        assert torch.equal(whole, reference.moments(pair.oracle.vae, image)[0])


@pytest.mark.parametrize("layered", [False, True])
@pytest.mark.parametrize("zero_cond", [False, True])
@pytest.mark.parametrize("conditioned", [False, True])
def test_velocity_of_the_rarer_switches(layered: bool, zero_cond: bool, conditioned: bool) -> None:
    """What config.json can say besides the sizes, as text to image uses it."""
    shared = (
        draw(3)
        .with_transformer(use_layer3d_rope=layered, use_additional_t_cond=conditioned)
        .transformer
    )
    oracle = QwenImageTransformer2DModel(**shared, zero_cond_t=zero_cond)
    randomise(oracle, 5)
    network = copied(oracle, TransformerConfig(**shared)).requires_grad_(False)
    row = {"additional_t_cond": torch.tensor([0])} if conditioned else {}
    assert_velocities(network, oracle, 7, **row)
