"""A pipeline that paints coloured squares, a way to run command lines against it, and adapters."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

import danqing
from danqing import cli, recipe
from danqing.adapters.adapter import Adapter, Sampling, Update
from danqing.adapters.write import write
from danqing.errors import AdapterError, ModelError, RequestError
from danqing.types import Progress, Request, Result
from tests import tiny

# Some layers of the tiny model, with [out, in] of their weights.
LAYERS = {
    "img_in": (64, 64),
    "transformer_blocks.0.attn.to_q": (64, 64),
    "transformer_blocks.2.img_mlp.net.0.proj": (256, 64),
}
MAX_SIDE = 256
MAX_PROMPT = 200


@dataclass
class FakePipeline:
    """The engine's interface without tensors. Tests turn the fields to make it misbehave."""

    model: SimpleNamespace = field(
        default_factory=lambda: SimpleNamespace(id="mini", fingerprint="0123456789abcdef")
    )
    defaults: SimpleNamespace = field(
        default_factory=lambda: SimpleNamespace(size=(32, 16), steps=3, guidance=4.0)
    )
    profile: dict[str, str] = field(
        default_factory=lambda: {"torch": "2.13", "device": "cpu", "dtype": "float32", "id": "a1"}
    )
    loads: list[dict[str, object]] = field(default_factory=list)
    painted: list[Request] = field(default_factory=list)
    made: dict[str, Sampling] = field(default_factory=dict)  # what adapters were made for, by name
    backwards: bool = False  # finish in the opposite order
    shift: int = 0  # added to every pixel, as another machine might
    fail_at: int | None = None  # picture before which `failure` is raised
    failure: BaseException = field(default_factory=KeyboardInterrupt)

    def load(self, model: str = "mini", **options: object) -> "FakePipeline":
        if model not in ("mini", "folder/mini"):
            raise ModelError(f"model {model!r} is not known; try mini")
        self.loads.append({"model": model, **options})
        return self

    def check(self, requests: Sequence[Request]) -> list[Request]:
        return [self._complete(request) for request in requests]

    def made_for(self, request: Request) -> Sampling | None:
        return next((self.made[name] for name in request.adapters if name in self.made), None)

    def _complete(self, request: Request) -> Request:
        levels = sum(1 for sigma in request.sigmas or () if sigma > 0)
        if levels and request.steps not in (None, levels):
            raise RequestError("a request has steps or sigmas, not both")
        if "nope" in request.adapters:
            raise AdapterError("adapter 'nope' is neither a file nor a name; check the name")
        if len(request.prompt) > MAX_PROMPT:
            raise RequestError(f"a prompt of {len(request.prompt)} tokens; at most {MAX_PROMPT}")
        size = request.size or self.defaults.size
        if max(size) > MAX_SIDE:
            raise RequestError(f"size {size} is beyond the model's {MAX_SIDE}")
        return replace(
            request,
            size=size,
            steps=levels or request.steps or self.defaults.steps,
            guidance=request.guidance or self.defaults.guidance,
        )

    def stream(self, requests: Sequence[Request]) -> Iterator[Progress | Result]:
        ready = list(enumerate(self.check(requests)))
        for count, (index, request) in enumerate(reversed(ready) if self.backwards else ready):
            sigmas = request.sigmas or [1 - s / request.steps for s in range(request.steps)]
            sigmas = [sigma for sigma in sigmas if sigma > 0]  # the closing 0 may be given
            for step in range(len(sigmas)):
                yield Progress(step + 1, len(sigmas), (index,), list)
            if count == self.fail_at:
                raise self.failure
            self.painted.append(request)
            yield self._result(index, request, sigmas)

    def _result(self, index: int, request: Request, sigmas: Sequence[float]) -> Result:
        image = Image.new("RGB", request.size, self._colour(request))
        parts = (self.model.id, self.model.fingerprint, [*sigmas, 0.0], self.profile)
        digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in request.adapters}
        made = recipe.make(request, *parts, image, digests)
        return Result(index, request, image, made, {"encode": 0.1, "denoise": 0.2, "decode": 0.3})

    def _colour(self, request: Request) -> tuple[int, ...]:
        digest = hashlib.sha256(f"{request.prompt}{request.seed}{request.negative}".encode())
        return tuple(byte // 2 + self.shift for byte in digest.digest()[:3])


def lora(
    seed: int = 0,
    *,
    rank: int = 2,
    alpha: float | None = 4.0,
    sampling: Sampling | None = None,
) -> Adapter:
    """An adapter of the tiny model, strong enough to be seen."""
    updates = {}
    for number, (layer, (out, width)) in enumerate(LAYERS.items()):
        down = tiny.draw(rank, width, seed=100 * seed + number)
        up = tiny.draw(out, rank, seed=100 * seed + number + 50)
        updates[layer] = Update({"down": down, "up": up * 0.1}, alpha)
    return Adapter(updates, sampling=sampling)


def write_lora(path: str, seed: int = 0, **values: Any) -> str:
    """The same as a file, in ComfyUI's naming; its path."""
    write(lora(seed, **values), Path(path), "comfyui", overwrite=True)
    return path


@dataclass
class Outcome:
    """How a command line ended."""

    code: int
    out: str
    err: str

    @property
    def paths(self) -> list[Path]:
        return [Path(line) for line in self.out.splitlines()]


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> FakePipeline:
    """The fake in the place of ``danqing.load``."""
    fake = FakePipeline()
    # Not `setattr`, which would first look for the real one, and import torch.
    monkeypatch.setitem(danqing.__dict__, "load", fake.load)
    return fake


@pytest.fixture
def run(
    pipeline: FakePipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., Outcome]:
    """Runs a command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DANQING_DEBUG", raising=False)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: str | Path) -> Outcome:
        code = cli.run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture
def refused(run: Callable[..., Outcome], tmp_path: Path) -> Callable[..., str]:
    """Runs a command line that must fail as a user's mistake; returns its one line."""

    def refused(*arguments: str | Path) -> str:
        before = sorted(tmp_path.rglob("*"))
        outcome = run(*arguments)
        assert outcome.code == 2
        assert outcome.out == ""
        assert outcome.err.startswith("error: ")
        assert outcome.err.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before, "something was written"
        return outcome.err

    return refused
