"""Text in figures: drawn literally, measured in inches, and shortened or wrapped to fit."""

from collections.abc import Iterable
from functools import cache
from math import ceil, floor, log10

import numpy as np
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.textpath import text_to_path
from numpy.typing import NDArray

DPI = 120
FONT = "DejaVu Sans"  # comes with matplotlib
MINUS = "\u2212"  # minus sign

Doubles = NDArray[np.float64]

_MOST_LETTERS = 800  # longer text fits into no heading and is cut before it is measured


@cache
def _has_glyph(letter: str) -> bool:
    """Return whether the font has a letter, in regular and in bold."""
    faces = [findfont(FontProperties(family=FONT, weight=weight)) for weight in ("normal", "bold")]
    return all(get_font(face).get_char_index(ord(letter)) for face in faces)


@cache
def _advance(letter: str) -> float:
    """Return the width of a letter in units of the font size."""
    width, _, _ = text_to_path.get_text_width_height_descent(
        letter, FontProperties(family=FONT, size=100), False
    )
    return width / 100


def plain(text: str) -> str:
    """Return `text` as one line that matplotlib draws literally.

    White space becomes single spaces, letters that the font lacks become □, and each `$` is
    escaped so that it does not start a formula.
    """
    line = " ".join(text.split())
    if len(line) > _MOST_LETTERS:
        line = line[: _MOST_LETTERS // 2] + "…" + line[-_MOST_LETTERS // 2 :]
    drawn = (letter if letter.isprintable() and _has_glyph(letter) else "□" for letter in line)
    return "".join(drawn).replace("$", r"\$")


def text_width(text: str, size: float) -> float:
    """Return an upper bound of the width of plain text in inches, at a font size in points."""
    pixels = [_advance(letter) * size * DPI / 72 for letter in text.replace(r"\$", "$")]
    return sum(map(ceil, pixels)) / DPI  # hinting widens letters to whole pixels


def shorten(text: str, size: float, width: float) -> str:
    """Replace the middle of plain text by an ellipsis until it fits into `width` inches."""
    if text_width(text, size) <= width:
        return text
    letters = text.replace(r"\$", "$")
    fewest, most = 0, len(letters)
    while fewest < most:
        kept = (fewest + most + 1) // 2
        if text_width(_elide(letters, kept), size) <= width:
            fewest = kept
        else:
            most = kept - 1
    return _elide(letters, fewest).replace("$", r"\$")


def _elide(letters: str, kept: int) -> str:
    """Return the first and last letters, `kept` in total, with an ellipsis between them."""
    first = ceil(kept * 0.6)
    return letters[:first].rstrip() + "…" + letters[len(letters) - (kept - first) :].lstrip()


def wrap(text: str, size: float, width: float, lines: int) -> list[str]:
    """Wrap plain text into at most `lines` lines of at most `width` inches.

    Lines break between words, and inside a word only if it is longer than a line. Text that is
    too long is shortened in its middle.
    """
    room = width * lines
    while True:
        wrapped = _fill(shorten(text, size, room).replace(r"\$", "$"), size, width)
        if len(wrapped) <= lines:
            return [line.replace("$", r"\$") for line in wrapped]
        room *= 0.97


def _fill(letters: str, size: float, width: float) -> list[str]:
    """Return the letters in as many lines as needed, broken between words where possible."""
    lines = [""]
    for letter in letters:
        if text_width(lines[-1] + letter, size) > width and lines[-1]:
            line, _, word = lines[-1].rpartition(" ")
            if letter == " " or not line or text_width(word + letter, size) > width:
                line, word = lines[-1], ""
            lines[-1:] = [line, word]
        lines[-1] += letter
    return [line.strip() for line in lines]


def number_format(values: Doubles, digits: int = 3) -> str:
    """Return a format that shows `digits` digits of the smallest magnitude above zero."""
    sizes = np.abs(values[values != 0])
    decimals = max(0, digits - 1 - floor(log10(sizes.min()))) if sizes.size else 2
    return "z.2e" if decimals > 5 or (sizes.size and sizes.max() >= 1e6) else f"z.{decimals}f"


def format_numbers(values: Iterable[float], spec: str) -> list[str]:
    """Format numbers, with a minus sign in place of the hyphen."""
    return [format(value, spec).replace("-", MINUS) for value in values]
