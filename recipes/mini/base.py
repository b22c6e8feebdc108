"""Stage `base`: text encoder and transformer, trained together with the flow-matching loss.

Pictures are composed and encoded as they are needed (`blocks.py`), each with one caption; a share
of the captions is replaced by the usual negative prompt, a blank, so that guidance has something to
steer away from. A step is one pack: pictures of one size, captions of all lengths end to end.

What is hard comes last. The first steps show single things in the middle, of one size, and mostly
noise: there the caption alone says what to paint.
"""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from danqing.models.layout import Layout, Segment
from danqing.models.tokenizer import PromptTokenizer
from danqing.models.transformer import Transformer, TransformerConfig
from danqing.models.vae import VAE
from danqing.sampling import flow, latents
from danqing.sampling.guidance import guide
from danqing.sampling.schedule import ScheduleConfig, schedule
from danqing.types import BLANK
from recipes.mini import vae as vaes
from recipes.mini.blocks import Batches, Seen, draw_latents
from recipes.mini.compose import Size
from recipes.mini.config import BaseStage, Config
from recipes.mini.files import write_json
from recipes.mini.gauge import Gauge, Losses
from recipes.mini.loop import (
    Average,
    Budget,
    Stateful,
    has_bfloat16,
    train,
)
from recipes.mini.optimisers import Optimisers
from recipes.mini.stream import Stream, batches
from recipes.mini.text import build_encoder, features, initialise, load_encoder
from recipes.mini.vae import to_bytes
from recipes.mini.worth import of_tokens, worth

HELD = 256  # pictures that the loss is measured on
SAVE_EVERY = 6.0  # minutes; gauge and sheet take some 20 seconds of two CPU cores
START = "start.safetensors"
AT_LATENTS = ("transformer.img_in.", "transformer.proj_out.")


class Networks(nn.Module):
    """What is trained together."""

    def __init__(self, stage: BaseStage, vocabulary: int, z_dim: int) -> None:
        super().__init__()
        self.text_encoder = build_encoder(stage, vocabulary)
        self.transformer = Transformer(
            TransformerConfig(
                in_channels=latents.PATCH**2 * z_dim,
                out_channels=z_dim,
                num_layers=stage.layers,
                attention_head_dim=stage.width // stage.heads,
                num_attention_heads=stage.heads,
                joint_attention_dim=stage.text_width,
                axes_dims_rope=stage.axes,
            )
        )
        initialise(self)
        close(self.transformer)

    def features(self, tokens: list[list[int]], template: list[int]) -> Tensor:
        return features(self.text_encoder, tokens, template)


def close(transformer: Transformer) -> None:
    """Modulation and the last layer at zero: blocks start as no-ops."""
    for block in transformer.blocks:
        for stream in (block.img, block.txt):
            nn.init.zeros_(stream.mod.weight)
    nn.init.zeros_(transformer.norm_out.weight)
    nn.init.zeros_(transformer.proj_out.weight)


def load_vae(runs: Path) -> VAE:
    return vaes.load(runs / "vae").eval().requires_grad_(False)


def run(config: Config, runs: Path, minutes: float | None) -> None:
    stage = config.base
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(stage.seed)
    tokenizer = PromptTokenizer.from_folder(runs / "tokenizer")
    vae = load_vae(runs).to(device)
    stream, size = Stream(config.data, runs, "train"), config.data.sizes[0]
    steps = Batches(stream, config.data.sizes, stage, tokenizer)
    seen, source = Seen(vae, steps), None
    networks = begin(Networks(stage, tokenizer.vocabulary, vae.config.z_dim), runs).to(device)
    average = Average(networks, stage.ema)
    optimisers = Optimisers(
        networks,
        is_inside,
        stage,
        lambda name: stage.text_share if name.startswith("text_encoder.") else 1.0,
    )
    budget = Budget(stage.pictures, stage.batch, minutes, SAVE_EVERY)
    weights = of_tokens(worth(vae, stream, size, stage.even))

    def step_fn(step: int) -> float:
        nonlocal source
        source = source or batches(steps, step, budget.steps, device)
        moments, tokens, once = seen.gather(next(source), step)
        noise = torch.Generator().manual_seed(stage.seed * 2**32 + step)
        latent = draw_latents(vae, moments, noise)
        shift, floors = stage.shift_at(step), once * stage.floor
        loss = flow_loss(networks, latent, tokens, noise, shift, floors, tokenizer.prefix, weights)
        optimisers.step(loss, step, budget.steps)
        average.update(step)
        return loss.item()

    shadow = Networks(stage, tokenizer.vocabulary, vae.config.z_dim).to(device)
    gauge = Gauge(Stream(config.data, runs, "held"), tokenizer, HELD, size)

    def on_save(step: int) -> None:
        shadow.load_state_dict(average.shadow)
        found = gauge.measure(vae, device, losses_of(shadow, tokenizer.prefix, weights))
        print(f"base: step {step}  {found}", flush=True)
        draw_sheet(shadow, vae, runs, stage, tokenizer, size)
        save_file(
            {k: v.cpu() for k, v in average.shadow.items()}, runs / "base" / "ema.safetensors"
        )

    parts: dict[str, Stateful] = {
        "networks": networks,
        "optimisers": optimisers,
        "average": average,
    }
    train(parts, step_fn, budget, runs / "base", on_save)
    write_json(runs / "base" / "config.json", asdict(stage))


