"""Stage `base`: text encoder and transformer, trained together with the flow-matching loss.

Every picture comes as its VAE posterior, sampled anew, with one of its captions in one of the two
languages; a share of the captions is replaced by the usual negative prompt, a blank, so that
guidance has something to steer away from. A step is one pack: captions of all lengths end to end.
"""

import json
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from danqing.models.layout import Layout, Segment
from danqing.models.text_encoder import TextEncoder, TextEncoderConfig
from danqing.models.tokenizer import PromptTokenizer
from danqing.models.transformer import Transformer, TransformerConfig
from danqing.models.vae import VAE, VAEConfig
from danqing.sampling import flow, latents
from danqing.sampling.guidance import guide
from danqing.sampling.schedule import ScheduleConfig, schedule
from danqing.types import BLANK
from recipes.mini.config import BaseStage, Config
from recipes.mini.files import write_json
from recipes.mini.loop import (
    Average,
    Budget,
    Stateful,
    has_bfloat16,
    learning_rate,
    set_learning_rate,
    train,
)
from recipes.mini.muon import Muon
from recipes.mini.shards import load_pictures
from recipes.mini.vae import to_bytes


class Networks(nn.Module):
    """What is trained together."""

    def __init__(self, stage: BaseStage, vocabulary: int) -> None:
        super().__init__()
        self.text_encoder = TextEncoder(
            TextEncoderConfig(
                vocab_size=vocabulary,
                hidden_size=stage.text_width,
                intermediate_size=stage.text_inner,
                num_hidden_layers=stage.text_layers,
                num_attention_heads=stage.text_heads,
                num_key_value_heads=stage.text_groups,
            )
        )
        self.transformer = Transformer(
            TransformerConfig(
                num_layers=stage.layers,
                attention_head_dim=stage.width // stage.heads,
                num_attention_heads=stage.heads,
                joint_attention_dim=stage.text_width,
                axes_dims_rope=stage.axes,
            )
        )
        initialise(self)

    def features(self, tokens: list[list[int]], template: list[int]) -> Tensor:
        device = next(self.parameters()).device
        prefix = self.text_encoder.prefix(torch.tensor(template, device=device))
        ids = torch.tensor([i for t in tokens for i in t], device=device)
        return self.text_encoder(ids, [len(t) for t in tokens], prefix)


def initialise(networks: Networks) -> None:
    """Small normal weights; modulation and the last layer at zero: blocks start as no-ops."""
    for module in networks.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.5)
    transformer = networks.transformer
    for block in transformer.blocks:
        for stream in (block.img, block.txt):
            nn.init.zeros_(stream.mod.weight)
    nn.init.zeros_(transformer.norm_out.weight)
    nn.init.zeros_(transformer.proj_out.weight)


class Data:
    """Latent moments and tokenised captions, in memory."""

    def __init__(self, runs: Path, tokenizer: PromptTokenizer) -> None:
        records = load_pictures(runs / "data", "train").records
        self.config = VAEConfig(**read_config(runs / "vae" / "config.json"))
        moments = torch.from_numpy(np.load(runs / "vae" / "moments.npy"))
        self.mean, logvar = moments.chunk(2, dim=1)
        self.deviation = logvar.float().mul(0.5).exp().half()
        encode = cache(tokenizer.encode)  # most captions come many times
        self.captions = [
            [[encode(caption) for caption in r[key]] for r in records]
            for key in ("captions_en", "captions_zh")
        ]
        self.blank = tokenizer.encode(BLANK)

    def batch(
        self, rng: np.random.Generator, size: int, dropout: float
    ) -> tuple[Tensor, list[Any]]:
        """Patches [size * P, C] of normalised latents and token lists, sorted by caption length."""
        picked = rng.integers(len(self.mean), size=size)
        tokens = [self.caption(rng, i, dropout) for i in picked]
        order = sorted(range(size), key=lambda i: len(tokens[i]))
        index = torch.from_numpy(picked[order])
        noise = torch.from_numpy(rng.standard_normal(self.mean[index].shape, dtype=np.float32))
        raw = self.mean[index].float() + self.deviation[index].float() * noise
        shape = (-1, 1, 1)
        centre = torch.tensor(self.config.latents_mean).view(shape)
        clean = (raw - centre) / torch.tensor(self.config.latents_std).view(shape)
        return torch.stack([latents.pack(x) for x in clean]), [tokens[i] for i in order]

    def caption(self, rng: np.random.Generator, picture: int, dropout: float) -> list[int]:
        if rng.random() < dropout:
            return self.blank
        choices = self.captions[int(rng.integers(2))][picture]
        return choices[int(rng.integers(len(choices)))]


