"""Texts on topics whose words are known, and a small causal model that has learnt them."""

import csv
import random
from collections.abc import Sequence
from pathlib import Path

from benchmarks.random_checkpoint import SPECIAL, save_tokenizer

TOPICS = ("animals", "banking", "cooking", "law", "medicine", "music", "sports", "weather")
PLANTED = "sports"
"""Topic on which a model is trained further."""
MIXTURE = (*(topic for topic in TOPICS if topic != PLANTED),) * 6 + (PLANTED,)
"""Topics of the texts that a model is trained on first; the planted one is rare."""

_TOPIC_WORDS, _GENERAL_WORDS = 24, 100
_SUCCESSORS = 2
"""Number of words that may follow a word among those of its kind."""

Labelled = Sequence[tuple[str, str]]
"""Texts with their topics."""

Words = list[str]


def words_of(topic: str) -> Words:
    """Return the words that occur in texts on one topic only."""
    return [f"{topic}{number}" for number in range(_TOPIC_WORDS)]


def generate(count: int, seed: int, topics: Sequence[str] = TOPICS) -> Labelled:
    """Return texts of 12 to 28 words, half of them on average words of the text's topic.

    >>> text, topic = generate(1, seed=0)[0]

    The topics take turns. Each word has two possible successors among the words of its kind, so
    that there is something to learn.
    """
    rng = random.Random(seed)
    named = [topics[number % len(topics)] for number in range(count)]
    return [(_text(topic, rng), topic) for topic in named]


def texts_of(rows: Labelled) -> list[str]:
    """Return the texts without their topics."""
    return [text for text, _ in rows]


def write_labelled(path: Path, texts: Labelled) -> Path:
    """Write texts as a CSV file with the columns text and topic; return its path."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "topic"), *texts])
    return path


def read_labelled(path: Path) -> Labelled:
    """Return the texts of a CSV file with the columns text and topic."""
    with path.open(encoding="utf-8", newline="") as file:
        return [(row["text"], row["topic"]) for row in csv.DictReader(file)]


def make_untrained(folder: Path, *, layers: int = 4, hidden: int = 64, seed: int = 0) -> Path:
    """Save a causal model with random weights for the words of `generate`; return the folder."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    words = [*_general_words(), *(word for topic in TOPICS for word in words_of(topic))]
    config = LlamaConfig(
        vocab_size=len(SPECIAL) + len(words),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=SPECIAL.index("</s>"),
    )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    folder.mkdir(parents=True, exist_ok=True)
    save_tokenizer(folder, words)
    model.save_pretrained(folder)
    return folder


def _general_words() -> Words:
    """Return the words that occur in texts on every topic."""
    return [f"word{number}" for number in range(_GENERAL_WORDS)]


def _text(topic: str, rng: random.Random) -> str:
    """Return a text in which words of the topic and general words alternate at random."""
    kinds = (_general_words(), words_of(topic))
    latest = [rng.randrange(len(kind)) for kind in kinds]
    text = []
    for _ in range(rng.randint(12, 28)):
        kind = rng.randrange(2)
        latest[kind] = _successor(latest[kind], len(kinds[kind]), rng)
        text.append(kinds[kind][latest[kind]])
    return " ".join(text)


def _successor(number: int, count: int, rng: random.Random) -> int:
    """Return the number of a word that may follow a word of the same kind."""
    return (5 * number + 7 * rng.randrange(_SUCCESSORS) + 1) % count
