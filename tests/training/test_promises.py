"""What is promised of a training as a whole, where no test of a part would see it broken."""

import gc
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from danqing.sampling.schedule import ScheduleConfig
from danqing.training import prepare
from danqing.training.loop import Stepped, Training
from danqing.training.loss import Example, lay_out, sigma_sampler, velocities
from danqing.training.settings import Settings
from danqing.training.stock import Stock, Take
from danqing.training.subject import LoraSubject
from danqing.weights import model
from tests import tiny
from tests.training import small
from tests.training.pictures import save
from tests.training.whole import CPU, changed, photos, settings, skip_simulation, told

# ---- packs ------------------------------------------------------------------------------------


def example(n: int) -> Example:
    rows, columns, text = [(2, 2, 3), (3, 2, 7), (1, 4, 2), (2, 5, 5)][n]
    patches = rows * columns
    return Example(
        clean=tiny.draw(patches, 64, seed=n),
        noise=tiny.draw(patches, 64, seed=n + 10),
        rows=rows,
        columns=columns,
        text=tiny.draw(text, 64, seed=n + 20),
        sigma=(0.9, 0.3, 0.9, 0.6)[n],
        weight=(1.0, 0.5, 2.0, 1.0)[n],
    )


class Four(Stock):
    """The same four examples, however they are packed."""

    def examples(self, step: int, batch: int) -> list[Example]:
        return [example((step * batch + k) % 4) for k in range(batch)]


def first_step(folder: Path, own: Settings) -> tuple[Stepped, dict[str, Tensor]]:
    """The first step, and its gradients before they are scaled down; B is not zero any more."""
    run = small.training(folder, own)
    run.stock.__class__ = Four
    for seed, parameter in enumerate(run.parameters.values()):
        parameter.data = 0.1 * tiny.draw(*parameter.shape, seed=seed)
    step = next(event for event in run.run() if isinstance(event, Stepped))
    return step, {n: p.grad for n, p in run.parameters.items() if p.grad is not None}