def read_config(path: Path) -> dict[str, Any]:
    values = json.loads(path.read_text())
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def run(config: Config, runs: Path, minutes: float | None) -> None:
    stage = config.base
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(stage.seed)
    tokenizer = PromptTokenizer.from_folder(runs / "tokenizer")
    data = Data(runs, tokenizer)
    networks = Networks(stage, tokenizer.vocabulary).to(device)
    average = Average(networks, stage.ema)
    muon, adam = optimisers(networks, stage)
    budget = Budget(stage.pictures, stage.batch, minutes)

    def step_fn(step: int) -> float:
        rng = np.random.default_rng((stage.seed, step))
        loss = flow_loss(networks, data, rng, stage, tokenizer.prefix, device)
        factor = learning_rate(step, budget.steps, stage.warm_up, stage.decay)
        for optimiser, peak in ((muon, stage.muon_rate), (adam, stage.adam_rate)):
            set_learning_rate(optimiser, peak * factor)
            optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(networks.parameters(), 1.0)
        muon.step()
        adam.step()
        average.update(step)
        return loss.item()

    shadow = Networks(stage, tokenizer.vocabulary).to(device)

    def on_save(step: int) -> None:
        shadow.load_state_dict(average.shadow)
        draw_sheet(shadow, runs, stage, tokenizer)
        save_file(
            {k: v.cpu() for k, v in average.shadow.items()}, runs / "base" / "ema.safetensors"
        )

    parts: dict[str, Stateful] = {
        "networks": networks,
        "muon": muon,
        "adam": adam,
        "average": average,
    }
    train(parts, step_fn, budget, runs / "base", on_save)
    write_json(runs / "base" / "config.json", asdict(stage))


def optimisers(networks: Networks, stage: BaseStage) -> tuple[Muon, torch.optim.AdamW]:
    """Muon for the matrices inside the blocks but the modulation; AdamW for all the rest."""
    named = list(networks.named_parameters())
    inside = ("transformer.blocks.", "text_encoder.layers.")
    matrices = [p for n, p in named if p.ndim == 2 and n.startswith(inside) and ".mod." not in n]
    chosen = {id(p) for p in matrices}
    others = [p for _, p in named if id(p) not in chosen]
    adam = torch.optim.AdamW(
        others, lr=stage.adam_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    return Muon(matrices, lr=stage.muon_rate), adam


def flow_loss(
    networks: Networks,
    data: Data,
    rng: np.random.Generator,
    stage: BaseStage,
    template: list[int],
    device: torch.device,
) -> Tensor:
    clean, tokens = data.batch(rng, stage.batch, stage.dropout)
    size, patches = clean.shape[:2]
    noise = torch.from_numpy(rng.standard_normal(clean.shape, dtype=np.float32))
    # Logit-normal noise levels (Esser et al. 2024, arXiv 2403.03206, eq. 19), shifted to the noise.
    odds = stage.shift * torch.from_numpy(np.exp(rng.standard_normal(size, dtype=np.float32)))
    sigma = odds / (1 + odds)
    sample = flow.interpolate(clean, noise, sigma[:, None, None]).flatten(0, 1).to(device)
    side = int(patches**0.5)
    layout = Layout(tuple(Segment(side, side, len(t)) for t in tokens))
    rows = torch.arange(size, device=device)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=has_bfloat16(device)):
        text = networks.features(tokens, template)
        table = networks.transformer.modulation(sigma.to(device))
        output = networks.transformer(sample, text, layout, table, rows)
    target = flow.velocity(clean, noise).flatten(0, 1).to(device)
    return (output.float() - target).square().mean()


@torch.no_grad()
def draw_sheet(
    networks: Networks, runs: Path, stage: BaseStage, tokenizer: PromptTokenizer
) -> None:
    """Pictures of the fixed prompts, guidance 4 and 20 steps, as they would be generated."""
    config = VAEConfig(**read_config(runs / "vae" / "config.json"))
    vae = VAE(config)
    vae.load_state_dict(load_file(runs / "vae" / "vae.safetensors"))
    tokens = [tokenizer.encode(p) for p in stage.sheet_prompts]
    images = sample(networks, vae, tokens, tokenizer, side=8, steps=20, guidance=4.0)
    per_row = 10
    rows = [np.concatenate(images[i : i + per_row], axis=1) for i in range(0, len(images), per_row)]
    sheet = Image.fromarray(np.concatenate([r for r in rows if r.shape[1] == rows[0].shape[1]]))
    sheet.resize((sheet.width * 2, sheet.height * 2)).save(runs / "base" / "sheet.png")


def sample(
    networks: Networks,
    vae: VAE,
    tokens: list[list[int]],
    tokenizer: PromptTokenizer,
    side: int,
    steps: int,
    guidance: float,
) -> list[np.ndarray]:
    """Guided Euler sampling of one pack; the engine's path in miniature, for sheets only."""
    count, half = len(tokens), side // 2
    pack = tokens + [tokenizer.encode(BLANK)] * count
    text = networks.features(pack, tokenizer.prefix)
    layout = Layout(tuple(Segment(half, half, len(t)) for t in pack))
    sigmas = schedule(steps, half * half, ScheduleConfig(max_shift=0.9))
    table = networks.transformer.bake(sigmas[:-1])
    device = text.device
    x = torch.stack([torch.randn(16, side, side, generator=seeded(i)) for i in range(count)])
    x_TC = torch.cat([latents.pack(z) for z in x]).to(device)
    for i in range(steps):
        rows = torch.full((2 * count,), i, device=device)
        out = networks.transformer(torch.cat([x_TC, x_TC]), text, layout, table, rows)
        cond, blank = out.float().chunk(2)
        x_TC = flow.euler(x_TC, guide(cond, blank, guidance), sigmas[i], sigmas[i + 1])
    grid = [latents.unpack(z, half, half) for z in x_TC.cpu().split(half * half)]
    return list(to_bytes(vae.decode(vae.denormalise(torch.stack(grid)))))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
