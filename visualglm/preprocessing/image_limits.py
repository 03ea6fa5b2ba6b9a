"""Bound the memory and time of decoding, before Pillow opens a file.

`decoder_bytes` returns the memory that the decoder needs in addition to the pixels; `check_exif` bounds metadata. Both
raise `CostlyError` if time or memory is out of proportion to the file's size. Sizes are read as the decoders read them;
an invalid header is left to the decoder, which refuses it.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import re
import struct
from collections.abc import Iterator
from typing import Any

MEMORY_LIMIT = 1 << 30
"""Maximum bytes for decoding one image, pixels and decoder together, without the file itself."""

SCAN_LIMIT = 100
"""Maximum scans of a progressive JPEG (encoders write about ten)."""
SCANNED_PIXEL_LIMIT = 4_000_000_000
"""Maximum pixels times scans of one JPEG: about twenty seconds."""
PYTHON_SAMPLE_LIMIT = 30_000_000
"""Maximum samples of the BMP and PPM variants that Pillow decodes in Python, about a million per second."""
STRIP_LIMIT = 1 << 17
"""Maximum strips or tiles of one TIFF."""
PARSED_LIMIT = 20_000
"""Maximum segments of a JPEG header, or tile-parts of a JPEG 2000 file."""
JPEG2000_TILE_LIMIT = 1 << 14

RLE = (1, 2)
"""BMP compressions."""
DIB_HEADERS = (12, 40, 52, 56, 64, 108, 124)
"""Header sizes in bytes with which a BMP without a file header begins."""
SUB_IFDS = (0x8769, 0x8825, 0xA005)
TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"mif1", b"msf1")
HEIF_SIZE = re.compile(rb"\0\0\0\x14ispe\0\0\0\0(.{8})", re.DOTALL)
"""The box of a HEIC file that contains an image's width and height."""
NOT_ENTROPY = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")


class CostlyError(ValueError):
    """An image that would take too much time or memory; the message names the cause."""


