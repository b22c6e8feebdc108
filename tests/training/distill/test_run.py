"""A whole distillation: the teacher is the pipeline, and the result runs in the pipeline."""

import json
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import danqing
from danqing.adapters import formats
from danqing.adapters import write as writing
from danqing.adapters.adapter import Sampling
from danqing.errors import TrainingError
from danqing.sampling import latents
from danqing.training.distill import plan, run
from danqing.training.distill.loop import Evaluated, Stepped
from danqing.training.distill.record import record
from danqing.training.distill.roles import STUDENT
from danqing.training.distill.run import Noded, with_nodes
from danqing.training.distill.settings import (
    DistillSettings,
    check,
    read,
    split_strength,
    toml,
)
from danqing.training.distill.start import start_nodes, student_shape
from danqing.training.distill.student import Student
from danqing.training.distill.trajectories import Texts, Trajectories, Wish, travel
from danqing.training.loop import TIME, Saved
from danqing.training.plan import num_trained
from danqing.training.prepare import place_of
from danqing.training.run import Finished
from tests import tiny
from tests.training.distill import small

CPU = torch.device("cpu")
PROMPTS = ("a red fox", "一只猫", "雪")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def settings(tiny_model: Path, tmp_path: Path) -> DistillSettings:
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS), "utf-8")
    return check(
        replace(
            small.SETTINGS,
            model=str(tiny_model),
            out=str(tmp_path / "fast.safetensors"),
            prompts_file=str(tmp_path / "prompts.txt"),
            sizes=("64x64", "96x64"),
        )
    )


def opened(settings: DistillSettings, pipe: danqing.Pipeline) -> tuple[run.Roles, Texts]:
    """Roles over the model, and the pipeline's own text features."""
    features = {
        p: t.features for p, t in zip((*PROMPTS, " "), pipe.encode([*PROMPTS, " "]), strict=True)
    }
    return run.open_roles(settings, place_of(settings, CPU)), Texts(
        features.__getitem__, features[" "]
    )


def test_the_teacher_goes_as_the_pipeline_does(settings, tiny_pipe):
    roles, texts = opened(settings, tiny_pipe)
    teacher = run.teacher_of(settings, place_of(settings, CPU), (64, 64))
    wishes = [Wish(PROMPTS[0], 5, (64, 64)), Wish(PROMPTS[1], 6, (96, 64))]
    ways = travel(roles, wishes, texts, teacher)
    for wish, way in zip(wishes, ways, strict=True):
        made = tiny_pipe.denoise(
            tiny_pipe.encode([wish.prompt]),
            [tiny_pipe.noise(wish.seed, wish.size)],
            sigmas=list(teacher.sigmas),
            guidance=3.0,
            negative=tiny_pipe.encode([" "]),
        )[0]
        torch.testing.assert_close(way[-1], latents.pack(made), atol=1e-4, rtol=1e-4)
    assert [len(way) for way in ways] == [7, 7]


def test_the_result_paints_in_the_pipeline_what_the_student_paints(settings, tiny_model, tiny_pipe):
    events = list(run.distill(settings, CPU))
    nodes = next(e.nodes for e in events if isinstance(e, Noded))
    adapter = formats.read(Path(settings.out))
    assert adapter.sampling is not None
    assert adapter.sampling.sigmas == pytest.approx((*nodes, 0.0))
    made = tiny_pipe.generate(
        danqing.Request("一只猫", seed=3, size=(64, 64), adapters={settings.out: 1.0})
    )
    roles, texts = opened(replace(settings, start=settings.out), tiny_pipe)
    student = Student(roles, (*nodes, 0.0), texts, small.UNIT)
    patches = student.pictures([Wish("一只猫", 3, (64, 64))])[0]
    own = tiny_pipe.decode([latents.unpack(patches, 4, 4)])[0]
    pixels = (own.clamp(-1, 1) + 1).mul(127.5).round().byte().permute(1, 2, 0).numpy()
    assert np.abs(pixels.astype(int) - np.asarray(made.image).astype(int)).max() <= 1


