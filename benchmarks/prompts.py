"""Prompts to measure with: read from a file, or made from a seed."""

import csv
import math
import random
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from statistics import NormalDist

LONGEST = 275
"""Words in the longest prompt that is made."""

_LENGTHS = NormalDist(mu=math.log(24), sigma=0.81)
"""Of the logarithm of a prompt's words: 33 words on average, half of the prompts below 24."""


def make_prompts(count: int, seed: int = 0) -> list[str]:
    """Prompts of random English words, in random order; the same ones for the same seed.

    >>> make_prompts(2) == make_prompts(2)
    True

    Their lengths are evenly spaced quantiles of one distribution, so that sets of any size have
    the same mean and the same long tail.
    """
    draw = random.Random(seed)
    words = _words()
    prompts = [" ".join(draw.choices(words, k=length)) for length in lengths(count)]
    draw.shuffle(prompts)
    return prompts


def lengths(count: int) -> list[int]:
    """The numbers of words of `count` prompts, ascending."""
    quantiles = (_LENGTHS.inv_cdf((index + 0.5) / count) for index in range(count))
    return [min(LONGEST, max(1, round(math.exp(one)))) for one in quantiles]


def load_prompts(path: Path | None, count: int) -> list[str]:
    """The first `count` texts of a file of prompts, or made ones if no file is named.

    Raises:
        ValueError: the file holds fewer.
    """
    if path is None:
        return make_prompts(count)
    texts = read_texts(path)
    if len(texts) < count:
        raise ValueError(f"{path} holds {len(texts)} prompts, {count} are asked for")
    return texts[:count]


def read_texts(path: Path) -> list[str]:
    """The column `text` of a CSV file."""
    with path.open(encoding="utf-8", newline="") as file:
        return [row["text"] for row in csv.DictReader(file)]


def write_texts(path: Path, texts: Sequence[str]) -> Path:
    """Writes texts as the column `text` of a CSV file."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text"])
        writer.writerows([text] for text in texts)
    return path


def _words() -> list[str]:
    text = files("neuroscope").joinpath("data/baseline_prompts.txt").read_text(encoding="utf-8")
    return text.split()  # as often as they stand there
