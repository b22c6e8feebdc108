"""Everything about the records that can be known before a training begins.

Each picture is decoded whole, since a file that was cut off shows it only then.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from danqing.errors import DataError, RequestError
from danqing.models.tokenizer import PromptTokenizer
from danqing.training.data.buckets import Buckets, too_small
from danqing.training.data.captions import with_trigger
from danqing.training.data.faults import DataFaults, named
from danqing.training.data.images import open_rgb
from danqing.training.data.masks import check_shape, open_mask, patch_weights
from danqing.training.data.parallel import at_once
from danqing.training.data.records import Record

MIN_SIDE = 16  # pixels


def check(
    records: Sequence[Record],
    *,
    buckets: Buckets | None = None,
    trigger: str | None = None,
    tokenizer: PromptTokenizer | None = None,
) -> None:
    """Look at every picture, mask and caption.

    Args:
        records: from ``gather``.
        buckets: with these, masks are judged by the part that is trained on.
        trigger: the trigger word of the training.
        tokenizer: with this, captions that are too long are found.

    Raises:
        DataFaults: with all faults of all records, each with its place.
    """
    found = faults_of(records, buckets=buckets, trigger=trigger, tokenizer=tokenizer)
    faults = [fault for own in found for fault in own]
    if faults:
        raise DataFaults(faults)


def faults_of(
    records: Sequence[Record],
    *,
    buckets: Buckets | None = None,
    trigger: str | None = None,
    tokenizer: PromptTokenizer | None = None,
) -> Iterator[list[str]]:
    """The faults of each record in turn, as they are found; for who wants to show progress."""
    judge = partial(_faults, buckets=buckets, trigger=trigger, tokenizer=tokenizer)
    return at_once(judge, records)


def _faults(
    record: Record,
    *,
    buckets: Buckets | None,
    trigger: str | None,
    tokenizer: PromptTokenizer | None,
) -> list[str]:
    """A fault of the picture does not hide those of its captions."""
    checks: list[Callable[[], None]] = [partial(_check_picture, record, buckets or Buckets())]
    checks += [partial(_check_text, text, trigger, tokenizer) for text in record.captions]
    if not record.captions:
        checks.append(_refuse_silence)
    faults = []
    for judge in checks:
        try:
            judge()
        except DataError as error:
            faults.append(f"{record.origin}: {error}")
    return faults


def _check_picture(record: Record, buckets: Buckets) -> None:
    picture = open_rgb(record.image).size
    if min(picture) < MIN_SIDE:
        raise too_small(picture, MIN_SIDE)
    size = buckets.size(picture)
    if record.mask is not None:
        with named("its mask"):
            check_shape(open_mask(record.mask).size, picture)
            patch_weights(record.mask, size, buckets.unit)


def _check_text(caption: str, trigger: str | None, tokenizer: PromptTokenizer | None) -> None:
    text = with_trigger(caption, trigger)
    try:
        text.encode()
        if tokenizer is not None:
            tokenizer.encode(text)
    except UnicodeEncodeError as error:
        raise DataError(f"caption {caption!r} holds half a character") from error
    except RequestError as error:
        raise DataError(str(error).replace("prompt", "caption", 1)) from error


def _refuse_silence() -> None:
    raise DataError("has no caption; write one beside it, or give a default one")
