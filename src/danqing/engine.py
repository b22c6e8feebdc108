"""The engine: the six stages between a request and its picture, and their order.

    prompts -> text features -> noise -> denoise -> decode -> picture with its recipe

Each stage is a public method on tensors; ``generate`` is their composition, and ``stream`` the
same as a generator of progress, so that every caller can watch, preview and cancel in one way.
How a stage works is known below; what rides together in a pack is decided in ``composer``.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, cast, overload

import torch
from torch import Tensor

from danqing import checks, numerics, recipe
from danqing.adapters.adapter import Sampling
from danqing.adapters.store import Store
from danqing.composer import compose
from danqing.denoising import Denoiser, Job
from danqing.errors import ModelError, RequestError, WeightsError
from danqing.models.text_encoder import Prefix, TextFeatures
from danqing.models.tiling import decode_tiled_raw
from danqing.sampling import flow, latents, noise
from danqing.sampling.schedule import check_sigmas, schedule
from danqing.types import BLANK, Progress, Request, Result
from danqing.weights.files import dtype_named
from danqing.weights.hub import find
from danqing.weights.model import Defaults, Model, open_model

if TYPE_CHECKING:
    from PIL.Image import Image

TILE_ABOVE = 2_000_000  # pixels; all published sizes are below and decode whole
MAX_TEXT_TOKENS = 4096  # of a pack of prompts


def load(
    model: str = "mini",
    *,
    device: str | None = None,
    dtype: str | None = None,
    threads: int | None = None,
    throughput: bool = False,
) -> "Pipeline":
    """Open a model.

    Args:
        model: "mini" (embedded), a folder in the diffusers layout, or a hub id that was fetched.
        device: "cpu", "cuda", "cuda:1", ...; by default CUDA where there is one.
        dtype: "float32", "bfloat16" or "float16"; by default float32 on a CPU, else bfloat16.
        threads: CPU threads for the whole process; changes no bit of a picture.
        throughput: pack pictures together even where that changes bits (CUDA).

    Raises:
        ModelError: the model cannot be found, is not whole, or does not fit in memory.
    """
    place = resolve_device(device)
    kind = dtype_named(dtype or ("float32" if place.type == "cpu" else "bfloat16"))
    if threads is not None:
        checks.check_whole("threads", threads, 1, 1024)
        torch.set_num_threads(threads)
    opened = open_model(model, find(model), place, kind)
    return Pipeline(opened, place, kind, throughput=throughput)


def resolve_device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"device {name!r} cannot be used here ({reason}); try cpu") from error
    return device


class Pipeline:
    """A model in place, and the stages that paint with it."""

    def __init__(
        self, model: Model, device: torch.device, dtype: torch.dtype, *, throughput: bool = False
    ) -> None:
        self.model = model
        self.device = device
        self.dtype = dtype
        exact = self._packs_exactly()
        self.together = throughput or exact
        packing = "throughput" if throughput and not exact else "exact"
        self.profile = numerics.profile(device, dtype, packing=packing)
        self.adapters = Store(model.transformer, model.id, model.folder)
        self._denoiser = Denoiser(model.transformer)

    @property
    def defaults(self) -> Defaults:
        return self.model.defaults

    @property
    def unit(self) -> int:
        """Pixels of a patch's side."""
        return latents.PATCH * self.model.vae.config.factor

    # ---- the whole ------------------------------------------------------------------------

    @overload
    def generate(self, requests: Request) -> Result: ...
    @overload
    def generate(self, requests: Sequence[Request]) -> list[Result]: ...
    def generate(self, requests: Request | Sequence[Request]) -> Result | list[Result]:
        """Paint one request, or a list; results in the order asked."""
        if isinstance(requests, Request):
            return self.generate([requests])[0]
        results = [event for event in self.stream(requests) if isinstance(event, Result)]
        return sorted(results, key=lambda result: result.index)

    def stream(self, requests: Sequence[Request]) -> Iterator[Progress | Result]:
        """Paint, and yield a Progress after every step and a Result for every picture."""
        ready = self.check(requests)
        facts = [[self.adapters.facts(name) for name in r.adapters] for r in ready]
        packs = compose(
            [self._patches(r) for r in ready],
            together=self.together,
            loads=[{fact.digest: fact.bytes for fact in own} for own in facts],
            room=self.adapters.capacity,
        )
        for places in packs:
            yield from self._paint([ready[p] for p in places], places)

    def check(self, requests: Sequence[Request]) -> list[Request]:
        """The requests with defaults filled in; RequestError for any that cannot be painted."""
        requests = [self._with_own(request) for request in requests]
        made = [self.made_for(request) for request in requests]
        ready = [checks.complete(r, self.defaults, m) for r, m in zip(requests, made, strict=True)]
        for request in ready:
            checks.check(request, self.model.tokenizer, self.unit)
        checks.warn(ready, made, self.defaults, self.model.id)
        return ready

    def made_for(self, request: Request) -> Sampling | None:
        """The sampling that the request's adapters were made for, if one of them was."""
        made = self.adapters.samplings(self._with_own(request).adapters)
        wanted = set(made.values())
        if len(wanted) > 1 and request.steps is None and request.sigmas is None:
            each = ", ".join(f"{name} for {sampling}" for name, sampling in sorted(made.items()))
            raise RequestError(
                f"the adapters were made for different sampling ({each}); give steps or sigmas"
            )
        if len(wanted) > 1:  # the one that the request is about, if it is
            wanted = {one for one in wanted if checks.is_about(request, one)}
        return wanted.pop() if len(wanted) == 1 else None

    @torch.inference_mode()
    def _paint(self, requests: list[Request], places: list[int]) -> Iterator[Progress | Result]:
        clock = [time.perf_counter()]
        jobs = self._jobs(requests)
        clock.append(time.perf_counter())
        for step, steps in self._denoise(jobs):
            yield Progress(step, steps, tuple(places), lambda: self._preview(jobs))
        clock.append(time.perf_counter())
        images = self.decode([self._latent(job) for job in jobs])
        clock.append(time.perf_counter())
        stages = zip(("encode", "denoise", "decode"), clock, clock[1:], strict=False)
        timings = {name: end - start for name, start, end in stages}
        for place, request, job, image in zip(places, requests, jobs, images, strict=True):
            picture = to_pil(image)
            made = recipe.make(
                request,
                self.model.id,
                self.model.fingerprint,
                tuple(job.sigmas),
                self.profile,
                picture,
                {name: self.adapters.facts(name).digest for name in request.adapters},
            )
            yield Result(place, request, picture, made, timings)

    # ---- the stages -----------------------------------------------------------------------

    @torch.inference_mode()
    def encode(self, prompts: Sequence[str]) -> list[TextFeatures]:
        """Text features of each prompt, unpadded, in the order given."""
        ids = {p: self.model.tokenizer.encode(p) for p in prompts}
        order = sorted(ids, key=lambda p: len(ids[p]))  # equal lengths attend at once
        found: dict[str, TextFeatures] = {}
        while order:
            pack = self._text_pack([len(ids[p]) for p in order])
            found |= self._encode_pack({p: ids[p] for p in order[:pack]})
            order = order[pack:]
        return [found[p] for p in prompts]

    def noise(self, seed: int, size: tuple[int, int]) -> Tensor:
        """Starting noise [16, H/8, W/8] float32 on the CPU, for ``size`` (width, height)."""
        width, height = size
        factor = self.model.vae.config.factor
        return noise.draw(seed, (self.model.vae.config.z_dim, height // factor, width // factor))

    @torch.inference_mode()
    def denoise(
        self,
        text: Sequence[TextFeatures],
        noise: Sequence[Tensor],
        sigmas: Sequence[float],
        guidance: float = 1.0,
        negative: Sequence[TextFeatures] | None = None,
        adapters: Mapping[str, float] | Sequence[Mapping[str, float]] | None = None,
    ) -> list[Tensor]:
        """Clean latents [16, H/8, W/8] in the transformer's (normalised) space.

        ``negative`` stands beside ``text`` and is used where ``guidance`` > 1; a blank without it.
        ``adapters`` are names with strengths, for all images or a list of them, one for each.
        """
        checks.check_guidance(guidance)
        wanted = [adapters or {}] * len(text) if not isinstance(adapters, Sequence) else adapters
        for strengths in wanted:
            checks.check_adapters(strengths)
        levels = check_sigmas(sigmas)
        if guidance > 1 and negative is None:
            negative = self.encode([BLANK]) * len(text)
        against = (
            [t.features for t in negative]
            if negative is not None and guidance > 1
            else [None] * len(text)
        )
        if not len(text) == len(noise) == len(against) == len(wanted):
            raise RequestError(
                f"{len(text)} texts, {len(noise)} noises, {len(against)} negatives and "
                f"{len(wanted)} sets of adapters: denoise needs as many of each"
            )
        jobs = [
            self._job(n, t.features, a, guidance, levels, strengths)
            for n, t, a, strengths in zip(noise, text, against, wanted, strict=True)
        ]
        sizes = [len(j.patches) * (1 if j.negative is None else 2) for j in jobs]
        for places in compose(sizes, together=self.together):
            for _ in self._denoise([jobs[p] for p in places]):
                pass
        return [self._latent(job) for job in jobs]

    @torch.inference_mode()
    def decode(self, latents: Sequence[Tensor]) -> list[Tensor]:
        """Images [3, H, W] float32 in [-1, 1], one after the other."""
        vae, images = self.model.vae, []
        for latent in latents:
            raw = vae.denormalise(latent.to(self.device))[None].to(self.dtype)
            large = latent.shape[-1] * latent.shape[-2] * vae.config.factor**2 > TILE_ABOVE
            image = (decode_tiled_raw(vae, raw) if large else vae.decode_raw(raw))[0].float()
            self._check_finite(image)  # before the clamp, which would turn infinity into white
            images.append(image.clamp(-1.0, 1.0))
        return images

    # ---- inside ---------------------------------------------------------------------------

    def _with_own(self, request: Request) -> Request:
        """With the model's own few-step adapter, where nothing else is said of sampling."""
        checks.check_request(request)
        told = (request.sigmas, request.guidance, request.negative) != (None, None, BLANK)
        own = self.defaults.adapter
        if own is None or told or self.adapters.samplings(request.adapters):
            return request
        made = self.adapters.facts(own).sampling
        if request.steps is not None and not (made and made.serves(request.steps)):
            return request
        return replace(request, adapters={own: 1.0, **request.adapters})

    def _jobs(self, requests: list[Request]) -> list[Job]:
        guided = [r for r in requests if cast(float, r.guidance) > 1]
        prompts = [r.prompt for r in requests] + [r.negative for r in guided]
        features = dict(zip(prompts, self.encode(prompts), strict=True))
        return [
            self._job(
                self.noise(r.seed, cast(tuple[int, int], r.size)),
                features[r.prompt].features,
                features[r.negative].features if cast(float, r.guidance) > 1 else None,
                cast(float, r.guidance),
                self._sigmas(r),
                r.adapters,
            )
            for r in requests
        ]

    def _job(
        self,
        noise_CYX: Tensor,
        text: Tensor,
        negative: Tensor | None,
        guidance: float,
        sigmas: list[float],
        adapters: Mapping[str, float],
    ) -> Job:
        rows, columns = (n // latents.PATCH for n in noise_CYX.shape[-2:])
        patches, mix = latents.pack(noise_CYX).to(self.device), self.adapters.mix(adapters)
        return Job(patches, rows, columns, text, negative, guidance, sigmas, mix)

    def _denoise(self, jobs: list[Job]) -> Iterator[tuple[int, int]]:
        yield from self._denoiser.run(jobs)
        for job in jobs:
            self._check_finite(job.patches)

    def _sigmas(self, request: Request) -> list[float]:
        if request.sigmas is not None:
            return list(request.sigmas)
        patches = self._grid(request)[0] * self._grid(request)[1]
        return schedule(cast(int, request.steps), patches, self.model.schedule)

    def _grid(self, request: Request) -> tuple[int, int]:
        width, height = cast(tuple[int, int], request.size)
        return height // self.unit, width // self.unit

    def _patches(self, request: Request) -> int:
        rows, columns = self._grid(request)
        return rows * columns * (2 if cast(float, request.guidance) > 1 else 1)

    def _latent(self, job: Job) -> Tensor:
        return latents.unpack(job.patches, job.rows, job.columns)

    @torch.inference_mode()
    def _preview(self, jobs: list[Job]) -> "list[Image]":
        """What the jobs' pictures look like by now: where their velocities point to."""
        found = []
        for job in jobs:
            sigma, velocity = job.sigmas[job.step], cast(Tensor, job.velocity)
            clean = flow.denoised(job.patches, sigma, velocity)
            found.append(latents.unpack(clean, job.rows, job.columns))
        return [to_pil(image) for image in self.decode(found)]

    @cached_property
    def _prefix(self) -> Prefix:
        ids = torch.tensor(self.model.tokenizer.prefix, device=self.device)
        return self.model.text_encoder.prefix(ids)

    def _text_pack(self, lengths: list[int]) -> int:
        """How many of the prompts, from the first, are encoded together."""
        if not self.together:
            return 1
        total, count = 0, 0
        for length in lengths:
            if count and total + length > MAX_TEXT_TOKENS:
                break
            total, count = total + length, count + 1
        return count

    def _encode_pack(self, ids: dict[str, list[int]]) -> dict[str, TextFeatures]:
        lengths = [len(tokens) for tokens in ids.values()]
        tokens = torch.tensor([i for part in ids.values() for i in part], device=self.device)
        features = self.model.text_encoder(tokens, lengths, self._prefix)
        parts = features.to(self.dtype).split(lengths)
        return {p: TextFeatures(part) for p, part in zip(ids, parts, strict=True)}

    def _packs_exactly(self) -> bool:
        """Whether riding together changes no bit here: seen on CPUs, never taken on trust."""
        if self.device.type != "cpu":
            return False
        stream = self.model.transformer.blocks[0].img
        weights = (stream.qkv.weight, stream.mlp_in.weight, stream.mlp_out.weight)
        return all(numerics.rows_are_independent(weight) for weight in weights)

    def _check_finite(self, tensor: Tensor) -> None:
        """An error in place of a black picture."""
        if bool(torch.isfinite(tensor).all()):
            return
        for component in ("text_encoder", "transformer", "vae"):
            for name, weight in getattr(self.model, component).named_parameters():
                if not bool(torch.isfinite(weight).all()):
                    raise WeightsError(
                        f"{self.model.folder / component}: {name} holds NaN or infinity; "
                        "fetch the file again"
                    )
        raise WeightsError(
            f"the picture is not finite in {str(self.dtype)[6:]}; use --dtype bfloat16 or float32"
        )


def to_pil(image_CHW: Tensor) -> "Image":
    from PIL import Image

    bytes_HWC = image_CHW.mul(0.5).add(0.5).clamp(0, 1).mul(255).round().byte().permute(1, 2, 0)
    return Image.fromarray(bytes_HWC.cpu().numpy())
