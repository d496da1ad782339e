"""Prompts for the benchmarks: read from a file, or generated from a seed."""

import csv
import math
import random
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from statistics import NormalDist

LONGEST = 275
"""Words in the longest generated prompt."""

_LENGTHS = NormalDist(mu=math.log(24), sigma=0.81)
"""Logarithm of the number of words: the mean is 33 words, the median 24."""


def generate_prompts(count: int, seed: int = 0) -> list[str]:
    """Return prompts of random English words in random order, the same for the same seed.

    >>> generate_prompts(2) == generate_prompts(2)
    True

    Their lengths are evenly spaced quantiles of one distribution, so that sets of any size have
    the same mean and the same long tail.
    """
    rng = random.Random(seed)
    words = _words()
    prompts = [" ".join(rng.choices(words, k=length)) for length in lengths(count)]
    rng.shuffle(prompts)
    return prompts


def lengths(count: int) -> list[int]:
    """Return the numbers of words of `count` generated prompts, ascending."""
    quantiles = (_LENGTHS.inv_cdf((index + 0.5) / count) for index in range(count))
    return [min(LONGEST, max(1, round(math.exp(quantile)))) for quantile in quantiles]


def load_prompts(path: Path | None, count: int) -> list[str]:
    """Return the first `count` prompts of a file, or `count` generated prompts without a file.

    Raises:
        ValueError: the file holds fewer prompts.
    """
    if path is None:
        return generate_prompts(count)
    texts = read_texts(path)
    if len(texts) < count:
        raise ValueError(f"{path} holds {len(texts)} prompts, but {count} are needed")
    return texts[:count]


def read_texts(path: Path) -> list[str]:
    """Return the column `text` of a CSV file."""
    with path.open(encoding="utf-8", newline="") as file:
        return [row["text"] for row in csv.DictReader(file)]


def write_texts(path: Path, texts: Sequence[str]) -> Path:
    """Write texts as the column `text` of a CSV file; return its path."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text"])
        writer.writerows([text] for text in texts)
    return path


def _words() -> list[str]:
    """Return English words, frequent ones more often."""
    text = files("neuroscope").joinpath("data/baseline_prompts.txt").read_text(encoding="utf-8")
    return text.split()
