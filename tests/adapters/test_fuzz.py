"""The reader on damaged input: an adapter that accounts for every tensor, or an AdapterError.

Hypothesis starts from sound adapters of every kind and naming and changes names, shapes, types,
values, metadata or bytes. The examples are the same in every run.
"""

import json
import math
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from danqing.adapters import formats, keys
from danqing.adapters.adapter import Adapter
from danqing.adapters.inject import Injection, Mix, bake, bind
from danqing.adapters.targets import check_fit
from danqing.errors import AdapterError
from danqing.models.layout import Layout, Segment
from danqing.models.transformer import Transformer
from tests import tiny
from tests.adapters import files
from tests.adapters.files import ADD_V, IMG_MOD, NORM_K, TO_Q

Named = dict[str, Tensor]
Metadata = dict[str, str]

FUZZ = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
LAYOUT = Layout((Segment(2, 3, 4),))
LAYERS = (TO_Q, ADD_V, IMG_MOD)


@pytest.fixture(scope="module")
def network() -> Transformer:
    return tiny.transformer()


# ---- what must hold ---------------------------------------------------------------------------


def survives(network: Transformer, read: Callable[[], Adapter]) -> Adapter | None:
    """The adapter, if it is one; if it fits the tiny network as well, it runs there."""
    try:
        adapter = read()
        check_fit(adapter, files.known(), "fuzzed", "tiny")
    except AdapterError as caught:
        error = caught
    else:
        run(network, adapter)
        return adapter
    assert len(str(error).splitlines()) == 1
    return None


def run(network: Transformer, adapter: Adapter) -> None:
    mix: Mix = ((bind(adapter, network, files.known(), "digest"), 0.5),)
    with torch.inference_mode(), Injection(network, LAYOUT, [mix]):
        table = bake(network, [0.5], mix)
        out = network(tiny.draw(6, 64), tiny.draw(4, 64), LAYOUT, table, [0])
    assert out.shape == (6, 64)


def accounted(adapter: Adapter, named: Mapping[str, Tensor]) -> None:
    """Every tensor that was given has its place in an update, and nothing else has."""
    understood = [key for key in map(keys.read_key, named) if key is not None]
    places = {(key.layer, key.part) for key in understood}
    assert len(places) == len(named)
    found = {(layer, part) for layer, update in adapter.updates.items() for part in update.parts}
    assert found == {(layer, part) for layer, part in places if part != "alpha"}
    for key in understood:
        update = adapter.updates[key.layer]
        if key.part == "alpha" and update.rank:  # without a rank it scales nothing
            assert update.alpha == pytest.approx(float(named[key.text]), rel=1e-3)
        elif key.part != "alpha":
            given = named[key.text]
            assert update.parts[key.part].data_ptr() == given.data_ptr()
            assert update.parts[key.part].numel() == given.numel()


# ---- sound adapters ---------------------------------------------------------------------------


@st.composite
def adapters(draw: st.DrawFn) -> Named:
    """A sound adapter of one or several kinds."""
    naming = draw(st.sampled_from(sorted(files.NAMINGS)))
    alpha = draw(st.sampled_from([None, 2.0]))
    layers: files.Layers = {}
    for layer in draw(st.lists(st.sampled_from(LAYERS), min_size=1, unique=True)):
        kind = draw(st.sampled_from(sorted(files.KINDS)))
        layers |= files.make(kind, [layer], alpha=None if kind == "bias" else alpha)
    if draw(st.booleans()):
        layers |= files.make("full", [NORM_K])
    return files.tensors(layers, naming)


METADATA: list[Metadata] = [
    {},
    {"format": "pt"},
    {"lora_adapter_metadata": '{"r": 4, "lora_alpha": 8}'},
    {
        "lora_adapter_metadata": json.dumps(
            {
                "transformer.r": 4,
                "transformer.lora_alpha": 2.0,
                "transformer.rank_pattern": {"add_v_proj": 4},
                "transformer.alpha_pattern": {r"transformer_blocks\.\d+\.attn\.to_q": 3},
                "transformer.use_rslora": True,
            }
        )
    },
    {
        "danqing": json.dumps(
            {
                "base": {"id": "mini", "fingerprint": "f"},
                "sampling": {"steps": 2, "sigmas": [1.0, 0.5, 0.0], "guidance": 1.0},
            }
        )
    },
]


@settings(FUZZ, max_examples=25)
@given(named=adapters())
def test_sound_adapters_are_read_and_run(network: Transformer, named: Named) -> None:
    adapter = survives(network, lambda: formats.parse(named, {}, "fuzzed"))
    assert adapter is not None
    accounted(adapter, named)


# ---- tensors ----------------------------------------------------------------------------------

DTYPES = [
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float8_e8m0fnu,
    torch.int8,
    torch.int64,
    torch.uint16,
    torch.bool,
    torch.complex64,
]
NUMBERS = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-45, 3e38]
PIECES = [
    *("", " ", ".", "_", "0", "00", "3", "-1", "x", "墨", "\0", "\n"),
    *("to_q", "add_v_proj", "norm_k", "transformer.", "lora_unet_", "text_encoder."),
    *("lora_A", "lora_B", "lora_down", "lora_up", ".weight", ".bias", ".alpha", ".default"),
    *(".diff", ".diff_b", ".dora_scale", ".lokr_w1", ".lokr_w1_a", ".lokr_w2_a", ".hada_w1_a"),
]
PARTS = ["up", "down", "alpha", "diff", "bias", "magnitude", "lokr_w1", "lokr_w2_a", "hada_w2_b"]


