"""Check that a text file is UTF-8; name its likely encoding otherwise.

Spreadsheets write other encodings: Excel's "Unicode text" is UTF-16, and its CSV on a Chinese Windows is GBK. Only the
beginning of the file is read; an invalid byte further on is reported with its row.
"""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from ..errors import UsageError
from ..files.untrusted_files import open_regular

PREFIX_BYTES = 1 << 20
MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
"""Byte order marks, the longer ones first: that of UTF-32 begins with one of UTF-16."""
FIRST_LETTERS = {re.compile(rb"[^\0]\0[^\0]\0"): "UTF-16LE", re.compile(rb"\0[^\0]\0[^\0]"): "UTF-16BE"}
"""Two letters of ASCII in UTF-16 without a mark."""
CHINESE = re.compile("[\u4e00-\u9fff]")


def require_utf8(path: Path) -> None:
    """Raise `UsageError` if the file begins as UTF-16 or UTF-32, or is not UTF-8 but Chinese text in GBK."""
    with open_regular(path) as file:
        beginning = file.read(PREFIX_BYTES)
    likely = next((name for mark, name in MARKS.items() if beginning.startswith(mark)), None)
    likely = likely or next((name for letters, name in FIRST_LETTERS.items() if letters.match(beginning)), None)
    likely = likely or ("GBK" if _is_gbk(beginning) else None)
    if likely is not None:
        raise UsageError(
            f"{path} is not UTF-8 but probably {likely}. Save it as UTF-8 (Excel: “CSV UTF-8”), or convert it with "
            f"iconv -f {likely.replace('GBK', 'GB18030')} -t UTF-8."
        )


def _is_gbk(beginning: bytes) -> bool:
    return _decode(beginning, "utf-8") is None and bool(CHINESE.search(_decode(beginning, "gb18030") or ""))


def _decode(beginning: bytes, encoding: str) -> str | None:
    """Decode a beginning whose last character may be incomplete; return None if the encoding does not fit."""
    try:
        return codecs.getincrementaldecoder(encoding)().decode(beginning)
    except UnicodeDecodeError:
        return None