class MeteredBytes(io.BytesIO):
    """A file in memory that refuses far more reads than a normal file needs.

    Pillow's parsers read a few times per chunk or segment, and a file can consist of millions of them. Joining the
    blocks of a GIF comment takes quadratic time.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self._left = 2_000 if content.startswith(b"GIF8") else 16_000 + len(content) // 2048

    def read(self, size: int | None = -1, /) -> bytes:
        """Read bytes as from a file.

        Raises:
            CostlyError: there were too many reads.
        """
        self._left -= 1
        if self._left < 0:
            raise CostlyError("too many chunks")
        return super().read(size)


def decoder_bytes(content: bytes) -> int:
    """Return the bytes that the decoder of `content` needs in addition to the pixels.

    Raises:
        CostlyError: it would take too long, or more than `MEMORY_LIMIT` before its size is even known.
    """
    try:
        needed = _needed(content)
    except (struct.error, IndexError, OverflowError):
        return 0
    if needed > MEMORY_LIMIT:
        raise CostlyError(f"{needed >> 20:,} MB of memory")
    return needed


def _needed(content: bytes) -> int:
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return _webp(content)
    if content[:2] == b"\xff\xd8":
        return _jpeg(content)
    if content[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _tiff(content)
    if content[:4] == b"\xff\x4f\xff\x51" or content[:12] == b"\0\0\0\x0cjP  \r\n\x87\n":
        return _jpeg2000(content)
    if content[:4] == b"\0\0\1\0":
        return _icon(content)
    if content[4:8] == b"ftyp":
        _avif(content)
        _heif(content)
    if content[:2] == b"BM":
        _dib(content[14:])
    if struct.unpack_from("<L", content)[0] in DIB_HEADERS:
        _dib(content)
    if re.match(rb"P[1-6]\s", content):
        _ppm(content)
    return 0


def check_exif(block: bytes) -> None:
    """Refuse metadata whose entries share their bytes: Pillow copies each, which multiplies the block.

    Raises:
        CostlyError: the entries share bytes.
    """
    while block.startswith(b"Exif\0\0"):
        block = block[6:]
    with contextlib.suppress(struct.error, IndexError):
        tags = _ifd(block)
        for number in SUB_IFDS:
            if number in tags:
                _ifd(block, _values(block, tags[number])[0])


def _webp(content: bytes) -> int:
    """Estimate two canvases and the frame in RGBA, and Pillow's copy of one."""
    kind, start = content[12:16], 20
    if kind == b"VP8X":
        width, height = (int.from_bytes(content[at : at + 3], "little") + 1 for at in (start + 4, start + 7))
    elif kind == b"VP8L":
        bits = int.from_bytes(content[start + 1 : start + 5], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (size & 0x3FFF for size in struct.unpack_from("<HH", content, start + 6))
    return 16 * width * height


def _jpeg(content: bytes) -> int:
    """Estimate the coefficients, two bytes each, which are kept if there are several scans."""
    pixels = components = scans = 0
    exif = b""
    for kind, start, end in _jpeg_segments(content):
        if kind == 0xE1 and content[start : start + 6] == b"Exif\0\0":
            exif += content[start + 6 : end]
        elif 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            height, width, components = struct.unpack_from(">HHB", content, start + 1)
            pixels = height * width
        scans += kind == 0xDA
        if scans > SCAN_LIMIT or (scans > 1 and scans * pixels > SCANNED_PIXEL_LIMIT):
            raise CostlyError(f"more than {scans - 1} scans")
    check_exif(exif)
    return 2 * pixels * components if scans > 1 else 0


def _jpeg_segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of each segment of the first image."""
    at, steps, scanning = 2, 0, False
    while found := NOT_ENTROPY.search(content, at):
        steps += 1
        if steps > PARSED_LIMIT or (not scanning and found.start() - at > PARSED_LIMIT):
            raise CostlyError("a header that is all padding or segments")
        marker, at = content[found.start() + 1], found.end()
        if marker == 0xD9:
            return
        if marker == 0x01:
            continue
        (length,) = struct.unpack_from(">H", content, at)
        yield marker, at + 2, at + length
        at += max(length, 2)
        scanning = marker == 0xDA


def _tiff(content: bytes) -> int:
    """Estimate the largest strip or tile, whose size the header does not limit."""
    tags = _ifd(content)
    for number in SUB_IFDS:
        if number in tags:
            with contextlib.suppress(struct.error, IndexError):
                _ifd(content, _values(content, tags[number])[0])

    def first(number: int, default: int = 0) -> int:
        return (_values(content, tags[number]) or [default])[0] if number in tags else default

    counts = [tags[number][1] for number in (273, 279, 324, 325) if number in tags]
    if max(counts, default=0) > STRIP_LIMIT:
        raise CostlyError(f"{max(counts):,} strips")
    if sum(sum(_values(content, tags[number])) for number in (279, 325) if number in tags) > 2 * len(content):
        raise CostlyError("strips that share their bytes")
    bits = max(_values(content, tags[258]), default=1) if 258 in tags else 1
    width, rows = (322, 323) if 322 in tags else (256, 278)
    height = first(rows) if 322 in tags else min(first(rows, first(257)), first(257))
    return first(width) * height * max(4, (first(277, 1) * bits + 7) // 8)  # YCbCr goes through RGBA


def _jpeg2000(content: bytes) -> int:
    """Estimate one tile in 32 bits (twice, for the wavelets), and the records of tiles, precincts and code blocks."""
    start = content.find(b"\xff\x4f\xff\x51")
    width, height, left, top, tile_width, tile_height, tile_left, tile_top, parts = struct.unpack_from(
        ">8LH", content, start + 8
    )
    tile_width, tile_height = tile_width or 1, tile_height or 1
    tiles = -(-(width - tile_left) // tile_width) * -(-(height - tile_top) // tile_height)
    if tiles > JPEG2000_TILE_LIMIT:
        raise CostlyError(f"{tiles:,} tiles")
    samples = min(tile_width, width - left) * min(tile_height, height - top) * parts
    blocks = max(_jpeg2000_blocks(content, start), default=0.0)
    return int(samples * (8 + blocks)) + tiles * (6000 + 1200 * parts)


def _jpeg2000_blocks(content: bytes, at: int) -> Iterator[float]:
    """Bytes a sample that are kept about precincts and code blocks, as each COD and COC segment divides them."""
    at += 2
    for _ in range(PARSED_LIMIT):
        marker, length = struct.unpack_from(">HH", content, at) if at + 4 <= len(content) else (0xFFD9, 0)
        if marker == 0xFFD9:
            return
        if marker == 0xFF90:
            part, size = at, struct.unpack_from(">L", content, at + 6)[0]
        if marker == 0xFF93:
            at = part + size if size else len(content)
            continue
        if marker in (0xFF52, 0xFF53):
            # COD: length, style, order, layers, colour change; COC: length, component, style
            body = at + (9 if marker == 0xFF52 else 6)
            levels, across, down = content[body : body + 3]
            yield 200 / 2 ** (across + down + 4)
            if content[at + (4 if marker == 0xFF52 else 5)] & 1:
                sizes = content[body + 5 : body + 6 + levels]
                yield 500 / 2 ** min((size & 15) + (size >> 4) for size in sizes)
        at += 2 + length
    raise CostlyError("too many tile-parts")


def _icon(content: bytes) -> int:
    """Estimate the largest entry, which may be a PNG of any size."""
    largest = 0
    for number in range(struct.unpack_from("<H", content, 4)[0]):
        (at,) = struct.unpack_from("<L", content, 6 + 16 * number + 12)
        if content[at : at + 8] == b"\x89PNG\r\n\x1a\n":
            width, height = struct.unpack_from(">LL", content, at + 16)
        else:
            width, height = _dib(content[at : at + 40])
        largest = max(largest, width * height)
    return 9 * largest  # RGBA twice, and the mask


def _dib(header: bytes) -> tuple[int, int]:
    """Read width and height of a bitmap (without the 14 bytes of a BMP file header)."""
    if header[:4] == b"\x0c\0\0\0":
        width, height = struct.unpack_from("<HH", header, 4)
        return width, height
    width, height, _, _, compression = struct.unpack_from("<llHHL", header, 4)
    if compression in RLE and abs(width * height) > PYTHON_SAMPLE_LIMIT:
        raise CostlyError(f"{abs(width * height):,} run-length coded pixels")
    return abs(width), abs(height)


def _ppm(content: bytes) -> None:
    """Check a PPM that is decoded in Python: in ASCII, or of a depth other than 8 bits."""
    words = re.findall(rb"[^\s#]+", re.sub(rb"#[^\n]*", b"", content[:1000]))
    width, height = int(words[1]), int(words[2])
    plain, deep = words[0] in (b"P1", b"P2", b"P3"), words[0] in (b"P5", b"P6") and words[3] != b"255"
    samples = width * height * (3 if words[0] in (b"P3", b"P6") else 1)
    if (plain or deep) and max(samples, len(content) * plain) > PYTHON_SAMPLE_LIMIT:
        raise CostlyError(f"{samples:,} samples")


def _avif(content: bytes) -> None:
    """Check the metadata, which Pillow reads when it opens the file."""
    for found in itertools.islice(re.finditer(rb"II\*\0|MM\0\*", content), 16):
        check_exif(content[found.start() :])


def is_heif(content: bytes) -> bool:
    """Return True for the beginning of a HEIC file."""
    return content[4:8] == b"ftyp" and content[8:12] in HEIF_BRANDS


def _heif(content: bytes) -> None:
    """Check the sizes of the images and tiles, each of which is written before its data.

    Raises:
        CostlyError: one is too large.
    """
    for found in HEIF_SIZE.finditer(content) if is_heif(content) else ():
        width, height = struct.unpack(">LL", found[1])
        if 4 * width * height > MEMORY_LIMIT:
            raise CostlyError(f"{width:,} x {height:,} pixels")


def _ifd(block: bytes, at: int | None = None) -> dict[int, tuple[int, int, int]]:
    """Read the tags of a TIFF directory: type, count, and offset of the values.

    Raises:
        CostlyError: they are more bytes than the file.
    """
    order = "<" if block[:2] == b"II" else ">"
    big = b"+" in block[2:4]
    pointer, head, entry, inline = ("Q", "Q", "HHQ", 8) if big else ("L", "H", "HHL", 4)
    if at is None:
        (at,) = struct.unpack_from(order + pointer, block, 8 if big else 4)
    (count,) = struct.unpack_from(order + head, block, at)
    at += struct.calcsize("=" + head)
    size, total = struct.calcsize("=" + entry), 0
    tags: dict[int, tuple[int, int, int]] = {}
    for place in range(at, min(at + count * (size + inline), len(block) - size - inline + 1), size + inline):
        tag, kind, amount = struct.unpack_from(order + entry, block, place)
        place, length = place + size, amount * TYPE_BYTES.get(kind, 0)
        if length > inline:
            (place,) = struct.unpack_from(order + pointer, block, place)
            total += min(length, max(0, len(block) - place))
            if total > 2 * len(block):
                raise CostlyError("metadata that shares its bytes")
        tags[tag] = kind, amount, place
    return tags


def _values(block: bytes, tag: tuple[int, int, int]) -> Any:
    """Read the numbers of a tag; empty for types that are not integers."""
    kind, amount, place = tag
    letter = {1: "B", 3: "H", 4: "L", 13: "L", 16: "Q"}.get(kind)
    order = "<" if block[:2] == b"II" else ">"
    return struct.unpack_from(f"{order}{min(amount, STRIP_LIMIT + 1)}{letter}", block, place) if letter else ()