def rename(draw: st.DrawFn, named: Named, name: str) -> None:
    """A piece of the name is replaced, removed or put in."""
    start = draw(st.integers(0, len(name)))
    stop = draw(st.integers(start, min(len(name), start + 12)))
    named[name[:start] + draw(st.sampled_from(PIECES)) + name[stop:]] = named.pop(name)


def move(draw: st.DrawFn, named: Named, name: str) -> None:
    """To another layer, part or naming, or to a number of blocks that the model does not have."""
    key = keys.read_key(name) or keys.Key("", "", TO_Q, "down")
    naming = files.NAMINGS[draw(st.sampled_from(sorted(files.NAMINGS)))]
    layer = draw(st.sampled_from([key.layer, *LAYERS, "transformer_blocks.7.attn.to_q"]))
    part = draw(st.sampled_from([key.part, *PARTS]))
    named[naming.key(layer, part)] = named.pop(name)


def drop(draw: st.DrawFn, named: Named, name: str) -> None:
    del named[name]


def double(draw: st.DrawFn, named: Named, name: str) -> None:
    """The same tensor under a second name."""
    tensor = named[name]
    draw(st.sampled_from([rename, move]))(draw, named, name)
    named[name] = tensor


def reshape(draw: st.DrawFn, named: Named, name: str) -> None:
    shape = st.lists(st.sampled_from([0, 1, 2, 4, 5, 32, 64, 128]), max_size=3)
    named[name] = draw(
        st.sampled_from(
            [
                named[name].T if named[name].ndim == 2 else named[name][None],
                named[name].flatten(),
                named[name][..., None],
                named[name][:1] if named[name].ndim else named[name],
                0.1 * tiny.draw(*draw(shape)),
            ]
        )
    ).clone()


def retype(draw: st.DrawFn, named: Named, name: str) -> None:
    if not named[name].is_complex():
        named[name] = named[name].to(draw(st.sampled_from(DTYPES)))


def poison(draw: st.DrawFn, named: Named, name: str) -> None:
    """One value, or all of them."""
    value = torch.tensor(draw(st.sampled_from(NUMBERS)))
    tensor = named[name]
    if tensor.is_floating_point() and tensor.element_size() > 1 and tensor.numel():
        flat = tensor.flatten().clone()
        flat[: draw(st.sampled_from([1, tensor.numel()]))] = value
        named[name] = flat.view(tensor.shape)


CHANGES = [rename, move, drop, double, reshape, retype, poison]


@st.composite
def damaged(draw: st.DrawFn) -> Named:
    named = dict(draw(adapters()))
    for change in draw(st.lists(st.sampled_from(CHANGES), min_size=1, max_size=3)):
        if named:
            change(draw, named, draw(st.sampled_from(sorted(named))))
    return named


@settings(FUZZ, max_examples=500)
@given(named=damaged(), metadata=st.sampled_from(METADATA))
def test_damaged_tensors(network: Transformer, named: Named, metadata: Metadata) -> None:
    adapter = survives(network, lambda: formats.parse(named, metadata, "fuzzed"))
    if adapter is not None:
        accounted(adapter, named)


# ---- metadata ---------------------------------------------------------------------------------

FIELDS = [
    *("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_qalora", "base"),
    *("sampling", "steps", "sigmas", "guidance", "transformer.r", "text_encoder.r", "", "\n"),
    *("alpha", "init_lora_weights"),
]
PATTERNS = ["to_q", ".*", r"\d+\.attn\.to_q", "transformer.*to_q", "(a+)+$", "(", "^$", "\n"]
NUMBERS_IN_JSON = [0, 1, 2, 4, 8, -1, 0.5, -0.0, 1e39, math.nan, math.inf, 10**30, 10**400]
LEAVES = st.sampled_from([*NUMBERS_IN_JSON, None, True, "", "4", "to_q", "x\ny", [], {}])
JSON = (
    LEAVES
    | st.dictionaries(st.sampled_from(PATTERNS), LEAVES, min_size=1, max_size=2)
    | st.lists(LEAVES, max_size=3)
)
STARTS: list[dict[str, Any]] = [
    {"r": 4, "lora_alpha": 8},
    {"r": 4, "lora_alpha": 8, "rank_pattern": {"x": 1}, "alpha_pattern": {"to_q": 8}},
    {"base": {"id": "mini"}, "sampling": {"steps": 2, "sigmas": [1.0, 0.5], "guidance": 1.0}},
]


