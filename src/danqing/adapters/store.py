"""The adapters that a model can be asked for: names to files, files to what is ready to run.

An adapter is read when it is first asked for, checked whole, and kept while there is room. A file
that was changed meanwhile is read anew.
"""

import hashlib
import os
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from danqing.adapters import formats, published
from danqing.adapters.adapter import Sampling
from danqing.adapters.inject import Bound, Mix, bind
from danqing.adapters.safe import locate, peft_settings
from danqing.adapters.targets import Target, check_fit, targets
from danqing.errors import AdapterError
from danqing.models.transformer import Transformer
from danqing.weights.fingerprint import ADAPTERS

CAPACITY = 4 * 1024**3  # bytes of adapters kept ready


State = tuple[object, ...]  # of a file and its settings: where, when changed, how large


@dataclass(frozen=True)
class Facts:
    """What is known of a file that was read once, whether or not it is still in memory.

    ``digest`` is its SHA-256, ``sampling`` what it was made for, ``bytes`` what it takes in memory.
    """

    digest: str
    sampling: Sampling | None
    bytes: int


class Store:
    """The adapters of one opened model.

    Args:
        network: the transformer that they are made ready for.
        model: its name, for errors.
        folder: the model's folder, which may hold adapters of its own.
        capacity: bytes of adapters that are kept ready.
    """

    def __init__(
        self, network: Transformer, model: str, folder: Path, capacity: int = CAPACITY
    ) -> None:
        self.capacity = capacity
        self._network = network
        self._model = model
        self._folder = folder
        self._named: dict[str, Path] = {}
        self._facts: dict[State, Facts] = {}
        self._ready: OrderedDict[State, Bound] = OrderedDict()

    @cached_property
    def _targets(self) -> dict[str, Target]:
        """Found when the first adapter is read: many pictures are painted without one."""
        return targets(self._network)

    def add(self, name: str, file: str | Path) -> None:
        """Give a file a name, under which requests can ask for it."""
        if name in self._named:
            raise AdapterError(f"there is an adapter {name!r} already ({self._named[name]})")
        path = Path(os.path.expanduser(file))
        self._bound(name, path)  # an error now rather than at the first picture
        self._named[name] = path

    def remove(self, name: str) -> None:
        """Forget a name given with ``add``."""
        if name not in self._named:
            raise AdapterError(f"there is no adapter named {name!r}; there are {self.names}")
        del self._named[name]

    @property
    def names(self) -> list[str]:
        """Names that were added, and those of the model's own adapters."""
        own = {p.stem for p in (self._folder / ADAPTERS).glob("*.safetensors")}
        return sorted(own | set(self._named))

    def facts(self, name: str) -> Facts:
        """What is known of the adapter of this name; it is read if it never was.

        Raises:
            AdapterError: there is no such adapter, or it is damaged or made for another model.
        """
        path = self.find(name)
        found = state(path)
        if found not in self._facts:
            self._bound(name, path)
        return self._facts[found]

    def find(self, name: str) -> Path:
        """The file: one that was added, the model's own, a path, or one fetched from the hub."""
        if name in self._named:
            return self._named[name]
        return published.find(name, self.names, self._folder)

    def mix(self, strengths: Mapping[str, float]) -> Mix:
        """The adapters of one picture, in an order that does not depend on the request's."""
        found = [(self._bound(n, self.find(n)), strength) for n, strength in strengths.items()]
        found.sort(key=lambda pair: (pair[0].digest, pair[1]))
        return tuple((bound, strength) for bound, strength in found if strength)

    def samplings(self, strengths: Mapping[str, float]) -> dict[str, Sampling]:
        """What each of these adapters was made for, where one was made for something."""
        made = {n: self.facts(n).sampling for n, strength in strengths.items() if strength > 0}
        return {name: sampling for name, sampling in made.items() if sampling}

    def _bound(self, name: str, path: Path) -> Bound:
        found = state(path)
        if found not in self._ready:
            self._read(found, name, path)
        self._ready.move_to_end(found)
        while len(self._ready) > 1 and sum(b.bytes for b in self._ready.values()) > self.capacity:
            self._ready.popitem(last=False)  # the one not used for longest
        return self._ready[found]

    def _read(self, found: State, name: str, path: Path) -> None:
        adapter = formats.read(path)
        check_fit(adapter, self._targets, name, self._model)
        bound = bind(adapter, self._network, self._targets, digest(locate(path)))
        self._ready[found] = bound
        self._facts[found] = Facts(bound.digest, adapter.sampling, bound.bytes)


def state(path: Path) -> State:
    """Where the adapter's file is and whether it was changed; AdapterError if it is not there."""
    file = locate(path).absolute()  # not resolved: its name says what a published file is
    try:
        settings = peft_settings(file)
        found = [one.stat() for one in (file, settings) if one]
    except OSError as error:
        raise AdapterError(
            f"cannot read adapter {path}: {error.strerror}; check the name"
        ) from error
    return file, *((status.st_mtime_ns, status.st_size) for status in found)


def digest(path: Path) -> str:
    """SHA-256 of the file, in hexadecimal; of PEFT's settings as well, where they lie beside."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256")
    if settings := peft_settings(path):
        found.update(settings.read_bytes())
    return found.hexdigest()