@pytest.mark.parametrize(
    "values", [{"quantise": "int8"}, {"dtype": "bfloat16"}, {"checkpointing": True}, {"steps": 1}]
)
def test_every_way_of_computing_learns(settings, tiny_pipe, values):
    own = replace(settings, nodes=(1.0, 0.6)[: values.get("steps", 2)], imitation=12, **values)
    figures = [e.figures for e in run.distill(own, CPU) if isinstance(e, Evaluated)]
    assert figures[-1].error < figures[0].error
    made = tiny_pipe.generate(danqing.Request("雪", size=(64, 64), adapters={own.out: 1.0}))
    assert np.asarray(made.image).std() > 5


def test_an_own_adapter_is_on_in_teacher_and_student(settings, tiny_pipe, tmp_path):
    list(run.distill(replace(settings, out=str(tmp_path / "style.safetensors")), CPU))
    adapter = formats.read(tmp_path / "style.safetensors")
    plain = tmp_path / "plain.safetensors"
    writing.write(replace(adapter, sampling=None), plain, "diffusers")
    own = replace(settings, adapters=(f"{plain}:0.7",))
    roles, texts = opened(own, tiny_pipe)
    teacher = run.teacher_of(own, place_of(own, CPU), (64, 64))
    wish = Wish(PROMPTS[0], 5, (64, 64))
    way = travel(roles, [wish], texts, teacher)[0]
    made = tiny_pipe.denoise(
        tiny_pipe.encode([wish.prompt]), [tiny_pipe.noise(5, (64, 64))],
        sigmas=list(teacher.sigmas), guidance=3.0, negative=tiny_pipe.encode([" "]),
        adapters=[{str(plain): 0.7}],
    )[0]  # fmt: skip
    torch.testing.assert_close(way[-1], latents.pack(made), atol=1e-3, rtol=1e-3)


def test_a_run_begins_with_the_noise_levels_of_the_adapter_that_it_starts_from(settings, tmp_path):
    first = replace(settings, nodes=(1.0, 0.625))
    list(run.distill(first, CPU))
    again = replace(settings, out=str(tmp_path / "again.safetensors"), start=first.out)
    nodes = next(e.nodes for e in run.distill(again, CPU) if isinstance(e, Noded))
    assert nodes == (1.0, 0.625)
    three = replace(again, out=str(tmp_path / "three.safetensors"), steps=3)
    with pytest.raises(TrainingError, match=r"was made for 2 steps at 1, 0\.625, guidance 1, and"):
        list(run.distill(three, CPU))


def test_a_student_takes_rank_and_layers_from_the_adapter_that_it_starts_from(settings):
    place = place_of(settings, CPU)
    silent = replace(settings, rank=None, targets=())
    shape, layers = student_shape(silent, place)
    assert (shape.rank, shape.alpha, layers) == (32, 32.0, ("all",))
    given = run.open_roles(replace(settings, rank=3, targets=("image",)), place).adapter(STUDENT)
    writing.write(given, Path(settings.out), "diffusers")
    again = replace(silent, start=settings.out)
    shape, layers = student_shape(again, place)
    assert (shape.rank, shape.alpha) == (3, 3.0)
    roles = run.open_roles(again, place)
    assert roles.adapter(STUDENT).updates.keys() == given.updates.keys()
    trained = sum(own.numel() for own in roles.parameters(STUDENT).values())
    assert num_trained(tiny.transformer(), plan.as_training(again, place, 3)) == trained
    told, layers = student_shape(replace(again, rank=5, alpha=2.0, targets=("usual",)), place)
    assert (told.rank, told.alpha, layers) == (5, 2.0, ("usual",))