@st.composite
def texts(draw: st.DrawFn) -> str:
    """A value of the metadata: JSON with some fields changed, now and then not even JSON."""
    changed: dict[str, Any] = json.loads(json.dumps(draw(st.sampled_from(STARTS))))
    for _ in range(draw(st.integers(0, 2))):
        inner = [changed, *(value for value in changed.values() if isinstance(value, dict))]
        place = draw(st.sampled_from(inner))
        place[draw(st.sampled_from([*place] * 5 + FIELDS))] = draw(JSON)
    text = json.dumps(changed)
    return draw(st.sampled_from([*[text] * 8, text[: len(text) // 2], text + "墨"]))


@settings(FUZZ, max_examples=500)
@given(
    kind=st.sampled_from(["lora", "dora", "loha", "lokr_half", "full", "lora_biased"]),
    alpha=st.sampled_from([None, 8.0]),
    metadata=st.dictionaries(
        st.sampled_from(["lora_adapter_metadata", "danqing"]), texts(), min_size=1
    ),
)
def test_damaged_metadata(
    network: Transformer, kind: str, alpha: float | None, metadata: Metadata
) -> None:
    named = files.tensors(files.make(kind, [TO_Q], alpha=alpha))
    adapter = survives(network, lambda: formats.parse(named, metadata, "fuzzed"))
    if adapter is not None:
        accounted(adapter, named)
        assert adapter.metadata == metadata


# ---- bytes ------------------------------------------------------------------------------------


def small() -> Named:
    """Few bytes of data, so that most of the file is its header."""
    parts = {"down": tiny.draw(1, 64), "up": tiny.draw(64, 1), "alpha": torch.tensor(2.0)}
    return files.tensors({"proj_out": parts, NORM_K: files.full((32,), 1)})


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("sound") / "ink.safetensors"
    files.write(path, small(), {"danqing": '{"sampling": {"steps": 4}}'})  # one: order is random
    return path.read_bytes()


def read_bytes(network: Transformer, path: Path, content: bytes) -> Adapter | None:
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    return survives(network, lambda: formats.read(path))


def test_the_bytes_are_sound(network: Transformer, sound: bytes, tmp_path: Path) -> None:
    adapter = read_bytes(network, tmp_path / "ink.safetensors", sound)
    assert adapter is not None
    assert set(adapter.updates) == {"proj_out", NORM_K}


@settings(FUZZ, max_examples=300)
@given(data=st.data())
def test_damaged_bytes(
    network: Transformer, sound: bytes, tmp_path: Path, data: st.DataObject
) -> None:
    """Bytes replaced, put in and left out, most of them in the header; the end cut off."""
    content = bytearray(sound)
    header = 8 + struct.unpack("<Q", sound[:8])[0]
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, header) | st.integers(0, max(len(content) - 1, 0)))
        new = data.draw(
            st.binary(max_size=3) | st.sampled_from([b'"', b"{", b"]", b",", b"9", b"\\"])
        )
        content[place : place + data.draw(st.integers(0, 3))] = new
    if data.draw(st.integers(0, 4)) == 0:
        del content[data.draw(st.integers(0, len(content))) :]
    read_bytes(network, tmp_path / "ink.safetensors", bytes(content))


BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8}
BITS |= {"F4": 4, "F6_E2M3": 6, "I64": 64, "I8": 8, "U8": 8, "U16": 16, "BOOL": 8, "C64": 64}
SIZES = [0, 1, 2, 32, 63, 64, 128, 2**31, 2**63, 2**64, -1, 1.5, None, "64"]


def retell(draw: st.DrawFn, entry: dict[str, Any]) -> None:
    """Another type for the same bytes, and a shape that goes with it."""
    code = draw(st.sampled_from(sorted(BITS)))
    first, *others = [*entry["shape"], 1] if not entry["shape"] else entry["shape"]
    shape = [first * BITS.get(entry["dtype"], 8) // BITS[code], *others]
    entry |= {"dtype": code, "shape": draw(st.sampled_from([shape, shape[::-1], [*shape, 1]]))}


def misstate(draw: st.DrawFn, entry: dict[str, Any]) -> None:
    """A field that contradicts the others, or is nonsense."""
    field = draw(st.sampled_from(["dtype", "shape", "data_offsets", "extra"]))
    numbers = st.lists(st.sampled_from(SIZES), max_size=3)
    entry[field] = draw(numbers | JSON | st.sampled_from(sorted(BITS)))


@st.composite
def headers(draw: st.DrawFn, sound: dict[str, Any]) -> dict[str, Any]:
    """Sound JSON that says something else about the data."""
    header = json.loads(json.dumps(sound))
    names = sorted(set(header) - {"__metadata__"})
    for name in draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)):
        draw(st.sampled_from([retell, retell, misstate]))(draw, header[name])
    if draw(st.integers(0, 4)) == 0:
        header[draw(st.sampled_from(sorted(header)))] = draw(JSON)
    return header


@settings(FUZZ, max_examples=200)
@given(data=st.data())
def test_damaged_headers(
    network: Transformer, sound: bytes, tmp_path: Path, data: st.DataObject
) -> None:
    size = struct.unpack("<Q", sound[:8])[0]
    header = data.draw(headers(json.loads(sound[8 : 8 + size])))
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    content = struct.pack("<Q", len(text)) + text + sound[8 + size :]
    read_bytes(network, tmp_path / "ink.safetensors", content)
