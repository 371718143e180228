"""From a file to an RGB image, and the line that says why there is none.

Files may be damaged, or made to do damage: whatever reading one of them raises, warns of or prints becomes one reason.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from lesion.core.errors import DataError
from lesion.data.sources import Entry

PLUGINS = {"HEIC": ("pillow_heif", "pillow-heif"), "JPEG XL": ("pillow_jxl", "pillow-jxl-plugin")}
"""Kinds of image that Pillow reads with a package alone -> its module, and what pip calls it."""
PROGRAMS = ("EPS", "WMF")
"""Kinds that Pillow hands to another program, Ghostscript or Windows' own; they are not read."""
MOST_PIXELS = 178_956_970
"""Of an image; what Pillow refuses by default, but not where somebody has turned that off."""
STRIP = 2**20
"""Pixels that are turned into 8 bits at a time."""
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_REASON = 200
"""Characters of a reason: a damaged file can make a library's message as long as the file."""


def decode(entry: Entry) -> Image.Image:
    """An entry's image as models expect it.

    Raises:
        DataError: It cannot be read; the message names it, and says why.
    """
    try:
        with _quietly(), _opened(entry) as image:
            return _rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # the many decoders below Pillow raise whatever a damaged file leads them to
        raise DataError(f"{entry.where} cannot be read as an image ({_why(error)})") from None


def _opened(entry: Entry) -> Image.Image:
    """The image with its pixels read; a kind that needs a package is read where that is installed."""
    try:
        image = _open(entry)
    except UnidentifiedImageError:
        kind = _kind(entry)
        module, package = PLUGINS.get(kind, ("", ""))
        if not module:
            raise ValueError(kind) from None
        if find_spec(module) is None:
            raise ValueError(f"it is {kind}, for which Pillow needs {package}: pip install {package}") from None
        plugin = import_module(module)
        getattr(plugin, "register_heif_opener", lambda: None)()  # others register themselves when they are imported
        image = _open(entry)
    if image.format == "TIFF":
        with _silent():
            image.load()
    return image


def _open(entry: Entry) -> Image.Image:
    """The image, of which nothing but its head has been read."""
    Image.init()
    image = Image.open(entry.open(), formats=[name for name in Image.ID if name not in PROGRAMS])
    if image.width * image.height > MOST_PIXELS:
        image.close()
        raise Image.DecompressionBombError
    return image


def _kind(entry: Entry) -> str:
    """What it is, if not an image that Pillow knows: a key of :data:`PLUGINS`, or words."""
    source = entry.open()
    with source if isinstance(source, BytesIO) else source.open("rb") as file:
        first = file.read(16)
    if first[4:8] == b"ftyp" and first[8:12] in _HEIC_BRANDS:
        return "HEIC"
    if first.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        return "JPEG XL"
    return "no kind of image that is known" if first else "it is empty"


def _why(error: Exception) -> str:
    """In words, without what Pillow calls a buffer in memory where the image has no file."""
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {MOST_PIXELS:,} pixels"
    if isinstance(error, MemoryError):
        return "it is too large for the memory"
    if isinstance(error, UnidentifiedImageError):  # by a plugin
        return "no kind of image that is known"
    text = getattr(error, "strerror", None) or " ".join(str(error).split())
    return text[:_REASON] or type(error).__name__


@contextmanager
def _quietly() -> Iterator[None]:
    """Warnings are of metadata, and of sizes below the limit, which are read all the same; what is logged is raised too."""
    log = logging.getLogger("PIL")
    before = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)


@contextmanager
def _silent() -> Iterator[None]:
    """libtiff prints its complaints to the process's standard error itself; what is wrong is raised as well."""
    try:
        kept = os.dup(2)
    except OSError:  # there is none
        yield
        return
    try:
        with suppress(OSError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _rgb(image: Image.Image) -> Image.Image:
    """What is transparent is white, and 16 bits become 8 without clipping."""
    if image.mode.startswith(("I", "F")):
        return _eight_bits(np.asarray(image), deep=image.mode.startswith("I;16")).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        seen = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")
    return image.convert("RGB")


def _eight_bits(values: np.ndarray, deep: bool) -> Image.Image:
    """Strip by strip: as float64, a large image would take 8 bytes a pixel several times over."""
    rows = max(1, STRIP // max(values.shape[1], 1))
    strips = [slice(start, start + rows) for start in range(0, len(values), rows)]
    # A 16-bit file uses 16 bits; of 32-bit and float files nobody knows the range but their own.
    top = 65535.0 if deep else max(1.0, *(_largest(values[strip]) for strip in strips))
    made = np.empty(values.shape, dtype=np.uint8)
    for strip in strips:
        part = np.nan_to_num(values[strip].astype(np.float64), nan=0.0, posinf=top, neginf=0.0).clip(0, top)
        made[strip] = (part * (255.0 / top)).round()
    return Image.fromarray(made)


def _largest(values: np.ndarray) -> float:
    return float(values[np.isfinite(values)].max(initial=0))
