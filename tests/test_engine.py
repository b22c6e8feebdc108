"""The pipeline on the tiny model: order, events, errors. Its bits are compared in equality/."""

import hashlib
import math
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import danqing
from danqing import (
    AdapterError,
    DanqingError,
    ModelError,
    Pipeline,
    Progress,
    Request,
    RequestError,
    Result,
    WeightsError,
    composer,
    recipe,
)
from danqing.engine import to_pil
from danqing.recipe import pixels_sha256
from danqing.weights.fingerprint import fingerprint
from tests import tiny
from tests.adapters import files
from tests.weights.edit import Tensors, edit, weights_file

SMALL = Request("a fox", size=(32, 16), steps=2, guidance=1.0)
MIXED = [
    SMALL,
    Request("一只猫", size=(16, 32), steps=3, guidance=2.0, seed=4),
    Request("a dog", size=(48, 32), steps=1, guidance=1.0, seed=5),
]


def events_of(pipe: Pipeline, requests: list[Request]) -> tuple[list[Progress], list[Result]]:
    events = list(pipe.stream(requests))
    progress = [event for event in events if isinstance(event, Progress)]
    return progress, [event for event in events if isinstance(event, Result)]


def load(folder: Path, **options: object) -> Pipeline:
    return danqing.load(str(folder), device="cpu", **options)


# ---- results and events -----------------------------------------------------------------------


def test_one_request_gives_one_result(tiny_pipe: Pipeline) -> None:
    result = tiny_pipe.generate(SMALL)
    assert isinstance(result, Result)
    assert (result.index, result.request, result.image.size) == (0, SMALL, (32, 16))


def test_a_list_gives_a_list(tiny_pipe: Pipeline) -> None:
    assert tiny_pipe.generate([]) == []
    assert [r.index for r in tiny_pipe.generate([SMALL])] == [0]


