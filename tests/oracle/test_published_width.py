"""The transformer at the published width: rounding grows with it, and so might an error."""

import torch
from accelerate import init_empty_weights
from diffusers import QwenImageTransformer2DModel
from torch import Tensor

from danqing.models.layout import Layout, Segment
from danqing.models.transformer import Transformer, TransformerConfig
from danqing.weights import loader
from danqing.weights.names import NAMES

from . import reference
from .compare import assert_close, normal

CONFIG = TransformerConfig(num_layers=2)  # every other value is Qwen-Image's
SEGMENTS = (Segment(8, 6, text=19), Segment(5, 7, text=30))
SIGMAS = (0.9061342478, 0.3000000119)


def random_network() -> Transformer:
    """0.7 billion weights of 0.02, gains near 1."""
    network = loader.build(lambda: Transformer(CONFIG))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in list(network.named_parameters()):
        gain = parameter.ndim == 1 and name.endswith("weight")
        weight = torch.empty(parameter.shape).normal_(float(gain), 0.02, generator=generator)
        loader.assign(network, name, weight)
    return network


def oracle_on(network: Transformer) -> QwenImageTransformer2DModel:
    """The oracle on the same memory: its matrices are views of the fused ones."""
    state: dict[str, Tensor] = {}
    for name, parameter in network.named_parameters():
        theirs = NAMES["transformer"].in_file(name)
        state.update(zip(theirs, parameter.chunk(len(theirs)), strict=True))
    with init_empty_weights(include_buffers=False):
        oracle = QwenImageTransformer2DModel(num_layers=CONFIG.num_layers)
    oracle.load_state_dict(state, strict=True, assign=True)
    return oracle.eval().requires_grad_(False)


@torch.no_grad()
def test_velocity() -> None:
    network = random_network()
    assert sum(p.numel() for p in network.parameters()) > 0.7e9
    layout = Layout(SEGMENTS)
    patches = normal((sum(layout.patch_lengths), CONFIG.in_channels), 1)
    text = 5 * normal((sum(layout.text_lengths), CONFIG.joint_attention_dim), 2)
    ours = network(patches, text, layout, network.bake(SIGMAS), torch.arange(2))
    oracle = oracle_on(network)
    parts = zip(patches.split(layout.patch_lengths), text.split(layout.text_lengths), strict=True)
    found = ours.split(layout.patch_lengths)
    for i, (part, words) in enumerate(parts):
        grid = (SEGMENTS[i].rows, SEGMENTS[i].columns)
        theirs = reference.velocity(oracle, part, words, grid, SIGMAS[i])
        assert theirs.std() > 0.1
        assert_close(found[i], theirs)
