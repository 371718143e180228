"""Images are limited in size before their pixels are read."""

from __future__ import annotations

import resource
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lesion.core.errors import DataError
from lesion.data.images import MOST_PIXELS
from lesion.data.samples import load_image, load_samples
from tests.security.watched import ROOT


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def png(width: int, height: int, depth: int = 8, colour: int = 2, rows: int | None = None) -> bytes:
    """A black picture of a size; ``rows`` of it are there."""
    packer, line = zlib.compressobj(9), bytes(1 + width * (depth // 8) * (3 if colour == 2 else 1))
    packed = b"".join(packer.compress(line) for _ in range(height if rows is None else rows)) + packer.flush()
    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes((depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


@pytest.mark.parametrize("limit", [Image.MAX_IMAGE_PIXELS, None])
def test_too_many_pixels_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int | None):
    """Also where another library has turned Pillow's own limit off."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    side = int(MOST_PIXELS**0.5) + 1
    (tmp_path / "bomb.png").write_bytes(png(side, side, rows=0))
    (tmp_path / "good.png").write_bytes(png(4, 3))
    with pytest.raises(DataError, match=rf"bomb\.png cannot be read as an image \(it has more than {MOST_PIXELS:,} pixels\)"):
        load_image(tmp_path / "bomb.png")
    said: list[str] = []
    assert [s.id for s in load_samples(str(tmp_path), 2, warn=said.append)] == ["good.png"]
    assert any("bomb.png" in line and "skipped" in line for line in said)


def test_the_largest_takes_no_more_than_it_should(tmp_path: Path):
    """60 million pixels of 16 bits in a file of 120 kB: as float64, they would take 0.5 GB each time they are touched."""
    (tmp_path / "deep.png").write_bytes(png(10_000, 6_000, depth=16, colour=0))
    assert (tmp_path / "deep.png").stat().st_size < 200_000
    code = (
        "import resource, sys; from lesion.data.samples import load_image; "
        "load_image(sys.argv[1].replace('deep', 'small')); before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; "
        "print(load_image(sys.argv[1]).picture.size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    (tmp_path / "small.png").write_bytes(png(10, 6, depth=16, colour=0))
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "deep.png")], capture_output=True, text=True, check=True, cwd=ROOT
    )
    size, _, grown = run.stdout.rpartition(" ")
    assert size == "(10000, 6000)" and int(grown) << 10 < 800 << 20, f"{int(grown) >> 10} MiB"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 0


@pytest.mark.parametrize("rows", [1, 7, 100_000])
def test_strips_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int):
    from lesion.data import images

    values = np.random.default_rng(0).integers(0, 65536, (40, 30)).astype(np.uint16)
    whole = np.asarray(images._eight_bits(values, deep=True))
    floats = (values.astype(np.float32) - 9) / 7
    expected = np.asarray(images._eight_bits(floats, deep=False))
    np.testing.assert_allclose(whole, values / 257, atol=0.51)
    np.testing.assert_allclose(expected, floats.clip(0) / floats.max() * 255, atol=0.51)
    monkeypatch.setattr(images, "STRIP", rows * 30)
    assert np.array_equal(np.asarray(images._eight_bits(values, deep=True)), whole)
    assert np.array_equal(np.asarray(images._eight_bits(floats, deep=False)), expected)
