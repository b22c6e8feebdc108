"""Pictures of every kind as 8-bit RGB, upright.

The first frame of an animation; transparency over a background; turned as the EXIF data say.
Colour profiles are not applied: the numbers in the file are taken as sRGB.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ExifTags import Base

from danqing.errors import DataError
from danqing.training.data.records import Place

Size = tuple[int, int]  # width and height in pixels
Colour = tuple[int, int, int]
WHITE: Colour = (255, 255, 255)
# Formats whose header says how the picture is turned; the others may say it behind the pixels.
HEADER_SAYS = ("BMP", "GIF", "JPEG", "WEBP")
ON_ITS_SIDE = (5, 6, 7, 8)  # EXIF orientations that swap width and height


def open_rgb(place: Place, background: Colour = WHITE) -> Image.Image:
    """The picture as 8-bit RGB, upright, over ``background`` where it is transparent.

    Raises:
        DataError: it cannot be read, is not whole, or has more pixels than Pillow's limit.
    """
    with opened(place) as image:
        ImageOps.exif_transpose(image, in_place=True)
        return flatten(to_8_bit(image), background)


def measure(place: Place) -> Size:
    """Width and height of the upright picture, without decoding it where the format allows.

    Raises:
        DataError: as ``open_rgb``.
    """
    with opened(place) as image:
        if image.format not in HEADER_SAYS:
            ImageOps.exif_transpose(image, in_place=True)
            return image.size
        width, height = image.size
        turned = image.getexif().get(Base.Orientation) in ON_ITS_SIDE
        return (height, width) if turned else (width, height)


@contextmanager
def opened(place: Place) -> Iterator[Image.Image]:
    """The picture, not yet decoded; whatever Pillow raises meanwhile becomes a DataError."""
    with place.open() as file:
        try:
            with Image.open(file) as image:
                check_pixels(image.size)
                yield image
        except DataError:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise too_large(str(error)) from error
        except UnidentifiedImageError as error:
            raise DataError("is no picture of a known format; replace it") from error
        except Exception as error:  # damaged files lead Pillow into errors of every class
            reason = str(error) or type(error).__name__
            raise DataError(f"cannot be decoded ({reason}); replace it") from error


def check_pixels(size: Size) -> None:
    """Pillow only warns up to twice its limit; such pictures are refused as well."""
    if Image.MAX_IMAGE_PIXELS is not None and size[0] * size[1] > Image.MAX_IMAGE_PIXELS:
        raise too_large(f"({size[0] * size[1]} pixels)")


def too_large(told: str) -> DataError:
    """``told`` has the number of pixels in it, as Pillow puts it."""
    found = re.search(r"\((\d+) pixels\)", told)
    number = f" ({found[1]})" if found else ""
    return DataError(f"has more than {Image.MAX_IMAGE_PIXELS} pixels{number}; scale it down")


# ---- modes ------------------------------------------------------------------------------------


def to_8_bit(image: Image.Image) -> Image.Image:
    """Deeper greys scaled to 8 bits, where Pillow would clip them; others as they are."""
    if image.mode.startswith("I"):
        return from_16_bits(image)
    if image.mode == "F":
        return from_floats(image)
    return image


def from_16_bits(image: Image.Image) -> Image.Image:
    """Whole numbers from 0 to 65535, as grey; one of them may stand for transparency."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise DataError("has numbers beyond 16 bits; save it with 8 or 16 bits")
    grey = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    clear = image.info.get("transparency")
    if clear is not None:
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


def from_floats(image: Image.Image) -> Image.Image:
    """Numbers from 0 to 1, as grey."""
    values = np.asarray(image)
    if not (values.min() >= 0 and values.max() <= 1):  # NaN fails as well
        raise DataError("has floating-point numbers outside 0 to 1; scale it to 0 to 1")
    return Image.fromarray(np.rint(values * 255).astype(np.uint8))


def flatten(image: Image.Image, background: Colour) -> Image.Image:
    """Over the background, if anything is transparent; RGB."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    ground = Image.new("RGBA", image.size, (*background, 255))
    return Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")
