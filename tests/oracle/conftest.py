"""The random models, made once and shared by the tests of this folder."""

import os
from collections.abc import Callable

import pytest

# No test here may reach for a network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from .random_models import Pair, make_pair
from .random_specs import draw


@pytest.fixture(autouse=True, scope="session")
def _quiet() -> None:
    """No progress bars and no notes of the libraries among the results."""
    for logging in (diffusers_logging, transformers_logging):
        logging.disable_progress_bar()
        logging.set_verbosity_error()


@pytest.fixture(scope="session")
def pair_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Pair]:
    """The pair of models of a seed; tests must not change it."""
    made: dict[int, Pair] = {}

    def get(seed: int) -> Pair:
        if seed not in made:
            made[seed] = make_pair(draw(seed), tmp_path_factory.mktemp("model") / str(seed))
        return made[seed]

    return get
