"""Images that are damaged, hostile or unusual: each is read, or refused by its name; none is dropped in silence."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from lesion.data import images as reading
from lesion.data.samples import load_samples
from tests.bad_input.checker import Case, as_anybody, table

STOPS = "study --data photos --strict --out run"
"""A study that an image stops."""


def picture(kind: str = "PNG", size: tuple[int, int] = (64, 48), mode: str = "RGB", **options: Any) -> bytes:
    """A whole image of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(data, kind, **options)
    return data.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    """A part of a PNG file."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def claims(width: int, height: int, more: bytes = b"") -> bytes:
    """A PNG file of a few bytes that says that it is as large."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + more + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def tiff(**tags: int) -> bytes:
    """A TIFF file of LZW data that are none, in the given size."""
    wanted = {256: 64, 257: 48, 258: 8, 259: 5, 262: 1, 273: 8, 277: 1, 278: 48, 279: 16} | {
        int(k[1:]): v for k, v in tags.items()
    }
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(wanted.items()))
    return b"II*\0" + struct.pack("<I", 24) + b"\xff" * 16 + struct.pack("<H", len(wanted)) + entries + b"\0\0\0\0"


def files(**contents: bytes) -> Callable[[Path], None]:
    """Makes ``photos`` with a good image and these; ``__`` in a name is its dot."""

    def make(folder: Path) -> None:
        (folder / "photos").mkdir()
        for name, content in contents.items():
            (folder / "photos" / name.replace("__", ".")).write_bytes(content)

    return make


def made(act: Callable[[Path], object]) -> Callable[[Path], None]:
    """Makes ``photos`` and does something in it."""

    def make(folder: Path) -> None:
        (folder / "photos").mkdir()
        act(folder / "photos")

    return make


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 64
JXL = b"\xff\x0a" + b"\x17" * 64
WHOLE = picture()


def symlink(name: str, to: str, folder: Path) -> None:
    (folder / name).symlink_to(to)


CASES = [
    # -- damaged -------------------------------------------------------------------------------------------------------
    Case("zero bytes", files(a__png=b""), STOPS, "photos/a.png cannot be read as an image (it is empty) ... remove it"),
    Case("text with an image's name", files(a__jpg=b"once upon a time"), STOPS,
         "a.jpg cannot ... no kind of image ... remove it"),
    Case("truncated png", files(a__png=WHOLE[:-3000]), STOPS, "photos/a.png cannot be read as an image ( ... ) ... remove it"),
    Case("truncated jpeg", files(a__jpg=picture("JPEG")[:900]), STOPS,
         "a.jpg cannot ... image file is truncated ... remove it"),
    Case("truncated webp", files(a__webp=picture("WEBP")[:300]), STOPS,
         "photos/a.webp cannot be read as an image ( ... ) ... remove"),
    Case("truncated gif", files(a__gif=picture("GIF")[:500]), STOPS,
         "photos/a.gif cannot be read as an image ( ... ) ... remove it"),
    Case("head of a png alone", files(a__png=WHOLE[:20]), STOPS,
         "photos/a.png cannot be read as an image ( ... ) ... remove it"),
    Case("a png with a damaged chunk", files(a__png=WHOLE[:30] + b"\xff" + WHOLE[31:]), STOPS, "a.png cannot ... remove it"),
    Case("a tiff of which libtiff complains itself", files(a__tif=tiff()), STOPS, "photos/a.tif cannot be read ... remove it"),
    Case("a tiff of which Pillow complains to a log", files(a__tif=tiff(t277=2048)), STOPS,
         "photos/a.tif cannot be read ... remove it"),
    Case("a tiff without a picture", files(a__tif=b"II*\0\xff\xff\xff\x7f"), STOPS,
         "photos/a.tif cannot be read ... remove it"),
    # -- hostile -------------------------------------------------------------------------------------------------------
    Case("a picture of 4 billion pixels", files(a__png=claims(65500, 65500)), STOPS,
         "a.png cannot ... more than 178,956,970 pixels"),
    Case("the largest that a png can claim", files(a__png=claims(2**31 - 1, 2**31 - 1)), STOPS,
         "a.png cannot ... pixels ... remove it"),
    Case("a picture of no width", files(a__png=claims(0, 5)), STOPS,
         "photos/a.png cannot be read as an image ( ... ) ... remove it"),
    Case("a bomb of a comment", files(a__png=claims(4, 4, chunk(b"zTXt", b"a\0\0" + zlib.compress(b" " * 2**24)))), STOPS,
         "photos/a.png cannot be read as an image ( ... too large ... ) ... remove it"),
    Case("a tiff of 10 TB", files(a__tif=tiff(t256=2**21, t257=2**22)), STOPS,
         "a.tif cannot ... more than ... pixels ... remove it"),
    Case("a link to itself", made(partial(symlink, "a.png", "a.png")), STOPS, "photos/a.png cannot be read ... symbolic links"),
    Case("a link to nothing", made(partial(symlink, "a.png", "gone.png")), STOPS,
         "photos/a.png cannot ... No such file ... remove"),
    Case("a link to a device", made(partial(symlink, "a.png", "/dev/zero")), STOPS, "photos/a.png cannot ... device or a pipe"),
    Case("a pipe that nobody writes to", made(lambda f: os.mkfifo(f / "a.jpg")), STOPS,
         "photos/a.jpg cannot ... device or a pipe"),
    Case("links in a circle and no image", made(partial(symlink, "again", ".")), STOPS,
         "photos has no image; expected files ending"),
    # -- of a kind that Pillow does not know ---------------------------------------------------------------------------
    Case("heic", files(a__heic=HEIC), STOPS,
         "a.heic cannot be read as an image (it is HEIC ... pip install pillow-heif) ... remove it"),
    Case("heic as phones rename it", files(a__jpg=HEIC), STOPS, "a.jpg cannot be read as an image (it is HEIC ... pip install"),
    Case("heic that is none", files(a__HEIC=b"x" * 99), STOPS,
         "a.HEIC cannot be read as an image (no kind of image that is known"),
    Case("jpeg xl", files(a__jxl=JXL), STOPS, "a.jxl cannot ... JPEG XL ... pip install pillow-jxl-plugin ... remove it"),
    Case("damaged avif", files(a__avif=picture("AVIF")[:200]), STOPS,
         "photos/a.avif cannot be read as an image ( ... remove it"),
    # -- without --strict ----------------------------------------------------------------------------------------------
    Case("none of several", files(a__png=b"", b__heic=HEIC), "study --data photos --out run",
         "none of the 2 images in photos can be read; the first: photos/ ... cannot be read as an image",
         ("photos/a.png cannot be read as an image (it is empty)", "photos/b.heic cannot be read as an image (it is HEIC")),
    Case("one is left", files(a__png=WHOLE, b__png=b""), "study --data photos --samples 2 --out run",
         "one usable image; ranking on one half ... needs two, or --split same",
         ("b.png cannot be read as an image (it is empty); skipped", "photos has 1 readable images; fewer than the 2")),
    # -- one image -----------------------------------------------------------------------------------------------------
    Case("try on a folder", made(lambda f: (f / "x.jpg").mkdir()), "try tiny-llava photos/x.jpg --run run",
         "photos/x.jpg cannot be read as an image (Is a directory); expected an image file, such as PNG or JPEG"),
    Case("try on nothing", files(), "try tiny-llava photos/x.jpg --run run",
         "photos/x.jpg cannot ... (No such file ... expected an"),
    Case("try on text", files(x__jpg=b"text"), "try tiny-llava photos/x.jpg --run run",
         "x.jpg cannot ... no kind of ... expected an"),
    Case("doctor on a broken one", files(x__jpg=b"text"), "doctor tiny-llava --data photos",
         "none of the 1 images ... x.jpg cannot", ("photos/x.jpg cannot be read as an image",), loads=True),
]  # fmt: skip