def test_one_adapter_for_several_numbers_of_steps(settings, tiny_pipe, tmp_path):
    own = replace(settings, also=(1, 3), imitation=30, fake_start=1, matching=2)
    events = list(run.distill(own, CPU))
    levels = [(*e.nodes, 0.0) for e in events if isinstance(e, Noded)]
    assert [len(one) for one in levels] == [3, 2, 4]
    made = formats.read(Path(own.out)).sampling
    assert made is not None
    for steps, own_levels in zip((2, 1, 3), levels, strict=True):
        assert made.levels(steps) == pytest.approx(own_levels)
    teacher = dict.fromkeys((2, 1, 3), 0.0)
    few = dict.fromkeys((2, 1, 3), 0.0)
    for prompt in PROMPTS:
        wish = danqing.Request(prompt, seed=9, size=(64, 64))
        many = pixels(tiny_pipe, replace(wish, steps=6, guidance=3.0))
        for steps in few:
            quick = {"steps": steps, "adapters": {own.out: 1.0}}
            plain = {"sigmas": made.levels(steps), "guidance": 1.0}
            few[steps] += np.abs(pixels(tiny_pipe, replace(wish, **quick)) - many).mean()
            teacher[steps] += np.abs(pixels(tiny_pipe, replace(wish, **plain)) - many).mean()
    assert all(few[steps] < teacher[steps] for steps in few)
    again = replace(own, out=str(tmp_path / "again.safetensors"), start=own.out)
    assert start_nodes(again, place_of(own, CPU)) == [one[:-1] for one in levels]
    with pytest.raises(TrainingError, match="must be other numbers of steps than 2"):
        check(replace(own, also=(2, 4)))


def pixels(pipe: danqing.Pipeline, request: danqing.Request) -> np.ndarray:
    return np.asarray(pipe.generate(request).image).astype(int)


def test_adapters_of_the_models_own_are_found_by_name(settings, tiny_copy):
    own = replace(settings, model=str(tiny_copy), nodes=(1.0, 0.5))
    list(run.distill(own, CPU))
    (tiny_copy / "adapters").mkdir()
    Path(own.out).rename(tiny_copy / "adapters" / "quick.safetensors")
    with pytest.raises(TrainingError, match="adapter quick was made for 2 steps"):
        list(run.distill(replace(settings, model=str(tiny_copy), adapters=("quick",)), CPU))
    place = place_of(own, CPU)
    assert start_nodes(replace(settings, start="quick"), place) == [(1.0, 0.5)]


def test_time_that_is_over_ends_the_travelling_too(settings):
    own = replace(settings, minutes=1e-9, trajectories=40)
    events = list(run.distill(own, CPU))
    assert isinstance(events[-1], Finished)
    assert (events[-1].reason, events[-1].paths, events[-1].step) == (TIME, (), 0)
    assert not Path(own.out).exists()


def test_a_run_that_stands_makes_a_step_however_soon_its_time_is_over(settings):
    assert [e.step for e in stopped(settings, 2) if isinstance(e, Saved)] == [2]
    events = list(record(run.distill(replace(settings, minutes=1e-9), CPU), settings))
    assert isinstance(events[-1], Finished)
    assert (events[-1].reason, events[-1].step) == (TIME, 3)
    log = (Path(settings.out).with_suffix(".run") / "log.jsonl").read_text("utf-8")
    steps = [json.loads(line) for line in log.splitlines()]
    assert [own["step"] for own in steps if own["kind"] == "step"] == [1, 2, 3]


def stopped(settings: DistillSettings, step: int) -> Iterator[run.Told]:
    """The run as far as the step."""
    for event in record(run.distill(settings, CPU), settings):
        yield event
        if isinstance(event, Stepped) and event.step == step:
            signal.raise_signal(signal.SIGTERM)


def test_the_plan_is_that_of_the_largest_size(settings):
    place = place_of(settings, CPU)
    both, small_one, large = (
        plan.memory_of(replace(settings, sizes=sizes), place).phases
        for sizes in (("64x64", "96x64"), ("64x64",), ("96x64",))
    )
    assert both == large
    assert all(large[phase] > small_one[phase] for phase in large)


def test_without_matching_no_fake_score_is_planned(settings):
    own = replace(settings, matching=0)
    counts = plan.evaluations(own)
    assert counts["fake score"] == counts["matching"] == (0, 0)
    assert plan.memory_of(own, place_of(own, CPU)).phases.keys() == {"trajectories", "imitation"}


def test_the_plan_counts_every_number_of_steps():
    """Three steps to a node of seven, on average, half a step to one of two."""
    own = replace(small.SETTINGS, steps=2, also=(7,), imitation=10, batch=4, correction=0.5)
    assert plan.evaluations(own)["imitation"] == (10 * round(4 * 0.5 * (0.5 + 3.0) / 2), 40)