@pytest.mark.parametrize("prior", [0.0, 0.5])
def test_a_pack_learns_what_its_pictures_do_one_after_the_other(
    tmp_path: Path, prior: float
) -> None:
    options: dict[str, Any] = {"evaluate_every": 0, "clip": 0.0, "prior": prior}
    options |= {"weighting": "cosmap", "ema": 0.0}
    packed = small.settings(batch=4, accumulate=1, **options)
    together, gradients = first_step(tmp_path / "packed", packed)
    for batch in (2, 1):
        apart = small.settings(batch=batch, accumulate=4 // batch, **options)
        one, own = first_step(tmp_path / str(batch), apart)
        assert one.loss == pytest.approx(together.loss, rel=1e-6)
        assert one.prior == pytest.approx(together.prior, rel=1e-5)
        assert one.norm == pytest.approx(together.norm, rel=1e-5)
        for name, gradient in gradients.items():
            assert (gradient - own[name]).abs().max() <= 1e-6 * (1 + gradient.abs().max())


# ---- staying as the base is -------------------------------------------------------------------


def answers(run: Training) -> Tensor:
    """What the trained network says to the prompt that is to stay."""
    found = [replace(example(n), text=run.prior_text[0]) for n in range(4)]
    layout = lay_out(found)
    with torch.no_grad(), run.subject.ride(layout, [True] * 4):
        return torch.cat(velocities(run.subject.network, found, layout))


def test_the_prior_keeps_the_answers_of_the_base(tmp_path: Path) -> None:
    strayed, priors = {}, {}
    for prior in (0.0, 10.0):
        options: dict[str, Any] = {"prior": prior, "prior_prompts": ["a house"]}
        own = small.settings(**options, steps=10, batch=1, evaluate_every=0)
        run = small.training(tmp_path / str(prior), own)
        before = answers(run)
        priors[prior] = [event.prior for event in run.run() if isinstance(event, Stepped)]
        strayed[prior] = float((answers(run) - before).square().mean())
    assert priors[0.0] == [0.0] * 10
    assert priors[10.0][0] < 1e-9 < min(priors[10.0][1:])  # it begins as the base
    assert strayed[10.0] < 0.5 * strayed[0.0]


def test_the_prior_is_measured_against_the_base_alone(tmp_path: Path) -> None:
    """The adapter must not be in its own target: the difference would be zero for ever."""
    own = small.settings(prior=1.0, evaluate_every=0, ema=0.0, batch=1)
    run = small.training(tmp_path, own)
    for seed, parameter in enumerate(run.parameters.values()):
        parameter.data = 0.1 * tiny.draw(*parameter.shape, seed=seed)
    drawn = replace(run.stock.examples(0, 1)[0], text=run.prior_text[0])
    layout = lay_out([drawn])
    with torch.no_grad():
        with run.subject.ride(layout, [True]):
            ours = velocities(run.subject.network, [drawn], layout)[0]
        assert isinstance(run.subject, LoraSubject)
        run.subject.trainables.remove()
        base = velocities(run.subject.network, [drawn], layout)[0]
    expected = float((ours - base).square().mean())
    again = small.training(tmp_path / "again", own)
    for name, parameter in again.parameters.items():
        parameter.data = run.parameters[name].data.clone()
    step = next(event for event in again.run() if isinstance(event, Stepped))
    assert expected > 1e-4
    assert step.prior == pytest.approx(expected, rel=1e-4)


# ---- what is drawn ----------------------------------------------------------------------------


def test_noise_follows_from_seed_step_and_place_alone() -> None:
    draw = sigma_sampler("uniform", {"mean": 0.0, "std": 1.0, "shift": 1.0}, ScheduleConfig())

    def noise(seed: int, step: int, place: int, count: int = 1) -> Tensor:
        own = Stock(small.pictures(count), small.Shelf(), Take(draw, 0.2, None, seed))
        return own.example(own.pictures[0], step, place).noise

    usual = noise(0, 3, 1)
    assert torch.equal(usual, noise(0, 3, 1, count=5))
    for other in (noise(1, 3, 1), noise(0, 4, 1), noise(0, 3, 2), noise(0, 1, 3)):
        assert not torch.equal(usual, other)


# ---- data -------------------------------------------------------------------------------------


def test_repeats_and_weights_of_folders(tiny_model: Path, tmp_path: Path) -> None:
    photos(tmp_path / "photos", 2)
    save(tmp_path / "others" / "a.png")
    others = {"path": str(tmp_path / "others"), "repeats": 3, "weight": 0.5, "caption": "a thing"}
    own = settings(tmp_path, tiny_model, data=[f"{tmp_path / 'photos'}*2", others])
    found = prepare.find_pictures(own, prepare.place_of(own, CPU)).learnt
    kept = [(p.record.repeats, p.record.weight, p.record.captions) for p in found]
    assert kept == [
        (2, 1.0, ("a thing 0",)), (2, 1.0, ("a thing 1",)), (3, 0.5, ("a thing",))
    ]  # fmt: skip


# ---- memory -----------------------------------------------------------------------------------


def test_the_encoders_leave_before_the_transformer_comes(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_simulation(monkeypatch)
    photos(tmp_path / "photos")
    build, load = model.build, prepare.load_transformer
    built: dict[str, weakref.ref[nn.Module]] = {}
    there: list[str] = []

    def watched(folder: Path, *rest: Any) -> dict[str, nn.Module]:
        networks = build(folder, *rest)
        for name, network in networks.items():
            built.setdefault(name, weakref.ref(network))  # those of the first time
        return networks

    def loaded(*given: Any) -> Any:
        there.extend(name for name, network in built.items() if network() is not None)
        return load(*given)

    monkeypatch.setattr(model, "build", watched)
    monkeypatch.setattr(prepare, "load_transformer", loaded)
    gc.disable()
    try:
        told(changed(settings(tmp_path, tiny_model), steps=1))
    finally:
        gc.enable()
    assert {"vae", "text_encoder"} <= built.keys()
    assert there == []
