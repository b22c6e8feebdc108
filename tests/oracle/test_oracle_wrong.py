"""Where the oracle is wrong (diffusers 0.42.1): its fault is shown, and danqing beside it.

A test that fails because the oracle no longer does the wrong thing is good news: the case can then
move to the tests of equality.
"""

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor

from danqing.errors import RequestError
from danqing.models.tiling import decode_tiled
from danqing.sampling.schedule import schedule

from . import reference
from .compare import PICTURES, assert_close, difference, normal, uniform_in
from .random_models import Pair, make_pair
from .random_specs import draw

GetPair = Callable[[int], Pair]
LONG = "two foxes on a hill, 一只猫 by the sea, and more words so that this is the longer prompt"
SHORT = "一只狐狸"
SIZE = (64, 48)


def pictures(pair: Pair, prompts: list[str], noise: list[Tensor], sigmas: list[float]) -> Tensor:
    clean = pair.pipe.denoise(pair.pipe.encode(prompts), noise, sigmas)
    return torch.stack(pair.pipe.decode(clean)).mul(0.5).add(0.5).clamp(0, 1)


def test_several_images_of_unequal_prompts(pair_of: GetPair) -> None:
    """The oracle's mask rows come in another order than its text rows (huggingface/diffusers
    issue 13581), so pictures of the first prompt are painted with the second one's mask."""
    pair = pair_of(3)
    noise = [pair.pipe.noise(seed, SIZE) for seed in range(4)]
    options = {"size": SIZE, "steps": 4, "true_cfg_scale": 1.0}
    batch = reference.paint(pair.oracle, [LONG, SHORT], noise, num_images_per_prompt=2, **options)
    prompts = [LONG, LONG, SHORT, SHORT]
    ours = pictures(pair, prompts, noise, schedule(4, 12, pair.pipe.model.schedule))
    for i, prompt in enumerate(prompts):
        alone = reference.paint(pair.oracle, [prompt], [noise[i]], **options)
        assert_close(ours[i : i + 1], alone, PICTURES)
        wrong = difference(batch[i : i + 1], alone) > 10 * PICTURES
        assert wrong == (i in (1, 2)), "the oracle's mask order has changed"


def test_a_prompt_beside_another_is_the_prompt_alone(pair_of: GetPair) -> None:
    """The oracle pads and masks, so its batches are only close; danqing's are equal to the bit."""
    pair = pair_of(5)
    prompts, sigmas = [LONG, SHORT], [1.0, 0.8, 0.5, 0.0]
    noise = [pair.pipe.noise(seed, SIZE) for seed in range(2)]
    together = pictures(pair, prompts, noise, sigmas)
    for i in range(2):
        alone = pictures(pair, prompts[i : i + 1], noise[i : i + 1], sigmas)
        assert torch.equal(alone[0], together[i])


def test_tiled_decode_is_clamped(pair_of: GetPair) -> None:
    """Only the oracle's untiled decode is (huggingface/diffusers issue 13581)."""
    pair = pair_of(0)
    latent = 2 * normal((1, pair.spec.vae["z_dim"], 34, 6), 1)
    tiled = deepcopy(pair.oracle.vae)
    tiled.enable_tiling()
    theirs = reference.decoded(tiled, latent)
    assert theirs.abs().max() > 1
    ours = decode_tiled(pair.pipe.model.vae, latent)
    assert ours.abs().max() <= 1
    assert_close(ours, theirs.clamp(-1, 1))


def test_a_prompt_is_never_cut(pair_of: GetPair) -> None:
    """The oracle's call drops all features after the 512th, its tokenizer all after the 1024th."""
    pair = pair_of(4)
    words = "fox " * 700
    theirs, _ = pair.oracle.encode_prompt(words, max_sequence_length=512)  # the call's default
    assert theirs.shape[1] == 512
    ours = pair.pipe.encode([words])[0].features
    count = len(pair.oracle.tokenizer(words).input_ids)
    assert len(ours) == count + 5 > 700
    assert_close(ours, reference.features(pair.oracle, [words])[0])
    theirs, _ = pair.oracle.encode_prompt("fox " * 2000)
    assert theirs.shape[1] == 1024
    tokens = len(pair.oracle.tokenizer("fox " * 2000).input_ids)
    with pytest.raises(RequestError, match=f"prompt has {tokens} tokens, the limit is 1019"):
        pair.pipe.encode(["fox " * 2000])


def test_a_leading_newline_belongs_to_the_prompt(pair_of: GetPair) -> None:
    """The oracle merges it into the template's last token, which is dropped from the features."""
    pair = pair_of(2)
    template, dropped = (
        pair.oracle.prompt_template_encode,
        pair.oracle.prompt_template_encode_start_idx,
    )
    tokenizer = pair.oracle.tokenizer
    theirs = tokenizer(template.format("\n\na red fox")).input_ids
    assert tokenizer.decode(theirs[:dropped]).count("\n") == 4
    assert tokenizer.decode(theirs[dropped:]).count("\n") == 3
    ours = pair.pipe.model.tokenizer
    assert tokenizer.decode(ours.prefix).count("\n") == 3
    assert tokenizer.decode(ours.encode("\n\na red fox")).count("\n") == 4


def test_encoder_with_attention_between_its_blocks(pair_of: GetPair) -> None:
    """``attn_scales`` is in the published configuration; the oracle's encode cannot run it."""
    pair = pair_of(0)
    assert pair.spec.vae["attn_scales"]
    image = uniform_in(-1, 1, (1, 3, 40, 56), 1)
    with pytest.raises(TypeError, match="positional arguments"):
        pair.oracle.vae.encode(image[:, :, None])
    mean, _ = pair.pipe.model.vae.encode(image)
    assert_close(mean, reference.moments(pair.oracle.vae, image)[0])


def test_guidance_of_a_silent_network(tmp_path) -> None:
    """A zero velocity has no norm to rescale; the oracle divides 0 by 0 and paints NaN."""
    pair = make_pair(draw(1), tmp_path / "model")
    for network in (pair.oracle.transformer, pair.pipe.model.transformer):
        network.proj_out.weight.zero_()
        network.proj_out.bias.zero_()
    noise = [pair.pipe.noise(1, SIZE)]
    theirs = reference.paint(
        pair.oracle, [LONG], noise, size=SIZE, steps=2, negative_prompt=SHORT, true_cfg_scale=4.0
    )
    assert torch.isnan(theirs).all()
    text, negative = pair.pipe.encode([LONG]), pair.pipe.encode([SHORT])
    ours = pair.pipe.denoise(text, noise, [1.0, 0.5, 0.0], 4.0, negative=negative)
    assert torch.equal(ours[0], noise[0])
