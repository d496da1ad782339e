"""Prompts from texts and templates."""

import hashlib
import json
import re
from pathlib import Path

import pytest

from neuroscope.errors import PromptError
from neuroscope.prompts import Prompt, PromptSet, fill_template

CAT, DOG = "The cat is on the mat", "The dog is on the mat"


def rows(prompts):
    return [(prompt.id, prompt.text, dict(prompt.labels)) for prompt in prompts]


def test_texts_are_numbered_in_their_order():
    prompts = PromptSet.of(iter([CAT, DOG]))
    assert rows(prompts) == [("0", CAT, {}), ("1", DOG, {})]
    assert (len(prompts), prompts.texts, prompts.ids) == (2, [CAT, DOG], ["0", "1"])
    assert PromptSet.of(prompts) is prompts


def test_the_digest_is_sha256_over_ids_texts_and_labels():
    prompts = PromptSet((Prompt("a", "café", {"topic": "food"}), Prompt("b", "tea")))
    rows = [["a", "café", {"topic": "food"}], ["b", "tea", {}]]
    plain = "".join(json.dumps(row) + "\n" for row in rows)
    assert prompts.digest == hashlib.sha256(plain.encode()).hexdigest()
    assert PromptSet.of([CAT, DOG]).digest[:8] == "277dc9da"


def test_the_digest_changes_with_everything_that_it_covers():
    sets = [
        [Prompt("a", "x", {"k": "v"}), Prompt("b", "y")],
        [Prompt("b", "y"), Prompt("a", "x", {"k": "v"})],
        [Prompt("c", "x", {"k": "v"}), Prompt("b", "y")],
        [Prompt("a", "z", {"k": "v"}), Prompt("b", "y")],
        [Prompt("a", "x", {"k": "w"}), Prompt("b", "y")],
        [Prompt("a", "x", {"k": "v"})],
    ]
    assert len({PromptSet(tuple(prompts)).digest for prompts in sets}) == len(sets)


def test_the_digest_does_not_depend_on_the_order_of_labels():
    first = PromptSet((Prompt("a", "x", {"k": "v", "l": "w"}),))
    second = PromptSet((Prompt("a", "x", {"l": "w", "k": "v"}),))
    assert first.digest == second.digest


@pytest.mark.parametrize(
    ("texts", "data"),
    [
        ([], None),
        (["x", " \t\n"], r"number 2\b"),
        ("x", r"'x'.*\[text\].*PromptFile\.open"),
        (Path("p.csv"), r"'p\.csv'.*PromptFile\.open"),
        (["x", None], r"\b1\b.*None"),
        (["a \ud83d"], r"'a .*number 1\b"),
        (["x", "a\0b"], r"'a.*number 2\b.*NUL"),
    ],
)
def test_texts_that_are_not_prompts_are_refused(texts, data):
    with pytest.raises(PromptError, match=data):
        PromptSet.of(texts)


def test_ids_must_be_distinct_and_texts_need_not_be():
    assert PromptSet.of(["x", "x"]).ids == ["0", "1"]
    with pytest.raises(PromptError, match=r"'z' .*\b3\b.*'a'"):
        PromptSet((Prompt("a", "x"), Prompt("b", "y"), Prompt("a", "z")))


def test_a_prompt_is_described_by_its_id_position_and_text():
    assert str(Prompt("17", "The  cat\n")) == "prompt 'The cat'"
    assert str(PromptSet.of(["a", "b"]).prompts[1]) == "prompt 'b' (number 2)"
    long = Prompt("a", "cat " * 500, position="line 3")
    assert re.fullmatch(r"prompt 'cat (cat ){10,20}.*…' \(id 'a', line 3\)", str(long))
    assert Prompt("a", "x", position="line 3") == Prompt("a", "x")


def test_a_template_is_filled_once_per_fill():
    filled = fill_template("The engineer is a {}.", ["man", "woman"])
    assert filled == ["The engineer is a man.", "The engineer is a woman."]


def test_a_fill_is_inserted_verbatim():
    assert fill_template("{} {0} {x}", ["{}", "\\1", "%s"]) == [
        "{} {0} {x}",
        r"\1 {0} {x}",
        "%s {0} {x}",
    ]


@pytest.mark.parametrize(
    ("template", "fills"),
    [("no place", ["x"]), ("{} and {}", ["x"]), ("a {}", []), ("a {}", [" "])],
)
def test_a_template_that_cannot_be_filled_is_refused(template, fills):
    with pytest.raises(PromptError, match=f"'{template}'"):
        fill_template(template, fills)
