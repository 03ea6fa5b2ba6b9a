"""Small files that cost a decoder much: each function builds one; `ATTACKS` must be refused by their headers."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

from PIL import Image


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def zeros(count: int) -> bytes:
    packer = zlib.compressobj(9)
    parts = [packer.compress(bytes(min(1 << 20, count - at))) for at in range(0, count, 1 << 20)]
    return b"".join(parts) + packer.flush()


def png(width: int, height: int, depth: int, colour: int, row: int, more: bytes = b"") -> bytes:
    """Return a black PNG whose rows have `row` bytes; `more` are chunks before the pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = zeros(height * (row + 1)) if row else b""
    chunks = chunk(b"IHDR", header) + more + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def grey(more: bytes = b"") -> bytes:
    return png(8, 8, 8, 0, 8, more)


def tiff(tags: list[tuple[int, int, int, int]], tail: bytes) -> bytes:
    directory = b"".join(struct.pack("<HHLL", *tag) for tag in tags)
    return struct.pack("<2sHLH", b"II", 42, 8, len(tags)) + directory + bytes(4) + tail


def tiff_head(width: int, height: int, compression: int) -> list[tuple[int, int, int, int]]:
    sizes = [(256, 4, 1, width), (257, 4, 1, height)]
    return [*sizes, (258, 3, 1, 8), (259, 3, 1, compression), (262, 3, 1, 1), (277, 3, 1, 1)]


def webp_canvas() -> bytes:
    """34 bytes; 16,384 x 10,000 pixels in its header."""
    sides = b"".join((side - 1).to_bytes(3, "little") for side in (16384, 10000))
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\2\0\0\0" + sides + bytes(4)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def tiff_tile() -> bytes:
    """64 x 64 pixels in one tile of a gigabyte."""
    data, at = zlib.compress(bytes(100)), 8 + 2 + 12 * 10 + 4
    tile = [(322, 4, 1, 1 << 15), (323, 4, 1, 1 << 15), (324, 4, 1, at), (325, 4, 1, len(data))]
    return tiff([*tiff_head(64, 64, 8), *tile], data)


def tiff_tags(count: int = 20_000, size: int = 200_000) -> bytes:
    """Each tag holds the whole file: Pillow copies each while it opens the file."""
    at = 8 + 2 + 12 * count + 4
    strip = [(273, 4, 1, at), (278, 4, 1, 8), (279, 4, 1, 64)]
    head = [*tiff_head(8, 8, 1), *strip]
    return tiff([*head, *((300 + i, 1, size, at) for i in range(count - len(head)))], bytes(size))


def tiff_strips(count: int = 50_000) -> bytes:
    """Every strip is the whole file."""
    data, at = zlib.compress(bytes(64)) + bytes(400_000), 8 + 2 + 12 * 9 + 4
    tables = [struct.pack("<L", number) * count for number in (at, len(data))]
    places = at + len(data), at + len(data) + 4 * count
    strips = [(273, 4, count, places[0]), (278, 4, 1, 1), (279, 4, count, places[1])]
    return tiff([*tiff_head(64, count, 8), *strips], data + b"".join(tables))


def exif(size: int, tags: int) -> bytes:
    """Metadata whose every tag is all of it."""
    directory = b"".join(struct.pack("<HHLL", 1000 + i, 7, size - 100, 0) for i in range(tags))
    return (struct.pack("<2sHLH", b"II", 42, 8, tags) + directory).ljust(size, b"\0")


def jpeg(**options: Any) -> bytes:
    return encoded(Image.new("L", (1024, 1024)), "JPEG", **options)


def jpeg_exif() -> bytes:
    """Several segments, which Pillow joins while it opens the file."""
    block, plain = exif(300_000, 20_000), jpeg()
    parts = [b"Exif\0\0" + block[at : at + 65_000] for at in range(0, len(block), 65_000)]
    return plain[:2] + b"".join(b"\xff\xe1" + struct.pack(">H", len(part) + 2) + part for part in parts) + plain[2:]


def jpeg_scans(scans: int = 2921) -> bytes:
    plain = jpeg(progressive=True)
    last = plain.rindex(b"\xff\xda")
    return plain[:-2] + plain[last:-2] * scans + plain[-2:]


