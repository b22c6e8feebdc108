"""Bringing a picture to the size at which it is trained: scaled to cover it, cropped around it."""

from PIL import Image

from danqing.training.data.images import Size

Box = tuple[float, float, float, float]  # left, top, right, bottom


def frame(image: Image.Image, size: Size) -> Image.Image:
    """The picture's centre at this (width, height), with antialiasing."""
    return image.resize(size, Image.Resampling.LANCZOS, box=centre(image.size, size))


def centre(picture: Size, size: Size) -> Box:
    """The largest part in the middle of the picture that has the shape of ``size``.

    Not rounded to whole pixels, so that a mask of another resolution is cropped alike.
    """
    (width, height), (across, down) = picture, size
    part_width = min(width, height * across / down)
    part_height = min(height, width * down / across)
    left, top = (width - part_width) / 2, (height - part_height) / 2
    return left, top, left + part_width, top + part_height