def test_the_time_of_layers_in_later_blocks_is_that_of_short_networks(settings, monkeypatch):
    own = replace(settings, targets=(r"transformer_blocks\.2\.attn\.to_q",))
    place, timed, real = place_of(own, CPU), [], plan.block_seconds

    def seen(config, *rest):
        timed.append(config.num_layers)
        return real(config, *rest)

    monkeypatch.setattr(plan, "block_seconds", seen)
    cost = plan.measured(tiny.TRANSFORMER, own, place, plan.pictured(own, place))
    assert cost.learnt > cost.plain > 0
    assert max(timed) == 2


def test_nodes_that_lie_too_close_together_are_told_so(settings, tmp_path):
    adapter = run.open_roles(settings, place_of(settings, CPU)).adapter(STUDENT)
    levels = Sampling(2, (1.0, 0.5, 0.0), 1.0, ((1.0, 0.8, 0.51, 0.0),))
    start = tmp_path / "start.safetensors"
    writing.write(replace(adapter, sampling=levels), start, "diffusers")
    own = replace(settings, start=str(start), also=(3,))
    with pytest.raises(TrainingError, match="closer together than the teacher's 6 steps"):
        list(run.distill(own, CPU))


@pytest.mark.parametrize("also", [["2"], [2.5], [2.0], [True]])
def test_numbers_of_steps_are_whole(also):
    with pytest.raises(TrainingError, match=r"also .* must be like"):
        read(None, {"also": also}, whole=False)


def test_an_adapter_without_effect_is_refused(settings):
    with pytest.raises(TrainingError, match="has no effect at strength 0"):
        check(replace(settings, adapters=("a.safetensors:0",)))


def test_what_does_not_fit_is_refused_before_anything_is_made(settings, monkeypatch):
    monkeypatch.setattr("danqing.training.distill.plan.free_memory", lambda _: 1000)
    with pytest.raises(
        TrainingError, match=r"takes 51 MiB, 0 MiB are free; give a smaller --batch"
    ):
        list(run.distill(settings, CPU))
    assert not Path(settings.out).with_suffix(".run").exists()


def test_other_settings_are_refused_before_the_teacher_moves(settings, monkeypatch):
    list(run.distill(settings, CPU))
    monkeypatch.setattr(run, "open_roles", lambda *_: pytest.fail("loaded"))
    with pytest.raises(TrainingError, match=r"rate was 0\.01 and is 0\.02"):
        list(run.distill(replace(settings, rate=0.02), CPU))


def test_states_that_are_all_kept_are_cut_for_other_nodes(
    settings, tiny_pipe, tmp_path, monkeypatch
):
    roles, texts = opened(settings, tiny_pipe)
    teacher = run.teacher_of(settings, place_of(settings, CPU), (64, 64))
    wishes = [Wish(PROMPTS[n % 3], n, (64, 64)) for n in range(3)]
    every = Trajectories(tmp_path / "ways", wishes, teacher, "a")
    list(every.make(roles, texts, 5))
    monkeypatch.setattr("danqing.training.distill.trajectories.travel", None)
    some = Trajectories(tmp_path / "ways", wishes, teacher, "a", [0, 2, 6])
    list(some.make(roles, texts, 5))
    assert torch.equal(some[1], every[1][[0, 2, 6]])


def test_states_that_are_not_finite_are_not_kept(settings, tiny_pipe, tmp_path, monkeypatch):
    roles, texts = opened(settings, tiny_pipe)
    teacher = run.teacher_of(settings, place_of(settings, CPU), (64, 64))
    endless = [torch.full((7, 16, 64), 1e6)]  # more than float16 holds
    monkeypatch.setattr("danqing.training.distill.trajectories.travel", lambda *_: endless)
    kept = Trajectories(tmp_path / "ways", [Wish("雪", 0, (64, 64))], teacher, "a")
    with pytest.raises(TrainingError, match="trajectories 0 to 0 are not finite"):
        list(kept.make(roles, texts, 1))
    assert not (tmp_path / "ways").exists()


