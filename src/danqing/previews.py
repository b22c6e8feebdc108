"""What a training shows meanwhile: its prompts, painted with the network as it is.

Knows the loop of the engine and the decoder. The training knows neither, and calls this.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from danqing.adapters import formats, published
from danqing.adapters.adapter import Adapter, Sampling
from danqing.adapters.inject import Mix, bind
from danqing.adapters.targets import check_fit, targets
from danqing.denoising import Denoiser, Job
from danqing.engine import to_pil
from danqing.errors import TrainingError
from danqing.models.transformer import Transformer
from danqing.models.vae import VAE
from danqing.sampling import latents, noise
from danqing.sampling.schedule import schedule
from danqing.training.prepare import Place
from danqing.training.settings import Settings
from danqing.types import BLANK
from danqing.weights import configs, loader, model

if TYPE_CHECKING:
    from PIL.Image import Image

FULL, FEW = "full schedule", "few steps"


class Decoder:
    """Packed latents [P, C] to pictures, with the model's own VAE."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.vae = cast(VAE, loader.build(lambda: VAE(configs.read_vae(place.folder))))
        model.fill("vae", self.vae, place.folder, place.device, place.dtype)

    @torch.inference_mode()
    def __call__(self, patches: Tensor, rows: int, columns: int) -> "Image":
        latent = latents.unpack(patches.to(self._place.device), rows, columns)
        raw = self.vae.denormalise(latent)[None].to(self._place.dtype)
        return to_pil(self.vae.decode(raw)[0].float())


class Previews:
    """Paints the settings' prompts at fixed seeds.

    Args:
        settings: of the training.
        place: where the model is.
        texts: features of the prompts and of the blank, [L, J] each.

    With the full schedule, and, if the settings name a few-step adapter, with that one stacked on
    top of what is trained, because that is how the result will be used.
    """

    def __init__(self, settings: Settings, place: Place, texts: Mapping[str, Tensor]) -> None:
        self._settings, self._place, self._texts = settings, place, texts
        self._decode = Decoder(place)
        self._few = read_few_step(settings.few_step)

    def __call__(self, network: Transformer) -> "dict[str, list[Image]]":
        """A row of pictures for each way of sampling: every prompt at every seed."""
        defaults = model.read_defaults(self._place.folder)
        steps = self._settings.sample_steps or defaults.steps
        guidance = self._settings.sample_guidance or defaults.guidance
        rows = {FULL: self._paint(network, Sampling(steps, None, guidance), ())}
        if self._few is not None:
            name, adapter = cast(str, self._settings.few_step), self._few
            # Of a plain network: the one in training has other layers in their places.
            config = configs.read_transformer(self._place.folder)
            known = targets(loader.build(lambda: Transformer(config)))
            check_fit(adapter, known, name, self._settings.model)
            mix: Mix = ((bind(adapter, network, known, name), 1.0),)
            rows[FEW] = self._paint(network, cast(Sampling, adapter.sampling), mix)
        return rows

    @torch.inference_mode()
    def _paint(self, network: Transformer, how: Sampling, mix: Mix) -> "list[Image]":
        jobs = [
            self._job(prompt, seed, how, mix)
            for prompt in self._settings.prompts
            for seed in self._settings.sample_seeds
        ]
        denoiser = Denoiser(network)  # a new one: the tables of before are of other weights
        for job in jobs:
            for _ in denoiser.run([job]):
                pass
        return [self._decode(job.patches, job.rows, job.columns) for job in jobs]

    def _job(self, prompt: str, seed: int, how: Sampling, mix: Mix) -> Job:
        config, place = self._decode.vae.config, self._place
        width, height = self._settings.size or model.read_defaults(place.folder).size
        start = noise.draw(seed, (config.z_dim, height // config.factor, width // config.factor))
        rows, columns = (n // latents.PATCH for n in start.shape[-2:])
        levels = schedule(how.steps, rows * columns, configs.read_schedule(place.folder))
        guidance = how.guidance or 1.0
        return Job(
            patches=latents.pack(start).to(place.device),
            rows=rows,
            columns=columns,
            text=self._texts[prompt].to(place.device),
            negative=self._texts[BLANK].to(place.device) if guidance > 1 else None,
            guidance=guidance,
            sigmas=levels if how.sigmas is None else list(how.sigmas),
            mix=mix,
        )


def read_few_step(name: str | None) -> Adapter | None:
    """The few-step adapter, which must say how to sample with it."""
    if name is None:
        return None
    adapter = formats.read(published.find(name))
    if adapter.sampling is None:
        raise TrainingError(f"few_step {name!r} does not say how to sample with it; note it with "
                            "danqing adapter convert --sigmas")  # fmt: skip
    return adapter