def begin(networks: Networks, runs: Path) -> Networks:
    """With the weights of a model (stage `start`), or an encoder that can read and nothing painted
    yet. What the latents of another VAE pass through begins as new."""
    path = runs / "base" / START
    if not path.exists():
        load_encoder(networks.text_encoder, runs)
        return networks
    state, own = load_file(path), networks.state_dict()
    fresh = sorted(name for name in own if own[name].shape != state[name].shape)
    if unknown := [name for name in fresh if not name.startswith(AT_LATENTS)]:
        raise ValueError(
            f"{path}: {unknown[0]} is {list(state[unknown[0]].shape)}; set [base] alike"
        )
    networks.load_state_dict(state | {name: own[name] for name in fresh})
    return networks


def is_inside(name: str) -> bool:
    """The matrices of the blocks but the modulation."""
    return name.startswith(("transformer.blocks.", "text_encoder.layers.")) and ".mod." not in name


def flow_loss(
    networks: Networks,
    latent_BCYX: Tensor,
    tokens: list[list[int]],
    generator: torch.Generator,
    shift: float,
    floors: Tensor,
    template: list[int],
    weights: Tensor,
) -> Tensor:
    """Logit-normal noise levels (Esser et al. 2024, arXiv 2403.03206, eq. 19), shifted to the
    noise, and between ``floors`` [B] and 1."""
    size = len(latent_BCYX)
    noise = torch.randn(latent_BCYX.shape, generator=generator)
    odds = shift * torch.randn(size, generator=generator).exp()
    sigma = floors + (1 - floors) * odds / (1 + odds)
    return loss_at(networks, latent_BCYX, tokens, noise, sigma, template, weights)


def loss_at(
    networks: Networks,
    latent_BCYX: Tensor,
    tokens: list[list[int]],
    noise_BCYX: Tensor,
    sigma: Tensor,
    template: list[int],
    weights: Tensor,
) -> Tensor:
    """``weights``: of the numbers in a token (``worth``), [1, patch * patch * C]."""
    device, size = latent_BCYX.device, len(latent_BCYX)
    clean = torch.stack([latents.pack(x) for x in latent_BCYX])
    noise = torch.stack([latents.pack(x) for x in noise_BCYX]).to(device)
    sigma = sigma.to(device)
    sample = flow.interpolate(clean, noise, sigma[:, None, None]).flatten(0, 1)
    rows, columns = (side // latents.PATCH for side in latent_BCYX.shape[-2:])
    layout = Layout(tuple(Segment(rows, columns, len(t)) for t in tokens))
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=has_bfloat16(device)):
        text = networks.features(tokens, template)
        table = networks.transformer.modulation(sigma)
        output = networks.transformer(
            sample, text, layout, table, torch.arange(size, device=device)
        )
    error = output.float() - flow.velocity(clean, noise).flatten(0, 1)
    return (weights * error.square()).mean()


def losses_of(networks: Networks, template: list[int], weights: Tensor) -> Losses:
    """For the gauge: always with the same noise."""

    def losses(latent_BCYX: Tensor, tokens: list[list[int]], level: float) -> float:
        noise = torch.randn(latent_BCYX.shape, generator=seeded(0))
        sigma = torch.full((len(tokens),), level)
        return loss_at(networks, latent_BCYX, tokens, noise, sigma, template, weights).item()

    return losses


@torch.no_grad()
def draw_sheet(
    networks: Networks,
    vae: VAE,
    runs: Path,
    stage: BaseStage,
    tokenizer: PromptTokenizer,
    size: Size,
) -> None:
    """Pictures of the fixed prompts, guidance 4 and 20 steps, as they would be generated."""
    tokens = [tokenizer.encode(p) for p in stage.sheet_prompts]
    images = sample(networks, vae, tokens, tokenizer, size, steps=20, guidance=4.0)
    per_row = 10
    rows = [np.concatenate(images[i : i + per_row], axis=1) for i in range(0, len(images), per_row)]
    sheet = Image.fromarray(np.concatenate([r for r in rows if r.shape[1] == rows[0].shape[1]]))
    sheet.save(runs / "base" / "sheet.png")


def sample(
    networks: Networks,
    vae: VAE,
    tokens: list[list[int]],
    tokenizer: PromptTokenizer,
    size: Size,
    steps: int,
    guidance: float,
) -> list[np.ndarray]:
    """Guided Euler sampling of one pack; the engine's path in miniature, for sheets only."""
    width, height = (side // vae.config.factor for side in size)
    count, rows, columns = len(tokens), height // latents.PATCH, width // latents.PATCH
    pack = tokens + [tokenizer.encode(BLANK)] * count
    text = networks.features(pack, tokenizer.prefix)
    layout = Layout(tuple(Segment(rows, columns, len(t)) for t in pack))
    sigmas = schedule(steps, rows * columns, ScheduleConfig(max_shift=0.9))
    table = networks.transformer.bake(sigmas[:-1])
    device = text.device
    shape = (vae.config.z_dim, height, width)
    x = torch.stack([torch.randn(shape, generator=seeded(i)) for i in range(count)])
    x_TC = torch.cat([latents.pack(z) for z in x]).to(device)
    for i in range(steps):
        step = torch.full((2 * count,), i, device=device)
        out = networks.transformer(torch.cat([x_TC, x_TC]), text, layout, table, step)
        cond, blank = out.float().chunk(2)
        x_TC = flow.euler(x_TC, guide(cond, blank, guidance), sigmas[i], sigmas[i + 1])
    grid = [latents.unpack(z, rows, columns) for z in x_TC.split(rows * columns)]
    return list(to_bytes(vae.decode(vae.denormalise(torch.stack(grid)))))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