def jpeg_before_scan(filling: bytes) -> bytes:
    plain = jpeg()
    return plain[:2] + filling + plain[2:]


def gif_comment() -> bytes:
    """Pillow joins its blocks one by one."""
    plain = encoded(Image.new("P", (8, 8)), "GIF")
    at = 13 + (3 << ((plain[10] & 7) + 1) if plain[10] & 0x80 else 0)
    return plain[:at] + b"\x21\xfe" + (b"\xff" + b"a" * 255) * 60_000 + b"\0" + plain[at:]


def icon() -> bytes:
    """Its directory says 256 x 256; the PNG in it has other ideas."""
    inside = png(13_000, 13_000, 8, 6, 0)
    return struct.pack("<3H4B2H2L", 0, 1, 1, 0, 0, 0, 0, 1, 32, len(inside), 22) + inside


def bitmap(header: bool) -> bytes:
    """Run-length coded, decoded in Python: 150 million pixels in one line that ends at once."""
    data = b"\x01\0\0\0\0\1"
    body = struct.pack("<IiiHHIIiiII", 40, 150_000_000, 1, 1, 8, 1, len(data), 0, 0, 256, 0) + bytes(1024) + data
    return (b"BM" + struct.pack("<IHHI", 14 + len(body), 0, 0, 14 + 1064) if header else b"") + body


def jpeg2000(tiles: int = 65_000, parts: int = 1) -> bytes:
    """Tiles of one pixel, and as many components."""
    size = struct.pack(">2H8LH", 38 + 3 * parts, 0, tiles, 1, 0, 0, 1, 1, 0, 0, parts) + b"\7\1\1" * parts
    plain = encoded(Image.new("L", (64, 64)), "JPEG2000", no_jp2=True)
    return b"\xff\x4f\xff\x51" + size + plain[plain.index(b"\xff\x52") :]


def jpeg2000_precincts() -> bytes:
    """Precincts of one pixel each."""
    plain = encoded(Image.new("L", (2048, 2048)), "JPEG2000", no_jp2=True, num_resolutions=1)
    at = plain.index(b"\xff\x52")
    (length,) = struct.unpack_from(">H", plain, at + 2)
    body = bytearray(plain[at + 4 : at + 14])
    body[0] |= 1
    return plain[: at + 2] + struct.pack(">H", 13) + bytes(body) + b"\0" + plain[at + 2 + length :]


ATTACKS: dict[str, Callable[[], bytes]] = {
    "webp canvas": webp_canvas,
    "png 16 bits, 13,000 x 13,000": lambda: png(13_000, 13_000, 16, 0, 26_000),
    "png of empty chunks": lambda: grey(chunk(b"teSt", b"") * 200_000),
    "png iCCP bomb": lambda: grey(chunk(b"iCCP", b"x\0\0" + zeros(1 << 28))),
    "tiff tile": tiff_tile,
    "tiff tags": tiff_tags,
    "tiff strips": tiff_strips,
    "jpeg exif": jpeg_exif,
    "jpeg scans": jpeg_scans,
    "jpeg segments": lambda: jpeg_before_scan(b"\xff\xfe\0\2" * 500_000),
    "jpeg padding": lambda: jpeg_before_scan(b"\xff" * 2_000_000),
    "gif comment": gif_comment,
    "icon": icon,
    "bmp run-length": lambda: bitmap(True),
    "dib run-length": lambda: bitmap(False),
    "ppm in text": lambda: b"P3 40000000 1 255\n1 ",
    "ppm of another depth": lambda: b"P6 40000000 1 100\n1",
    "jpeg2000 tiles": jpeg2000,
    "jpeg2000 components": lambda: jpeg2000(4000, 16_000),
    "jpeg2000 precincts": jpeg2000_precincts,
}
SPENT: dict[str, Callable[[], bytes]] = {
    "png exif": lambda: grey(chunk(b"eXIf", exif(400_000, 30_000))),
    "png raw profile": lambda: grey(
        chunk(
            b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n1\n" + exif(400_000, 30_000).hex().encode())
        )
    ),
    "png text": lambda: grey(chunk(b"zTXt", b"k\0\0" + zeros(1_000_000)) * 60),
}
"""Opened, since the pixels are whole; what surrounds them must cost little."""
