"""What adapters cost: one evaluation of a transformer, beside the weights and merged.

Random weights at the published width with a few blocks, and diffusers + PEFT on the same machine
for what they can do. Prints a line a case, and one JSON object as the last line.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from danqing.adapters.adapter import Adapter, Update, change
from danqing.adapters.inject import Bound, Mix, bind
from danqing.adapters.targets import targets
from danqing.denoising import Denoiser, Job
from danqing.models.transformer import Transformer, TransformerConfig

# What the published few-step adapters and most others change.
LAYERS = (
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "add_q_proj",
    "add_k_proj",
    "add_v_proj",
    "to_add_out",
)
LAYERS += ("img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2")
TEXT = 32  # tokens
PACK = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--side", type=int, default=256, help="pixels")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    found = {}
    for make in (danqing_cases, diffusers_cases):
        for name, images, run in make(options.blocks, options.side // 16, device, dtype):
            seconds = measure(run, options.repeats, device) / images
            found[name] = seconds
            print(f"{name:50} {1000 * seconds:9.1f} ms per image", flush=True)
    print(json.dumps({**vars(options), "torch": torch.__version__, "seconds": found}))


def measure(run: Callable[[], Any], repeats: int, device: torch.device) -> float:
    """Median seconds of a run, after one to warm up."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def draw(*shape: int, seed: int = 0, scale: float = 0.02) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ---- danqing ----------------------------------------------------------------------------------


def danqing_cases(blocks: int, side: int, device: torch.device, dtype: torch.dtype):
    network = Transformer(TransformerConfig(num_layers=blocks)).requires_grad_(False)
    network = network.to(device, dtype).eval()
    adapters = {
        rank: [random_adapter(network, rank, seed) for seed in range(PACK)] for rank in (16, 64)
    }
    bound = {rank: [bound_to(network, a) for a in own] for rank, own in adapters.items()}

    def case(mixes: Sequence[Mix]) -> Callable[[], None]:
        denoiser = Denoiser(network)
        return lambda: run_one_step(denoiser, mixes, side, device, dtype)

    yield "danqing, 1 image, no adapter", 1, case([()])
    for rank, own in bound.items():
        yield f"danqing, 1 image, 1 of rank {rank}", 1, case([((own[0], 1.0),)])
        two = ((own[0], 1.0), (own[1], 0.5))
        yield f"danqing, 1 image, 2 of rank {rank}", 1, case([two])
    yield "danqing, pack of 8, no adapter", PACK, case([()] * PACK)
    for rank, own in bound.items():
        yield f"danqing, pack of 8, 1 of rank {rank} for all", PACK, case([((own[0], 1.0),)] * PACK)
        different = [((adapter, 1.0),) for adapter in own]
        yield f"danqing, pack of 8, 8 different of rank {rank}", PACK, case(different)
    fold(network, adapters[64][0])
    yield "danqing, 1 image, 1 of rank 64 merged", 1, case([()])
    yield "danqing, pack of 8, 1 of rank 64 merged", PACK, case([()] * PACK)


def random_adapter(network: Transformer, rank: int, seed: int) -> Adapter:
    known = {n: t for n, t in targets(network).items() if n.endswith(LAYERS)}
    return Adapter({n: random_update(*t.weight, rank, seed) for n, t in known.items()})


def random_update(out: int, width: int, rank: int, seed: int) -> Update:
    return Update({"down": draw(rank, width, seed=seed), "up": draw(out, rank, seed=seed)})


def bound_to(network: Transformer, adapter: Adapter) -> Bound:
    return bind(adapter, network, targets(network), digest=str(id(adapter)))


@torch.inference_mode()
def run_one_step(
    denoiser: Denoiser, mixes: Sequence[Mix], side: int, device: torch.device, dtype: torch.dtype
) -> None:
    jobs = [
        Job(
            patches=draw(side * side, 64, scale=1.0).to(device),
            rows=side,
            columns=side,
            text=draw(TEXT, 3584, scale=1.0).to(device, dtype),
            negative=None,
            guidance=1.0,
            sigmas=[0.75, 0.0],
            mix=mix,
        )
        for mix in mixes
    ]
    for _ in denoiser.run(jobs):
        pass


@torch.no_grad()
def fold(network: Transformer, adapter: Adapter) -> None:
    known = targets(network)
    for layer, update in adapter.updates.items():
        target = known[layer]
        weight = network.get_submodule(target.ours).weight
        part = weight.chunk(target.parts)[target.index]
        part += change(update, part).to(part.device, part.dtype)


# ---- diffusers + PEFT -------------------------------------------------------------------------


def diffusers_cases(blocks: int, side: int, device: torch.device, dtype: torch.dtype):
    from diffusers import QwenImageTransformer2DModel

    network = QwenImageTransformer2DModel(num_layers=blocks).to(device, dtype).eval()
    layers = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.Linear) and name.endswith(LAYERS)
    }

    @torch.inference_mode()
    def step(images: int) -> None:
        network(
            hidden_states=draw(side * side, 64, scale=1.0).to(device, dtype).expand(images, -1, -1),
            encoder_hidden_states=draw(TEXT, 3584, scale=1.0)
            .to(device, dtype)
            .expand(images, -1, -1),
            timestep=torch.full((images,), 0.75, device=device, dtype=dtype),
            img_shapes=[[(1, side, side)]] * images,
            return_dict=False,
        )

    def switch(names: list[str]) -> None:
        network.set_adapters(names, [1.0, 0.5][: len(names)])

    def one_by_one(names: list[str]) -> None:
        for name in names:
            switch([name])
            step(1)

    yield "diffusers, 1 image, no adapter", 1, lambda: step(1)
    yield "diffusers, batch of 8, no adapter", PACK, lambda: step(PACK)
    for rank in (16, 64):
        names = [f"r{rank}n{seed}" for seed in range(PACK)]
        for seed, name in enumerate(names):
            tensors = {
                f"transformer.{layer}.lora_{half}.weight": tensor
                for layer, module in layers.items()
                for half, tensor in (
                    ("A", draw(rank, module.in_features, seed=seed)),
                    ("B", draw(module.out_features, rank, seed=seed)),
                )
            }
            network.load_lora_adapter(tensors, prefix="transformer", adapter_name=name)
        network.to(device, dtype)
        switch(names[:1])
        yield f"diffusers, 1 image, 1 of rank {rank}", 1, lambda: step(1)
        yield f"diffusers, batch of 8, 1 of rank {rank} for all", PACK, lambda: step(PACK)
        switch(names[:2])
        yield f"diffusers, 1 image, 2 of rank {rank}", 1, lambda: step(1)
        run_all = lambda names=names: one_by_one(names)  # noqa: E731 (it cannot mix them)
        yield f"diffusers, one after the other, 8 different of rank {rank}", PACK, run_all
        network.delete_adapters(names[1:])
    network.set_adapters(["r64n0"])
    network.fuse_lora()
    network.unload_lora()
    yield "diffusers, 1 image, 1 of rank 64 merged", 1, lambda: step(1)
    yield "diffusers, batch of 8, 1 of rank 64 merged", PACK, lambda: step(PACK)


if __name__ == "__main__":
    main()
