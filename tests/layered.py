"""Prompts for the study of layers."""

import itertools

import numpy as np

from neuroscope.prompts import Prompt, PromptSet

TOPICS = {"animals": ("cat", "dog"), "people": ("man", "woman"), "royals": ("king", "queen")}


def labelled_prompts(**labels) -> PromptSet:
    """Return 72 prompts on three topics in mixed order; `labels` are added to each."""
    texts = [
        (f"the {size} {word} {verb} {location} .", topic)
        for size, verb, location, (topic, words) in itertools.product(
            ("small", "old"),
            ("sits", "walks", "runs", "is"),
            ("in the house", "on the mat"),
            TOPICS.items(),
        )
        for word in words[: 1 if size == "small" else 2]
    ]
    return PromptSet(
        tuple(
            Prompt(str(index), text, {"topic": topic} | labels)
            for index, (text, topic) in enumerate(texts)
        )
    )


def random_prompts(count: int, words: list[str], seed: int = 0) -> list[str]:
    """Return distinct prompts of six random words."""
    rng = np.random.default_rng(seed)
    texts: dict[str, None] = {}
    while len(texts) < count:
        texts[" ".join(rng.choice(words, 6))] = None
    return list(texts)