@table(CASES)
def test_an_image_that_cannot_be_read_is_named(check: Callable[..., str], case: Case):
    check(case)


UNREADABLE = [
    Case("a file without rights", made(lambda f: ((f / "a.png").write_bytes(WHOLE), (f / "a.png").chmod(0))), STOPS,
         "photos/a.png cannot be read as an image (Permission denied); remove it"),
    Case("a folder without rights", made(lambda f: (f / "cars").mkdir(0)), STOPS,
         "photos/cars cannot be read: Permission denied; give"),
    Case("a folder that may be listed alone",
         made(lambda f: ((f / "cars").mkdir(), (f / "cars/a.png").write_bytes(WHOLE), (f / "cars").chmod(0o400))), STOPS,
         "photos/cars ... cannot be read ... Permission denied"),
    Case("all of it without rights", made(lambda f: f.chmod(0)), STOPS,
         "photos cannot be read: Permission denied; give another"),
]  # fmt: skip


@table(UNREADABLE)
def test_an_image_that_may_not_be_read_is_named(check: Callable[..., str], case: Case, tmp_path: Path):
    try:
        check(case, as_anybody())
    finally:  # so that pytest can remove it
        for root, folders, _ in os.walk(tmp_path):
            for name in folders:
                Path(root, name).chmod(0o700)


# -- what must work ----------------------------------------------------------------------------------------------------
def frames(kind: str) -> bytes:
    first = Image.new("RGB", (64, 48), "red")
    data = io.BytesIO()
    first.save(data, kind, save_all=True, append_images=[Image.new("RGB", (64, 48), c) for c in ("blue", "green")])
    return data.getvalue()


def deep() -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.arange(64 * 48, dtype=np.uint16).reshape(48, 64) * 20).save(data, "PNG")
    return data.getvalue()


def odd_numbers() -> bytes:
    values = np.ones((48, 64), dtype=np.float32)
    values[0, :3] = np.nan, np.inf, -np.inf
    data = io.BytesIO()
    Image.fromarray(values).save(data, "TIFF")
    return data.getvalue()


