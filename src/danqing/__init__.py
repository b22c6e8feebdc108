"""danqing 丹青: text to pictures with the Qwen-Image family.

    import danqing
    pipe = danqing.load("mini")
    pipe.generate(danqing.Request("一只红色的狐狸", seed=7)).image.save("fox.png")

Names are imported when they are first used, so that ``import danqing`` does not import torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from danqing.version import __version__

if TYPE_CHECKING:
    from danqing.engine import Pipeline, load
    from danqing.errors import (
        AdapterError,
        DanqingError,
        DataError,
        ModelError,
        OutputError,
        RecipeError,
        RequestError,
        TrainingError,
        WeightsError,
    )
    from danqing.models.text_encoder import TextFeatures
    from danqing.types import Progress, Request, Result

_HOMES = {
    "AdapterError": "danqing.errors",
    "DanqingError": "danqing.errors",
    "DataError": "danqing.errors",
    "ModelError": "danqing.errors",
    "OutputError": "danqing.errors",
    "Pipeline": "danqing.engine",
    "Progress": "danqing.types",
    "RecipeError": "danqing.errors",
    "Request": "danqing.types",
    "RequestError": "danqing.errors",
    "Result": "danqing.types",
    "TextFeatures": "danqing.models.text_encoder",
    "TrainingError": "danqing.errors",
    "WeightsError": "danqing.errors",
    "load": "danqing.engine",
}

__all__ = [
    "AdapterError",
    "DanqingError",
    "DataError",
    "ModelError",
    "OutputError",
    "Pipeline",
    "Progress",
    "RecipeError",
    "Request",
    "RequestError",
    "Result",
    "TextFeatures",
    "TrainingError",
    "WeightsError",
    "__version__",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'danqing' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