@pytest.mark.parametrize("limit", [1, 5, 4096])
def test_results_come_in_the_order_asked(
    tiny_pipe: Pipeline, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(composer, "MAX_PATCHES", limit)
    results = tiny_pipe.generate(MIXED)
    assert [r.index for r in results] == [0, 1, 2]
    assert [r.image.size for r in results] == [r.size for r in MIXED]
    assert [r.recipe["prompt"] for r in results] == [r.prompt for r in MIXED]


def test_progress_counts_the_steps_of_a_pack(tiny_pipe: Pipeline) -> None:
    progress, results = events_of(tiny_pipe, MIXED)
    assert tiny_pipe.together
    assert [(p.step, p.steps, p.indices) for p in progress] == [
        (n, 3, (0, 1, 2)) for n in (1, 2, 3)
    ]
    assert [r.index for r in results] == [0, 1, 2]


def test_packs_follow_each_other(tiny_pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(composer, "MAX_PATCHES", 1)
    order = [
        (event.indices, event.step, event.steps) if isinstance(event, Progress) else event.index
        for event in tiny_pipe.stream(MIXED[:2])
    ]
    assert order == [((0,), 1, 2), ((0,), 2, 2), 0, *[((1,), n, 3) for n in (1, 2, 3)], 1]


def test_previews_show_every_picture_at_every_step(tiny_pipe: Pipeline) -> None:
    for event in tiny_pipe.stream(MIXED):
        if isinstance(event, Progress):
            pictures = event.preview()
            assert all(isinstance(picture, Image.Image) for picture in pictures)
            assert [p.size for p in pictures] == [r.size for r in MIXED]


def test_the_last_preview_is_the_picture(tiny_pipe: Pipeline) -> None:
    progress, results = events_of(tiny_pipe, [SMALL])
    assert pixels_sha256(progress[-1].preview()[0]) == results[0].recipe["pixels_sha256"]


def test_a_preview_changes_nothing(tiny_pipe: Pipeline) -> None:
    plain = tiny_pipe.generate(SMALL).recipe["pixels_sha256"]
    for event in tiny_pipe.stream([SMALL]):
        if isinstance(event, Progress):
            event.preview()
    assert event.recipe["pixels_sha256"] == plain


def test_a_preview_points_at_the_clean_picture(tiny_pipe: Pipeline) -> None:
    """After the only step of a run to sigma 0.5, the velocity points to where a full step goes."""
    first = next(
        iter(tiny_pipe.stream([Request("x", size=(16, 16), sigmas=(1.0, 0.5), guidance=1.0)]))
    )
    whole = tiny_pipe.generate(Request("x", size=(16, 16), sigmas=(1.0,), guidance=1.0))
    difference = zip(first.preview()[0].tobytes(), whole.image.tobytes(), strict=True)
    assert max(abs(a - b) for a, b in difference) <= 1


def test_a_closed_generator_leaves_the_pipeline_usable(tiny_pipe: Pipeline) -> None:
    expected = tiny_pipe.generate(SMALL).recipe["pixels_sha256"]
    stream = tiny_pipe.stream(MIXED)
    assert next(stream).step == 1
    stream.close()
    with pytest.raises(StopIteration):
        next(stream)
    assert not torch.is_inference_mode_enabled()
    assert tiny_pipe.generate(SMALL).recipe["pixels_sha256"] == expected


def test_the_callers_mode_is_his_own_between_events(tiny_pipe: Pipeline) -> None:
    for _ in tiny_pipe.stream([SMALL]):
        assert not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled()


def test_timings_are_seconds_of_each_stage(tiny_pipe: Pipeline) -> None:
    timings = tiny_pipe.generate(SMALL).timings
    assert list(timings) == ["encode", "denoise", "decode"]
    assert all(0 < seconds < 60 for seconds in timings.values())


def test_a_recipe_holds_all_that_was_used(tiny_pipe: Pipeline, tiny_model: Path) -> None:
    request = Request("一只猫", "blue", 9, (32, 48), 3, None, 2.5)
    result = tiny_pipe.generate(request)
    recipe = dict(result.recipe)
    sigmas = recipe.pop("sigmas")
    assert recipe == {
        "danqing": danqing.__version__,
        "model": {"id": str(tiny_model), "fingerprint": fingerprint(tiny_model)},
        "prompt": "一只猫",
        "negative": "blue",
        "seed": 9,
        "size": [32, 48],
        "steps": 3,
        "guidance": 2.5,
        "adapters": {},
        "profile": tiny_pipe.profile,
        "pixels_sha256": pixels_sha256(result.image),
    }
    assert len(sigmas) == 4
    assert all(a > b for a, b in pairwise(sigmas))


def test_defaults_come_from_the_model(tiny_pipe: Pipeline) -> None:
    result = tiny_pipe.generate(Request("x"))
    assert (result.image.size, result.recipe["steps"], result.recipe["guidance"]) == (
        (64, 64),
        2,
        2,
    )
    assert result.request.size == (64, 64)


def test_the_default_negative_is_a_blank(tiny_pipe: Pipeline) -> None:
    hashes = {
        negative: tiny_pipe.generate(
            Request("x", **({} if negative is None else {"negative": negative}), size=(16, 16))
        ).recipe["pixels_sha256"]
        for negative in (None, " ", "dull")
    }
    assert hashes[None] == hashes[" "] != hashes["dull"]


def test_guidance_one_is_none(tiny_pipe: Pipeline) -> None:
    """The negative is not even encoded, and a hair more of guidance changes next to nothing."""
    plain = tiny_pipe.generate(SMALL).image.tobytes()
    hair = tiny_pipe.generate(Request("a fox", size=(32, 16), steps=2, guidance=1.0001)).image
    assert max(abs(a - b) for a, b in zip(plain, hair.tobytes(), strict=True)) <= 1


# ---- warnings ---------------------------------------------------------------------------------


def test_a_negative_at_guidance_one_is_told(tiny_pipe: Pipeline) -> None:
    with pytest.warns(UserWarning, match="negative prompt has no effect"):
        tiny_pipe.generate(Request("x", negative="dull", guidance=1.0, size=(16, 16)))


def test_a_size_the_model_was_not_made_for_is_told(tiny_copy: Path) -> None:
    tiny.change(tiny_copy / "danqing.json", sizes=[[64, 64]])
    with pytest.warns(UserWarning, match="trained at 64x64; 16x16 will look wrong"):
        load(tiny_copy).generate(Request("x", size=(16, 16)))


# ---- adapters ---------------------------------------------------------------------------------

FAST, SLOW = files.sampled(1, [0.9], 1.0), files.sampled(3, [1.0, 0.6, 0.2], 1.5)


@pytest.fixture(scope="module")
def styles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Adapters with and without a way of sampling."""
    folder, named = tmp_path_factory.mktemp("styles"), files.tensors(files.make())
    made = {"ink": {}, "fast": FAST, "slow": SLOW, "twin": FAST, "few": files.sampled(2)}
    return {
        name: files.write(folder / f"{name}.safetensors", named, {**metadata, "name": name})
        for name, metadata in made.items()
    }


@pytest.fixture
def quick(tiny_copy: Path, styles: dict[str, Path]) -> Pipeline:
    """A model with a few-step adapter of its own, which is its default."""
    (tiny_copy / "adapters").mkdir()
    shutil.copy(styles["slow"], tiny_copy / "adapters" / "quick.safetensors")
    tiny.change(tiny_copy / "danqing.json", adapter="quick")
    return load(tiny_copy)


def test_a_models_own_adapter_is_used_where_nothing_is_said(quick: Pipeline) -> None:
    made = quick.generate(Request("a fox", size=(16, 16)))
    assert made.request.adapters == {"quick": 1.0}
    assert (made.request.steps, made.request.guidance) == (3, 1.5)
    asked = quick.generate(Request("a fox", size=(16, 16), adapters={"quick": 1.0}))
    assert made.image.tobytes() == asked.image.tobytes()


@pytest.mark.parametrize(
    "told", [{"steps": 2}, {"guidance": 2.0}, {"sigmas": (1.0, 0.5)}, {"negative": "dull"}]
)
def test_whoever_says_how_to_sample_gets_the_model_alone(
    quick: Pipeline, told: dict[str, Any]
) -> None:
    assert quick.check([Request("a fox", size=(16, 16), **told)])[0].adapters == {}


def test_its_number_of_steps_is_no_other_wish(quick: Pipeline) -> None:
    asked = quick.check([Request("a fox", size=(16, 16), steps=3)])
    assert asked == quick.check([Request("a fox", size=(16, 16))])
    guided = Request("a fox", size=(16, 16), steps=3, guidance=2.0)
    assert quick.check([guided])[0].adapters == {}


def test_the_models_own_adapter_goes_with_a_style_but_not_with_another_of_its_kind(
    quick: Pipeline, styles: dict[str, Path]
) -> None:
    def adapters(name: str) -> set[str]:
        asked = Request("a fox", size=(16, 16), adapters={str(styles[name]): 0.5})
        return {Path(own).stem for own in quick.check([asked])[0].adapters}

    assert adapters("ink") == {"quick", "ink"}
    assert adapters("fast") == {"fast"}
    off = Request("a fox", size=(16, 16), adapters={"quick": 0.0})
    assert quick.check([off])[0].adapters == {"quick": 0.0}


@pytest.fixture(scope="module")
def styled(tiny_model: Path, styles: dict[str, Path]) -> Pipeline:
    """The tiny model with these adapters."""
    pipe = load(tiny_model)
    for name, path in styles.items():
        pipe.adapters.add(name, path)
    return pipe


def asked(*names: str, **values: Any) -> Request:
    return Request("x", size=(16, 16), adapters=dict.fromkeys(names, 1.0), **values)


def sampling(pipe: Pipeline, request: Request) -> tuple[Any, ...]:
    made = pipe.generate(request).recipe
    return made["steps"], made["sigmas"], made["guidance"]


def test_an_adapters_sampling_is_the_default(styled: Pipeline) -> None:
    assert sampling(styled, asked("fast")) == (1, [0.9, 0.0], 1.0)
    assert sampling(styled, asked("ink", "slow")) == (3, [1.0, 0.6, 0.2, 0.0], 1.5)
    assert sampling(styled, asked("fast", "twin")) == (1, [0.9, 0.0], 1.0)
    plain = sampling(styled, asked())
    assert plain[0] == 2
    assert sampling(styled, asked("ink")) == sampling(styled, asked("few")) == plain


def test_other_sampling_is_used_and_told(styled: Pipeline) -> None:
    expected = "made for 1 steps at 0.9, guidance 1; other sampling will look wrong"
    two = sampling(styled, asked("ink", steps=2))[1]
    for values, found in [
        ({"steps": 2}, (2, two, 1.0)),
        ({"sigmas": (1.0,)}, (1, [1.0, 0.0], 1.0)),
        ({"guidance": 2.0}, (1, [0.9, 0.0], 2.0)),
    ]:
        with pytest.warns(UserWarning, match=expected):
            assert sampling(styled, asked("fast", **values)) == found


def test_adapters_that_disagree_are_an_error(styled: Pipeline) -> None:
    with pytest.raises(RequestError) as caught:
        styled.generate([asked("ink"), asked("fast", "slow")])
    assert str(caught.value) == (
        "the adapters were made for different sampling (fast for 1 steps at 0.9, guidance 1, "
        "slow for 3 steps at 1, 0.6, 0.2, guidance 1.5); give steps or sigmas"
    )


def test_an_adapter_that_is_taken_away_disagrees_with_none(styled: Pipeline) -> None:
    for strength in (0.0, -0.5):
        request = Request("x", size=(16, 16), adapters={"slow": strength, "fast": 1.0})
        assert sampling(styled, request) == (1, [0.9, 0.0], 1.0)


@pytest.mark.filterwarnings("ignore:an adapter was made")
@pytest.mark.parametrize("values", [{"steps": 1}, {"steps": 3}, {"steps": 2}, {"sigmas": (0.9,)}])
def test_steps_or_sigmas_settle_it_in_any_order(styled: Pipeline, values: dict[str, Any]) -> None:
    """Which name comes first in the mapping changes nothing."""
    one, other = asked("fast", "slow", **values), asked("slow", "fast", **values)
    assert sampling(styled, one) == sampling(styled, other)
    assert sampling(styled, one)[0] == values.get("steps", 1)


def test_a_recipe_holds_strengths_and_digests(styled: Pipeline, styles: dict[str, Path]) -> None:
    strengths = {"ink": 0.5, str(styles["twin"]): -1.0, "few": 0}
    request = Request("x", size=(16, 16), adapters=strengths)
    paths = {"ink": styles["ink"], str(styles["twin"]): styles["twin"], "few": styles["few"]}
    result = styled.generate(request)
    assert result.recipe["adapters"] == {
        name: {
            "strength": float(strengths[name]),
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for name, path in paths.items()
    }
    assert result.request.adapters == strengths


@pytest.mark.parametrize("names", [["ink"], ["fast"], ["slow", "ink"]])
def test_a_recipe_with_adapters_paints_the_same_again(styled: Pipeline, names: list[str]) -> None:
    """And without a word: it samples as its adapters were made for."""
    first = styled.generate(asked(*names)).recipe
    again = styled.generate(recipe.to_request(first)).recipe
    assert again == first


def test_a_thousand_adapters_are_too_many(styled: Pipeline) -> None:
    with pytest.raises(RequestError, match="1000 adapters for one picture, at most 32"):
        styled.generate(asked(*(f"style-{n}" for n in range(1000))))


def test_one_wrong_adapter_stops_all_before_the_work(
    styled: Pipeline, styles: dict[str, Path], tmp_path: Path
) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(styles["ink"].read_bytes()[:-1])
    stream = styled.stream([SMALL, asked(str(cut))])
    with pytest.raises(AdapterError, match=f"adapter {cut} is truncated"):
        next(stream)


def test_a_changed_adapter_paints_another_picture(styled: Pipeline, tmp_path: Path) -> None:
    path, found = tmp_path / "a.safetensors", []
    for kind in ("lora", "full"):
        files.write(path, files.tensors(files.make(kind)))
        made = styled.generate(asked(str(path))).recipe
        found.append((made["pixels_sha256"], made["adapters"][str(path)]["sha256"]))
    assert len({*found[0], *found[1]}) == 4


def test_an_adapter_that_overflows_is_an_error_and_no_black_picture(
    styled: Pipeline, tmp_path: Path
) -> None:
    huge = {"down": torch.full((1, 64), 1e38), "up": torch.full((64, 1), 1e38)}
    path = files.write(tmp_path / "a.safetensors", files.tensors({files.TO_Q: huge}))
    with pytest.raises(DanqingError, match="not finite"):
        styled.generate(Request("x", size=(48, 48), adapters={str(path): 1.0}))


def test_adapters_of_each_picture_or_of_all(styled: Pipeline) -> None:
    text, noise = styled.encode(["a", "b"]), [styled.noise(0, (16, 16))] * 2
    ink, both = {"ink": 1.0}, {"ink": 1.0, "few": 0.5}
    each = styled.denoise(text, noise, [1.0], adapters=[ink, both])
    assert torch.equal(styled.denoise(text, noise, [1.0], adapters=ink)[0], each[0])
    assert torch.equal(styled.denoise(text, noise, [1.0], adapters=both)[1], each[1])
    with pytest.raises(RequestError, match="2 texts, 2 noises, 2 negatives and 1 sets of adapters"):
        styled.denoise(text, noise, [1.0], adapters=[ink])
    with pytest.raises(RequestError, match="adapters 'i' must be names with strengths"):
        styled.denoise(text, noise, [1.0], adapters="in")  # type: ignore[arg-type]


# ---- requests that cannot be painted ----------------------------------------------------------


def test_one_wrong_request_stops_all_before_the_work(tiny_pipe: Pipeline) -> None:
    stream = tiny_pipe.stream([SMALL, Request("x", size=(17, 16))])
    with pytest.raises(RequestError, match="width 17"):
        next(stream)


def test_adapters_that_are_nowhere_are_refused(tiny_pipe: Pipeline) -> None:
    with pytest.raises(AdapterError, match="adapter 'ink' is neither a file nor one of"):
        tiny_pipe.generate(Request("x", adapters={"ink": 1.0}))
    text, noise = tiny_pipe.encode(["a"]), [tiny_pipe.noise(0, (16, 16))]
    with pytest.raises(AdapterError, match="adapter 'ink' is neither"):
        tiny_pipe.denoise(text, noise, [1.0], adapters={"ink": 1.0})
    with pytest.raises(RequestError, match="strength 'much' of adapter 'ink' must be a number"):
        tiny_pipe.denoise(text, noise, [1.0], adapters=[{"ink": "much"}])  # type: ignore[list-item]


def test_denoise_needs_as_many_of_each(tiny_pipe: Pipeline) -> None:
    text, noise = tiny_pipe.encode(["a", "b"]), [tiny_pipe.noise(0, (16, 16))]
    with pytest.raises(RequestError, match="2 texts, 1 noises, 2 negatives and 2 sets of adapters"):
        tiny_pipe.denoise(text, noise, [1.0])
    with pytest.raises(RequestError, match="1 texts, 1 noises, 2 negatives"):
        tiny_pipe.denoise(text[:1], noise, [1.0], 2.0, text)


@pytest.mark.parametrize(("sigmas", "guidance"), [([0.1, 0.9], 1.0), ([], 1.0), ([1.0], 0.0)])
def test_denoise_checks_its_numbers(
    tiny_pipe: Pipeline, sigmas: list[float], guidance: float
) -> None:
    with pytest.raises(RequestError, match="must"):
        tiny_pipe.denoise(tiny_pipe.encode(["a"]), [tiny_pipe.noise(0, (16, 16))], sigmas, guidance)


def test_an_empty_list_of_negatives_is_not_taken_for_no_guidance(tiny_pipe: Pipeline) -> None:
    with pytest.raises(RequestError, match="0 negatives"):
        tiny_pipe.denoise(tiny_pipe.encode(["a"]), [tiny_pipe.noise(0, (16, 16))], [1.0], 2.0, [])


# ---- the stages -------------------------------------------------------------------------------


def test_stages_take_and_give_the_documented_shapes(tiny_pipe: Pipeline) -> None:
    text = tiny_pipe.encode(["a red fox", "一只红色的狐狸"])
    assert [t.features.shape[1] for t in text] == [64, 64]
    noise = tiny_pipe.noise(seed=7, size=(48, 32))
    assert (noise.shape, noise.dtype) == ((16, 4, 6), torch.float32)
    latents = tiny_pipe.denoise(text, [noise, noise], sigmas=[1.0, 0.5])
    assert [x.shape for x in latents] == [noise.shape] * 2
    images = tiny_pipe.decode(latents)
    assert [tuple(x.shape) for x in images] == [(3, 32, 48)] * 2
    assert all(x.abs().max() <= 1 for x in images)


def test_features_are_unpadded_and_in_the_order_given(tiny_pipe: Pipeline) -> None:
    prompts = ["a much longer prompt", "x", "a much longer prompt", ""]
    lengths = [len(tiny_pipe.model.tokenizer.encode(p)) for p in prompts]
    found = tiny_pipe.encode(prompts)
    assert [len(t) for t in found] == lengths
    assert torch.equal(found[0].features, found[2].features)
    assert tiny_pipe.encode([]) == []


def test_the_noise_is_the_seeds_own(tiny_pipe: Pipeline) -> None:
    generator = torch.Generator().manual_seed(7)
    expected = torch.randn(16, 2, 4, generator=generator)
    assert torch.equal(tiny_pipe.noise(7, (32, 16)), expected)


def test_pixels_are_rounded_and_clamped() -> None:
    values = torch.tensor([-2.0, -1.0, 0.0, 0.996, 1.0, 2.0]).expand(3, 1, 6)
    assert list(to_pil(values).tobytes()[::3]) == [0, 0, 128, 254, 255, 255]


def test_tables_of_few_schedules_are_kept(tiny_pipe: Pipeline) -> None:
    for steps in range(1, 8):
        tiny_pipe.generate(Request("x", size=(16, 16), steps=steps))
    assert len(tiny_pipe._denoiser._tables._kept) <= 4


def test_long_prompts_are_encoded_in_several_packs(
    tiny_pipe: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = ["x" * n for n in (1, 5, 30, 2)]
    together = tiny_pipe.encode(prompts)
    monkeypatch.setattr("danqing.engine.MAX_TEXT_TOKENS", 12)
    apart = tiny_pipe.encode(prompts)
    for a, b in zip(together, apart, strict=True):
        assert torch.equal(a.features, b.features)


# ---- models that cannot be painted with -------------------------------------------------------


def poison(component: str, name: str, value: float, folder: Path) -> None:
    def change(tensors: Tensors) -> None:
        tensors[name].flatten()[0] = value

    edit(folder, component, change)


POISONED = [
    ("text_encoder", "model.language_model.layers.1.mlp.up_proj.weight", "layers.1.mlp.up_proj"),
    ("transformer", "transformer_blocks.1.img_mod.1.bias", "blocks.1.img.mod.bias"),
    ("transformer", "proj_out.bias", "proj_out.bias"),
    ("vae", "decoder.mid_block.resnets.0.conv1.bias", "decoder.mid_block.resnets.0.conv1.bias"),
    ("vae", "post_quant_conv.bias", "post_quant_conv.bias"),
]


def test_denoise_alone_notices_as_well(tiny_copy: Path) -> None:
    poison("transformer", "proj_out.bias", math.nan, tiny_copy)
    pipe = load(tiny_copy)
    with pytest.raises(WeightsError, match=r"transformer: proj_out\.bias holds NaN"):
        pipe.denoise(pipe.encode(["a"]), [pipe.noise(0, (16, 16))], [1.0])


def test_infinity_at_the_very_end_is_named(tiny_copy: Path) -> None:
    poison("vae", "decoder.conv_out.bias", math.inf, tiny_copy)
    with pytest.raises(WeightsError, match=r"vae: decoder\.conv_out\.bias holds NaN or infinity"):
        load(tiny_copy).generate(SMALL)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(("component", "theirs", "ours"), POISONED)
def test_weights_that_are_not_finite_are_named(
    tiny_copy: Path, component: str, theirs: str, ours: str, value: float
) -> None:
    poison(component, theirs, value, tiny_copy)
    pipe = load(tiny_copy)
    with pytest.raises(WeightsError, match=f"{component}: {ours}.* holds NaN or infinity; fetch"):
        pipe.generate(SMALL)


def test_an_overflow_names_the_dtype(tiny_model: Path) -> None:
    pipe = load(tiny_model, dtype="float16")
    pipe.model.vae.decoder.conv_out.weight.mul_(60000)
    pipe.model.vae.decoder.up_blocks[0].resnets[0].conv1.weight.fill_(60000)
    with pytest.raises(WeightsError, match="not finite in float16; use --dtype bfloat16"):
        pipe.decode([tiny.draw(16, 2, 2)])


def test_a_missing_part_is_named(tiny_copy: Path) -> None:
    shutil.rmtree(tiny_copy / "vae")
    with pytest.raises(ModelError, match="lacks the folder 'vae'"):
        load(tiny_copy)


def test_a_misshapen_tensor_is_named(tiny_copy: Path) -> None:
    edit(tiny_copy, "transformer", lambda t: t.update({"proj_out.bias": torch.zeros(63)}))
    with pytest.raises(WeightsError, match=r"proj_out.bias has shape \[63\], expected \[64\]"):
        load(tiny_copy)


@pytest.mark.parametrize("component", ["text_encoder", "transformer", "vae"])
def test_a_truncated_file_is_named(tiny_copy: Path, component: str) -> None:
    path = weights_file(tiny_copy, component)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match=f"{path} is truncated"):
        load(tiny_copy)


def test_an_unknown_model_is_an_error() -> None:
    with pytest.raises(ModelError, match="'maxi' is neither 'mini'"):
        danqing.load("maxi")


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "vulkan", ""])
def test_a_device_that_is_not_there(tiny_model: Path, device: str) -> None:
    with pytest.raises(ModelError, match=f"device '{device}' cannot be used here .*; try cpu"):
        danqing.load(str(tiny_model), device=device)


def test_an_unknown_dtype(tiny_model: Path) -> None:
    with pytest.raises(ModelError, match="dtype 'float8' is unknown; choose float32, bfloat16"):
        load(tiny_model, dtype="float8")


@pytest.mark.parametrize("threads", [0, -1])
def test_too_few_threads(tiny_model: Path, threads: int) -> None:
    with pytest.raises(RequestError, match=f"threads {threads} must be a whole number from 1"):
        load(tiny_model, threads=threads)


@pytest.mark.usefixtures("threads")
def test_threads_are_set(tiny_model: Path) -> None:
    load(tiny_model, threads=3)
    assert torch.get_num_threads() == 3


@pytest.fixture
def dependent_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which riding together changes bits."""
    monkeypatch.setattr("danqing.numerics.rows_are_independent", lambda weight: False)


@pytest.mark.usefixtures("dependent_rows")
def test_pictures_ride_alone_where_company_changes_bits(tiny_model: Path) -> None:
    pipe = load(tiny_model)
    assert [p.indices for p in events_of(pipe, [SMALL] * 2)[0]] == [(0,), (0,), (1,), (1,)]
    assert pipe.profile["packing"] == "exact"


@pytest.mark.usefixtures("dependent_rows")
def test_they_ride_together_on_request(tiny_model: Path) -> None:
    pipe = load(tiny_model, throughput=True)
    assert [p.indices for p in events_of(pipe, [SMALL] * 2)[0]] == [(0, 1), (0, 1)]
    assert pipe.profile["packing"] == "throughput"
