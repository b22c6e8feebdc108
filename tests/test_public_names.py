import importlib
import inspect

import pytest

import danqing
from danqing import errors, types


def test_the_list_is_sorted_and_equals_the_table() -> None:
    assert danqing.__all__ == sorted({*danqing._HOMES, "__version__"})


def test_the_public_surface() -> None:
    """Frozen: whoever changes it means to."""
    assert set(danqing._HOMES) == {
        *("Pipeline", "Progress", "Request", "Result", "TextFeatures", "load"),
        *("DanqingError", "ModelError", "OutputError", "RecipeError", "RequestError"),
        *("AdapterError", "DataError", "TrainingError", "WeightsError"),
    }


@pytest.mark.parametrize("name", danqing._HOMES)
def test_each_name_is_found_at_its_home(name: str) -> None:
    found = getattr(danqing, name)
    assert found is getattr(importlib.import_module(danqing._HOMES[name]), name)
    assert found.__module__ == danqing._HOMES[name]


def test_all_errors_are_public() -> None:
    tree = {n for n, value in vars(errors).items() if inspect.isclass(value)}
    assert tree == {name for name, home in danqing._HOMES.items() if home == "danqing.errors"}
    assert all(issubclass(getattr(errors, name), errors.DanqingError) for name in tree)


def test_all_records_are_public() -> None:
    records = {
        n for n, v in vars(types).items() if inspect.isclass(v) and v.__module__ == types.__name__
    }
    assert records == {name for name, home in danqing._HOMES.items() if home == "danqing.types"}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'danqing' has no attribute 'paint'"):
        _ = danqing.paint


def test_dir_shows_the_surface() -> None:
    assert dir(danqing) == danqing.__all__


def test_the_pipelines_stages() -> None:
    public = {name for name in vars(danqing.Pipeline) if not name.startswith("_")}
    stages = {"encode", "noise", "denoise", "decode", "generate", "stream", "check"}
    assert public == stages | {"defaults", "unit", "made_for"}
