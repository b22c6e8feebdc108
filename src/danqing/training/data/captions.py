"""Which text stands beside a picture at one step of training."""

import re
from collections.abc import Iterable

import numpy as np

from danqing.errors import DataError
from danqing.training.data.records import Record
from danqing.types import BLANK

PLACEHOLDER = "[trigger]"


def choose(
    record: Record, rng: np.random.Generator, dropout: float = 0.0, trigger: str | None = None
) -> str:
    """One of the record's captions, or BLANK in the share ``dropout`` of all cases.

    Two numbers are drawn whatever the outcome, so that later draws do not depend on it.
    """
    blank, place = rng.random() < dropout, int(rng.integers(len(record.captions)))
    return BLANK if blank else with_trigger(record.captions[place], trigger)


def with_trigger(caption: str, trigger: str | None) -> str:
    """The caption with the trigger word: for its placeholder, or in front if it is not there.

    Raises:
        DataError: there is a placeholder and no trigger word.
    """
    if PLACEHOLDER in caption:
        if trigger is None:
            raise DataError(f"caption {caption!r} needs a trigger word for {PLACEHOLDER}")
        return caption.replace(PLACEHOLDER, trigger)
    if trigger is None or holds(caption, trigger):
        return caption
    return f"{trigger}, {caption}"


def holds(caption: str, trigger: str) -> bool:
    """Whether the word is in the caption, and not as a part of a longer Latin one."""
    # Chinese has no spaces to tell words apart, so only ASCII letters next to each other count.
    before = r"(?<!\w)" if re.match(r"\w", trigger, re.ASCII) else ""
    after = r"(?!\w)" if re.search(r"\w\Z", trigger, re.ASCII) else ""
    return re.search(before + re.escape(trigger) + after, caption, re.ASCII) is not None


def all_texts(
    records: Iterable[Record], dropout: float = 0.0, trigger: str | None = None
) -> list[str]:
    """Every text that ``choose`` can give, once each, in the order of the records."""
    texts = [with_trigger(caption, trigger) for r in records for caption in r.captions]
    return list(dict.fromkeys([*texts, *([BLANK] if dropout > 0 else [])]))
