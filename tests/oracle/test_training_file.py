"""A whole training from pictures to its file, and back: the file gives the held-out loss that was
measured last, and diffusers takes it for the same adapter.
"""

from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from danqing.adapters import formats
from danqing.adapters.inject import Injection, bake, bind
from danqing.adapters.targets import targets
from danqing.models.layout import Segment
from danqing.models.transformer import Transformer
from danqing.training import prepare
from danqing.training.loop import Evaluated
from danqing.training.loss import Example, lay_out
from danqing.training.measure import SIGMAS
from danqing.training.run import train
from danqing.training.settings import Settings, read
from danqing.training.stock import Stock
from tests.training.pictures import photo, save

from . import reference
from .compare import assert_close, difference
from .random_models import Pair
from .test_adapters import Image, Loaded, oracles, velocities
from .test_components import GetPair
from .test_training import KINDS

CPU = torch.device("cpu")
EQUAL = 4e-7  # relative, of a loss in float32; found: 8.3e-8
TRAINED: dict[str, dict[str, Any]] = {**KINDS, "LoRA": {"targets": ["all"]}}


class Told(NamedTuple):
    """A training that is done, and what it was measured on."""

    pair: Pair
    own: Settings
    measured: list[Evaluated]
    held_out: list[list[Example]]

    @property
    def file(self) -> Path:
        return Path(self.own.out)


@pytest.fixture(scope="module", params=TRAINED)
def told(
    request: pytest.FixtureRequest, pair_of: GetPair, tmp_path_factory: pytest.TempPathFactory
) -> Told:
    pair, folder = pair_of(4), tmp_path_factory.mktemp("training")
    for n in range(12):
        save(folder / "photos" / f"{n}.png", photo([(64, 64), (80, 40), (48, 96)][n % 3], n))
        (folder / "photos" / f"{n}.txt").write_text(f"a fox {n}\n第{n}个\n", "utf-8")
    learnt = {"rank": 4, "alpha": 6.0, "steps": 20, "batch": 2, "rate": 2e-2, "ema": 0.9}
    watched = {"evaluate_every": 10, "sample_every": 0, "holdout": 0.25, "size": (64, 64)}
    places = {"model": str(pair.folder), "out": str(folder / "mine.safetensors")}
    data = {"data": [str(folder / "photos")], "cache": str(folder / "cache")}
    own = read(None, {**learnt, **watched, **places, **data, **TRAINED[request.param]})
    events = [event for event in train(own, CPU) if isinstance(event, Evaluated)]
    return Told(pair, own, events, held_out_of(own))


def held_out_of(own: Settings) -> list[list[Example]]:
    """The pictures that were kept apart, at every level."""
    place = prepare.place_of(own, CPU)
    found = prepare.find_pictures(own, place).held_out
    shelf = prepare.Shelf(prepare.open_cache(own, place, Path(own.cache)))
    return Stock(found, shelf, prepare.taken(own, place)).fixed(SIGMAS)


def loss(found: list[Tensor], examples: list[Example]) -> float:
    pairs = zip(found, examples, strict=True)
    losses = [(v - (e.noise - e.clean)).double().square().mean() for v, e in pairs]
    return float(torch.stack(losses).mean())


def images_of(examples: list[Example]) -> list[Image]:
    return [
        Image(Segment(e.rows, e.columns, len(e.text)), e.noisy, e.text, e.sigma) for e in examples
    ]


@torch.no_grad()
def injected(network: Transformer, file: Path, examples: list[Example]) -> list[Tensor]:
    """Velocities of one picture's levels, with the file read and put beside the network."""
    mix = ((bind(formats.read(file), network, targets(network), ""), 1.0),)
    layout, patches = lay_out(examples), torch.cat([e.noisy for e in examples])
    table = bake(network, SIGMAS, mix)
    with Injection(network, layout, [mix] * len(examples)):
        text = torch.cat([e.text for e in examples])
        out = network(patches, text, layout, table, range(len(examples)))
    return list(out.split(layout.patch_lengths))


def test_the_file_gives_the_loss_that_was_measured(told: Told) -> None:
    last, examples = told.measured[-1], [e for own in told.held_out for e in own]
    assert (last.step, len(examples)) == (20, 3 * len(SIGMAS))
    network = prepare.load_transformer(prepare.place_of(told.own, CPU))
    found = [v for own in told.held_out for v in injected(network, told.file, own)]
    assert loss(found, examples) == pytest.approx(last.measured.loss, rel=EQUAL)
    assert last.measured.loss < 0.9 * told.measured[0].measured.loss, "too little is learnt"


def test_so_do_the_pipelines_of_both(told: Told) -> None:
    examples = [e for own in told.held_out for e in own]
    images, mixes = images_of(examples), [{str(told.file): 1.0}] * len(examples)
    pipe, network = told.pair.pipe, told.pair.oracle.transformer
    ours = velocities(pipe.model.transformer, pipe.adapters, images, mixes)
    theirs = oracles(Loaded(network, told.file), images, mixes)
    plain = oracles(lambda _: network, images, mixes)
    for mine, their in zip(ours, theirs, strict=True):
        assert_close(mine, their)
    assert max(map(difference, theirs, plain)) > 0.05
    for found in (ours, theirs):
        assert loss(found, examples) == pytest.approx(told.measured[-1].measured.loss, rel=EQUAL)
    assert loss(plain, examples) == pytest.approx(told.measured[0].measured.loss, rel=EQUAL)


def test_the_oracles_network_alone_takes_the_file(told: Told) -> None:
    network = deepcopy(told.pair.oracle.transformer)
    network.load_lora_adapter(told.file.parent, weight_name=told.file.name)
    images = images_of(told.held_out[0])
    ours = injected(told.pair.pipe.model.transformer, told.file, told.held_out[0])
    for mine, i in zip(ours, images, strict=True):
        grid = (i.segment.rows, i.segment.columns)
        their = reference.velocity(network, i.patches, i.text, grid, i.sigma)
        assert_close(mine, their)