def test_shards_that_are_there_are_not_made_again(settings, tiny_pipe, tmp_path, monkeypatch):
    roles, texts = opened(settings, tiny_pipe)
    teacher = run.teacher_of(settings, place_of(settings, CPU), (64, 64))
    wishes = [Wish(PROMPTS[n % 3], n, (64, 64)) for n in range(18)]
    kept = Trajectories(tmp_path / "ways", wishes, teacher, "a", [0, 6])
    making = kept.make(roles, texts, 5)
    assert next(making) == (16, 18)
    making.close()
    travelled: list[int] = []
    real = run.travel

    def counted(roles, wishes, texts, teacher):
        travelled.append(len(wishes))
        return real(roles, wishes, texts, teacher)

    monkeypatch.setattr("danqing.training.distill.trajectories.travel", counted)
    assert list(kept.make(roles, texts, 5)) == [(16, 18), (18, 18)]
    assert travelled == [2]
    assert kept[17].shape == (2, 16, 64)
    other = Trajectories(tmp_path / "ways", wishes, teacher, "another model", [0, 6])
    list(other.make(roles, texts, 9))
    assert sum(travelled) == 20
    path = kept._path(1, [0, 6])
    path.write_bytes(path.read_bytes()[:-50])
    fresh = Trajectories(tmp_path / "ways", wishes, teacher, "a", [0, 6])
    with pytest.raises(TrainingError, match="is damaged"):
        fresh[17]


def test_given_nodes_become_the_teachers():
    assert with_nodes([1.0, 0.8, 0.6, 0.3, 0.0], [1.0, 0.75]) == (1.0, 0.75, 0.6, 0.3, 0.0)
    with pytest.raises(TrainingError, match="closer together than the teacher's 2 steps"):
        with_nodes([1.0, 0.5, 0.0], [1.0, 0.9, 0.8])


def test_a_model_without_guidance_has_nothing_to_teach(settings, tiny_copy):
    card = tiny_copy / "danqing.json"
    card.write_text('{"size": [64, 64], "steps": 4, "guidance": 1.0}')
    own = replace(settings, model=str(tiny_copy), guidance=None)
    with pytest.raises(TrainingError, match="in 4 steps without guidance: it is a few-step model"):
        list(run.distill(own, CPU))


def test_strengths():
    assert split_strength("a/b.safetensors:0.8") == ("a/b.safetensors", 0.8)
    assert split_strength("c:/b.safetensors") == ("c:/b.safetensors", 1.0)
    for wrong in ("a:nan", "a:inf", "a:1e9", ":0.5"):
        with pytest.raises(TrainingError, match="a number from -100 to 100"):
            split_strength(wrong)
    assert split_strength("ink") == ("ink", 1.0)


def test_settings_come_back_from_their_file(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    folder.mkdir()
    (tmp_path / "style.safetensors").touch()
    adapters = ("style.safetensors:0.8", "style.safetensors", "ink:0.5", "ink")
    own = replace(settings, adapters=adapters)
    (folder / "settings.toml").write_text(toml(own, folder), "utf-8")
    monkeypatch.chdir("/")
    again = read(folder / "settings.toml", {})
    there = {name: str(Path(getattr(again, name)).resolve()) for name in ("out", "prompts_file")}
    assert [Path(entry) for entry in again.adapters] == [
        tmp_path / "style.safetensors:0.8",
        tmp_path / "style.safetensors", Path("ink:0.5"), Path("ink"),
    ]  # fmt: skip
    assert replace(again, **there, adapters=adapters) == replace(own, **there)


def test_sizes_are_whole_patches_of_the_model(settings: DistillSettings, tmp_path: Path) -> None:
    """A VAE that halves four times has patches of 32 pixels."""
    model = shutil.copytree(settings.model, tmp_path / "coarse")
    tiny.change(model / "vae" / "config.json", dim_mult=[1, 1, 2, 2, 2])
    coarse = replace(settings, model=str(model))
    assert plan.sizes_of(coarse, place_of(coarse, CPU)) == [(64, 64), (96, 64)]
    odd = replace(coarse, sizes=("96x64", "80x64"))
    assert plan.sizes_of(odd, place_of(settings, CPU)) == [(96, 64), (80, 64)]
    with pytest.raises(TrainingError, match="size 80x64 must be two multiples of 32"):
        plan.sizes_of(odd, place_of(odd, CPU))
