"""Is a text file UTF-8, and if not, what it is likely to be and how it becomes UTF-8.

Spreadsheets write others: Excel's "Unicode text" is UTF-16, its CSV on a Chinese Windows GBK. Looks at the beginning
only; a broken byte further on is a matter of its row. Knows nothing about rows.
"""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from ..errors import UsageError

LOOKED_AT = 1 << 20
WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
CHINESE = re.compile("[\u4e00-\u9fff]")


def require_utf8(path: Path) -> None:
    """Raises `UsageError` where the file says that it is UTF-16, or is no UTF-8 and reads as Chinese in GBK."""
    with path.open("rb") as file:
        beginning = file.read(LOOKED_AT)
    likely = "UTF-16" if beginning.startswith(WIDE) else "GBK" if _is_gbk(beginning) else None
    if likely is not None:
        raise UsageError(
            f"{path} is not UTF-8 but, it seems, {likely}: save it as UTF-8 (Excel: “CSV UTF-8”), or convert it with "
            f"iconv -f {likely.replace('GBK', 'GB18030')} -t UTF-8."
        )


def _is_gbk(beginning: bytes) -> bool:
    return _decoded(beginning, "utf-8") is None and bool(CHINESE.search(_decoded(beginning, "gb18030") or ""))


def _decoded(beginning: bytes, encoding: str) -> str | None:
    """The text, whose last character may be cut; None where it is not of that encoding."""
    try:
        return codecs.getincrementaldecoder(encoding)().decode(beginning)
    except UnicodeDecodeError:
        return None
