"""Lines of text files, which are UTF-8."""

import re
from collections.abc import Iterator
from pathlib import Path

from neuroscope.errors import PromptError

# a byte that is not UTF-8 is read as a letter from \udc80 to \udcff
_NOT_TEXT = re.compile("[\0\udc80-\udcff]|^\ufeff")


def lines_of(path: Path) -> Iterator[str]:
    """Yield the lines of a file, each with its end, which is CR, LF or CR LF.

    Raises:
        PromptError: a line is not text in UTF-8.
    """
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        for number, line in enumerate(file, 1):
            if match := _NOT_TEXT.search(line):
                problem = f"line {number}: {_encoding_fault(match[0])}"
                raise PromptError(problem, remedy="save the file as UTF-8")
            yield line


def _encoding_fault(letter: str) -> str:
    """Return what is wrong with a letter that no text in UTF-8 contains."""
    if letter == "\0":
        return "contains a NUL character"
    if letter == "\ufeff":
        return "starts with a byte order mark, which only the first line may have"
    return f"the byte 0x{ord(letter) & 0xFF:02x} is not UTF-8"


def filled_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield position and text of the lines that are not blank."""
    for number, line in enumerate(lines_of(path), 1):
        if line.strip():
            yield f"line {number}", line.rstrip("\r\n")
