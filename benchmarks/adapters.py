"""What adapters cost: one evaluation of a transformer, beside the weights and merged.

Random weights at the published width with a few blocks, and diffusers + PEFT on the same machine
for what they can do. Prints a line a case, and one JSON object as the last line.
"""

import argparse
import copy
import json
import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
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


@dataclass(frozen=True)
class Case:
    name: str
    images: int
    run: Callable[[], Any]
    set_up: Callable[[], Any] = lambda: None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=1)
    parser.add_argument("--side", type=int, default=128, help="pixels")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns of every second adapter
        cases = [
            case
            for make in (danqing_cases, diffusers_cases)
            for case in make(options.blocks, options.side // 16, device, dtype)
        ]
        found = measure(cases, options.repeats, device)
    for name, seconds in found.items():
        print(f"{name:54} {1000 * seconds:9.1f} ms per image")
    print(json.dumps({**vars(options), "torch": torch.__version__, "seconds": found}))


def measure(cases: list[Case], repeats: int, device: torch.device) -> dict[str, float]:
    """The least seconds per image of each case; in rounds, so that a slow minute hits all alike."""
    least = {case.name: math.inf for case in cases}
    for turn in range(repeats + 1):  # the first to warm up
        for case in cases:
            case.set_up()
            start = time.perf_counter()
            case.run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds = (time.perf_counter() - start) / case.images
            if turn:
                least[case.name] = min(least[case.name], seconds)
    return least


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

    def case(name: str, mixes: Sequence[Mix], of: Transformer = network) -> Case:
        denoiser = Denoiser(of)
        run = partial(run_one_step, denoiser, mixes, side, device, dtype)
        return Case(f"danqing, {name}", len(mixes), run)

    yield case("1 image, no adapter", [()])
    for rank, own in bound.items():
        yield case(f"1 image, 1 of rank {rank}", [((own[0], 1.0),)])
        yield case(f"1 image, 2 of rank {rank}", [((own[0], 1.0), (own[1], 0.5))])
    yield case("pack of 8, no adapter", [()] * PACK)
    for rank, own in bound.items():
        yield case(f"pack of 8, 1 of rank {rank} for all", [((own[0], 1.0),)] * PACK)
        different = [((adapter, 1.0),) for adapter in own]
        yield case(f"pack of 8, 8 different of rank {rank}", different)
    merged = copy.deepcopy(network)
    fold(merged, adapters[64][0])
    yield case("1 image, 1 of rank 64 merged", [()], merged)
    yield case("pack of 8, 1 of rank 64 merged", [()] * PACK, merged)


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
    def step(network: Any, images: int) -> None:
        network(
            hidden_states=draw(side * side, 64, scale=1.0).to(device, dtype).expand(images, -1, -1),
            encoder_hidden_states=draw(TEXT, 3584, scale=1.0)
            .to(device, dtype)
            .expand(images, -1, -1),
            timestep=torch.full((images,), 0.75, device=device, dtype=dtype),
            img_shapes=[[(1, side, side)]] * images,
            return_dict=False,
        )

    def use(*names: str) -> Callable[[], None]:
        return lambda: network.set_adapters(list(names), [1.0, 0.5][: len(names)])

    def one_by_one(names: list[str]) -> None:
        for name in names:
            network.set_adapters([name])
            step(network, 1)

    def case(name: str, images: int, set_up: Callable[[], None], of: Any = network) -> Case:
        return Case(f"diffusers, {name}", images, lambda: step(of, images), set_up)

    merged = copy.deepcopy(network)
    for rank in (16, 64):
        for seed in range(PACK):
            network.load_lora_adapter(
                lora(layers, rank, seed), prefix="transformer", adapter_name=f"r{rank}n{seed}"
            )
    network.to(device, dtype)
    none = network.disable_adapters
    yield case("1 image, no adapter", 1, none)
    yield case("batch of 8, no adapter", PACK, none)
    for rank in (16, 64):
        names = [f"r{rank}n{seed}" for seed in range(PACK)]
        network.enable_adapters()
        yield case(f"1 image, 1 of rank {rank}", 1, on(network, use(names[0])))
        yield case(f"1 image, 2 of rank {rank}", 1, on(network, use(*names[:2])))
        yield case(f"batch of 8, 1 of rank {rank} for all", PACK, on(network, use(names[0])))
        label = f"diffusers, one after the other, 8 different of rank {rank}"  # it cannot mix them
        yield Case(label, PACK, partial(one_by_one, names), network.enable_adapters)
    merged.load_lora_adapter(lora(layers, 64, 0), prefix="transformer", adapter_name="one")
    merged.to(device, dtype).fuse_lora()
    merged.unload_lora()
    yield case("1 image, 1 of rank 64 merged", 1, lambda: None, merged)
    yield case("batch of 8, 1 of rank 64 merged", PACK, lambda: None, merged)


def on(network: Any, use: Callable[[], None]) -> Callable[[], None]:
    def set_up() -> None:
        network.enable_adapters()
        use()

    return set_up


def lora(layers: dict[str, torch.nn.Linear], rank: int, seed: int) -> dict[str, Tensor]:
    tensors = {}
    for layer, module in layers.items():
        tensors[f"transformer.{layer}.lora_A.weight"] = draw(rank, module.in_features, seed=seed)
        tensors[f"transformer.{layer}.lora_B.weight"] = draw(module.out_features, rank, seed=seed)
    return tensors


if __name__ == "__main__":
    main()