WORKS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "cmyk": ("a.jpg", lambda: picture("JPEG", mode="CMYK")), "grey": ("a.png", lambda: picture(mode="L")),
    "grey with transparency": ("a.png", lambda: picture(mode="LA")), "16 bits": ("a.png", deep),
    "palette": ("a.png", lambda: picture(mode="P")), "one bit": ("a.png", lambda: picture(mode="1")),
    "palette with transparency": ("a.gif", lambda: picture("GIF", mode="P", transparency=3)),
    "ycbcr": ("a.tif", lambda: picture("TIFF", mode="YCbCr")),
    "lab": ("a.tif", lambda: picture("TIFF", mode="LAB")), "floats that are no numbers": ("a.tif", odd_numbers),
    "animated gif": ("a.gif", lambda: frames("GIF")), "animated webp": ("a.webp", lambda: frames("WEBP")),
    "animated png": ("a.png", lambda: frames("PNG")), "tiff of several pages": ("a.tiff", lambda: frames("TIFF")),
    "avif": ("a.avif", lambda: picture("AVIF")), "jpeg 2000": ("a.jp2", lambda: picture("JPEG2000")),
    "jfif": ("a.jfif", lambda: picture("JPEG")), "capitals": ("A.JPG", lambda: picture("JPEG")),
    "a png called jpg": ("a.jpg", picture), "a gif called png": ("a.png", lambda: picture("GIF")),
    "a damaged camera's note": ("a.jpg", lambda: picture("JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0")),
}  # fmt: skip


@pytest.mark.parametrize("name", WORKS)
def test_an_unusual_image_is_read(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
):
    file, content = WORKS[name]
    if name == "avif" and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    (tmp_path / file).write_bytes(content())
    said: list[str] = []
    (sample,) = load_samples(str(tmp_path), 1, strict=True, warn=said.append)
    assert sample.id == file and sample.picture.mode == "RGB" and sample.picture.size == (64, 48)
    assert said == [] and capfd.readouterr() == ("", "") and not recwarn.list
    assert len(set(sample.picture.get_flattened_data())) > 1 or name.startswith(("animated", "tiff of", "floats"))
    if name.startswith(("animated", "tiff of")):
        red, green, blue = sample.picture.getpixel((32, 24))  # pyright: ignore[reportGeneralTypeIssues]
        assert red > 200 and max(green, blue) < 60, "the first picture counts"


def test_a_large_panorama_is_read_without_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
):
    """Between what Pillow warns of and what it refuses."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 48 - 1)
    (tmp_path / "a.png").write_bytes(WHOLE)
    assert load_samples(str(tmp_path), 1, strict=True)[0].picture.size == (64, 48) and not recwarn.list


def test_a_kind_with_a_plugin_is_read_where_that_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The plugin is a made-up one: it has Pillow read the file that stands behind the head of HEIC."""
    plugin = ModuleType("pillow_heif")
    opened: list[str] = []

    def register() -> None:
        opened.append("registered")
        Image.register_open(
            "MADE-UP", lambda file, name: Image.open(io.BytesIO(file.read()[len(HEIC) :])), lambda p: p[4:12] == HEIC[4:12]
        )

    plugin.__dict__["register_heif_opener"] = register
    monkeypatch.setattr(reading, "find_spec", lambda name: object())
    monkeypatch.setattr(reading, "import_module", lambda name: plugin)
    (tmp_path / "a.heic").write_bytes(HEIC + WHOLE)
    try:
        (sample,) = load_samples(str(tmp_path), 1, strict=True)
    finally:
        Image.OPEN.pop("MADE-UP", None)
        Image.ID.remove("MADE-UP")
    assert sample.id == "a.heic" and sample.picture.size == (64, 48) and opened == ["registered"]


def test_folders_behind_links_are_read_once(tmp_path: Path):
    """A circle of links ends, and a folder that is linked to from two places has each of its images once."""
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "real" / "deep" / "a.png").write_bytes(WHOLE)
    (tmp_path / "real" / "deep" / "up").symlink_to("..")
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("car", "dog"):
        (photos / name).symlink_to("../real")
    found = load_samples(str(photos), 5)
    assert [(s.id, s.category) for s in found] == [("car/deep/a.png", "car")]


def test_a_folder_with_an_images_name_is_a_folder(tmp_path: Path):
    (tmp_path / "x.jpg").mkdir()
    (tmp_path / "x.jpg" / "a.png").write_bytes(WHOLE)
    assert [s.id for s in load_samples(str(tmp_path), 5, strict=True)] == ["x.jpg/a.png"]


def test_a_name_that_is_no_text_can_be_written_down(tmp_path: Path):
    try:
        with open(os.fsencode(tmp_path) + b"/caf\xe9.png", "wb") as file:
            file.write(WHOLE)
    except OSError:
        pytest.skip("this file system takes names in UTF-8 alone")
    (sample,) = load_samples(str(tmp_path), 1, strict=True)
    assert sample.id.encode().decode() == "caf\\udce9.png" and sample.digest
