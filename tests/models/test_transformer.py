"""The packed network against itself; its numbers are compared with the reference in oracle/."""

import math

import pytest
import torch
from torch import Tensor, nn

from danqing.models.layout import Layout, Segment
from danqing.models.transformer import Transformer, TransformerConfig, clip_half, time_waves
from tests import tiny

SEGMENTS = [Segment(4, 4, 7), Segment(3, 5, 40), Segment(4, 4, 7), Segment(1, 2, 1)]
LEVELS = (1.0, 0.6, 0.2)
ROWS = [0, 2, 1, 1]


@pytest.fixture
def network() -> Transformer:
    return tiny.transformer()


def inputs(segment: Segment, seed: int) -> tuple[Tensor, Tensor]:
    return tiny.draw(segment.patches, 64, seed=seed), tiny.draw(segment.text, 64, seed=seed + 50)


INPUTS = [inputs(segment, seed) for seed, segment in enumerate(SEGMENTS)]


def velocities(
    network: Transformer, places: list[int], given: list[tuple[Tensor, Tensor]] = INPUTS
) -> list[Tensor]:
    """Of the segments at ``places``, in one pack."""
    layout = Layout(tuple(SEGMENTS[p] for p in places))
    patches, text = (torch.cat([given[p][side] for p in places]) for side in (0, 1))
    rows = torch.tensor([ROWS[p] for p in places])
    out = network(patches, text, layout, network.bake(LEVELS), rows)
    return list(out.split(layout.patch_lengths))


def test_permuted_segments_give_permuted_velocities(network: Transformer) -> None:
    straight = velocities(network, [0, 1, 2, 3])
    for order in ([3, 2, 1, 0], [1, 3, 0, 2]):
        for place, found in zip(order, velocities(network, order), strict=True):
            assert torch.equal(found, straight[place])


def test_a_segment_never_sees_another_one(network: Transformer) -> None:
    other = [*INPUTS[:1], tuple(x + 1 for x in INPUTS[1]), *INPUTS[2:]]
    before, after = velocities(network, [0, 1, 2]), velocities(network, [0, 1, 2], other)
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[2], after[2])
    assert not torch.allclose(before[1], after[1])


def test_image_text_and_level_all_matter(network: Transformer) -> None:
    patches, text = INPUTS[0]
    plain = velocities(network, [0])[0]
    assert plain.shape == (16, 64)
    for given in ((patches.flip(0), text), (patches, text.flip(0))):
        assert not torch.allclose(velocities(network, [0], [given])[0], plain)
    other_level = velocities(network, [2], [*INPUTS[1:3], INPUTS[0]])[0]
    assert not torch.allclose(other_level, plain)


def test_the_last_blocks_text_output_is_not_computed(network: Transformer) -> None:
    """Without the layers that only it needs, nothing changes and nothing is missed."""
    before = velocities(network, [0, 1])
    stream = network.blocks[-1].txt
    del stream.out, stream.mlp_in, stream.mlp_out, stream.norm_q
    assert all(map(torch.equal, before, velocities(network, [0, 1])))


def test_the_last_blocks_text_queries_are_not_computed(network: Transformer) -> None:
    """They share a matrix with keys and values: NaN in their third of it does not show."""
    before = velocities(network, [0, 1])
    fused = network.blocks[-1].txt.qkv
    nn.init.constant_(fused.weight[: fused.out_features // 3], math.nan)
    nn.init.constant_(fused.bias[: fused.out_features // 3], math.nan)
    assert all(map(torch.equal, before, velocities(network, [0, 1])))


def test_the_last_blocks_text_keys_and_values_are_used(network: Transformer) -> None:
    nn.init.constant_(network.blocks[-1].txt.qkv.weight[-1], math.nan)
    assert velocities(network, [0])[0].isnan().any()


def test_only_float16_is_clipped() -> None:
    large = torch.tensor([math.inf, -math.inf, 3.0])
    assert clip_half(large.half()).tolist() == [65504, -65504, 3]
    assert clip_half(large) is large
    assert clip_half(large.bfloat16()).isinf().sum() == 2


def test_float16_stays_finite_where_it_would_overflow(network: Transformer) -> None:
    """The residual stream beyond 65504 comes out of each block clipped."""
    network.half()
    network.blocks[0].img.mlp_out.bias.fill_(65504)
    network.blocks[0].img.mod.bias[5 * 64 :].fill_(2)  # the gate
    half = [tuple(x.half() for x in pair) for pair in INPUTS]
    assert velocities(network, [0], half)[0].isfinite().all()


def test_velocities_are_in_the_dtype_of_the_network(network: Transformer) -> None:
    half = [tuple(x.bfloat16() for x in pair) for pair in INPUTS]
    found = velocities(network.bfloat16(), [0, 1], half)
    assert {x.dtype for x in found} == {torch.bfloat16}


def test_time_waves_are_cosines_then_sines() -> None:
    waves = time_waves(torch.tensor([0.0, 0.25]))
    assert waves.shape == (2, 256)
    assert waves[0].tolist() == [1.0] * 128 + [0.0] * 128
    assert waves[1, 0].item() == pytest.approx(math.cos(250.0), abs=1e-5)
    assert waves[1, 128].item() == pytest.approx(math.sin(250.0), abs=1e-5)


def test_the_additional_condition_is_row_zero(network: Transformer) -> None:
    more = tiny.transformer(use_additional_t_cond=True)
    left_out = more.load_state_dict(network.state_dict(), strict=False)
    assert left_out.missing_keys == ["time_in.additional.weight"]
    nn.init.zeros_(more.time_in.additional.weight[0])
    assert torch.equal(velocities(more, [0])[0], velocities(network, [0])[0])
    nn.init.ones_(more.time_in.additional.weight[0])
    assert not torch.allclose(velocities(more, [0])[0], velocities(network, [0])[0])


def test_layered_positions_move_the_frame(network: Transformer) -> None:
    layered = tiny.transformer(use_layer3d_rope=True)
    layered.load_state_dict(network.state_dict())
    assert not torch.allclose(velocities(layered, [0])[0], velocities(network, [0])[0])


def test_published_sizes() -> None:
    with torch.device("meta"):
        block = Transformer(TransformerConfig(num_layers=1)).blocks[0]
    assert TransformerConfig().width == 3072
    assert TransformerConfig().patch_channels == 64
    assert sum(p.numel() for p in block.parameters()) == 339_831_296


@pytest.mark.parametrize("patch_size", [1, 2])
def test_channels_out_follow_the_configuration(patch_size: int) -> None:
    network = tiny.transformer(patch_size=patch_size, in_channels=12, out_channels=3)
    segment = Segment(2, 2, 3)
    rows = torch.tensor([0])
    out = network(tiny.draw(4, 12), tiny.draw(3, 64), Layout((segment,)), network.bake([1.0]), rows)
    assert out.shape == (4, 3 * patch_size**2)
