import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from danqing.models.text_encoder import (
    RMSNorm,
    TextEncoder,
    TextEncoderConfig,
    TextFeatures,
    attend,
    causal_attention,
)
from tests import tiny

LENGTHS = [5, 1, 17, 17, 40]


@pytest.fixture
def network() -> TextEncoder:
    return tiny.text_encoder()


def prompt(length: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(tiny.TEXT.vocab_size, (length,), generator=generator)


def test_features_have_a_row_a_token(network: TextEncoder) -> None:
    assert network(prompt(9), [4, 5]).shape == (9, tiny.TEXT.hidden_size)
    assert len(TextFeatures(torch.zeros(7, 3))) == 7


def test_a_token_sees_only_what_stands_before_it(network: TextEncoder) -> None:
    ids = prompt(20)
    changed = torch.cat([ids[:12], (ids[12:] + 1) % tiny.TEXT.vocab_size])
    before, after = network(ids, [20]), network(changed, [20])
    assert torch.equal(before[:12], after[:12])
    assert (before[12:] - after[12:]).abs().amax(dim=1).min() > 1e-3


def test_prompts_of_a_pack_do_not_see_each_other(network: TextEncoder) -> None:
    prompts = [prompt(length, seed) for seed, length in enumerate(LENGTHS)]
    packed = network(torch.cat(prompts), LENGTHS).split(LENGTHS)
    for ids, found in zip(prompts, packed, strict=True):
        assert torch.equal(found, network(ids, [len(ids)]))


def test_order_matters(network: TextEncoder) -> None:
    same = torch.full((3,), 7)
    found = network(same, [3])
    assert torch.equal(found[0], network(same[:1], [1])[0])
    both = network(torch.tensor([3, 4, 5, 4, 3, 5]), [3, 3])
    assert not torch.allclose(both[2], both[5])


def test_positions_go_on_after_the_prefix(network: TextEncoder) -> None:
    device = torch.device("cpu")
    whole, rest = network.rope([10], 0, device), network.rope([3, 2], 5, device)
    for table, part in zip(whole, rest, strict=True):
        assert torch.equal(part, torch.cat([table[5:8], table[5:7]]))


def test_shared_keys_are_repeated_keys() -> None:
    """Grouped-query attention: two query heads read one key-value head."""
    q, k, v = tiny.draw(6, 4, 8), tiny.draw(6, 2, 8, seed=1), tiny.draw(6, 2, 8, seed=2)
    grouped = causal_attention(q, k, v, [6], None, 0)
    full = causal_attention(q, *(x.repeat_interleave(2, dim=1) for x in (k, v)), [6], None, 0)
    assert torch.equal(grouped, full)
    assert not torch.allclose(grouped[1:, 1], grouped[1:, 2])


@pytest.mark.parametrize(("rows", "length"), [(1, 1), (6, 6), (5, 40), (33, 33), (64, 70)])
def test_attention_is_the_reference_formula(rows: int, length: int) -> None:
    q, k, v = (tiny.draw(1, 2, n, 8, seed=s) for s, n in ((0, rows), (1, length), (2, length)))
    scores = q @ k.transpose(-1, -2) / 8**0.5
    mask = torch.ones(rows, length).tril(length - rows).bool()
    expected = scores.masked_fill(~mask, -torch.inf).softmax(dim=-1) @ v
    torch.testing.assert_close(attend(q, k, v), expected)


def test_the_norm_rounds_before_the_gain() -> None:
    norm = RMSNorm(64, 1e-6).bfloat16()
    norm.weight.data = tiny.draw(64, seed=1, dtype=torch.bfloat16)
    x = tiny.draw(3, 64, dtype=torch.bfloat16)
    plain = x.float() * torch.rsqrt(x.float().square().mean(dim=-1, keepdim=True) + 1e-6)
    torch.testing.assert_close(norm(x), plain.bfloat16() * norm.weight)


def test_a_head_may_have_a_width_of_its_own() -> None:
    config = TextEncoderConfig()
    assert (config.head_width, TextEncoderConfig(head_dim=64).head_width) == (128, 64)
    network = tiny.text_encoder(head_dim=32)
    assert network.layers[0].self_attn.q_proj.out_features == 4 * 32
    assert network(prompt(5), [5]).shape == (5, 64)


def test_features_come_after_the_final_norm(network: TextEncoder) -> None:
    network.norm.weight.fill_(1)
    rows = network(prompt(12), [12])
    torch.testing.assert_close(F.rms_norm(rows, rows.shape[-1:]), rows, atol=1e-4, rtol=0)
