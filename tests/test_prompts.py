"""Prompts from texts, templates and files."""

import csv
import hashlib
import json
import tempfile
import tracemalloc
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroscope.errors import PromptError
from neuroscope.prompt_files import PromptFile, read_prompts
from neuroscope.prompts import Prompt, PromptSet, fill_template

CAT, DOG = "The cat is on the mat", "The dog is on the mat"


@pytest.fixture
def prompt_file(tmp_path):
    """Writes a file of prompts and gives its path."""

    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


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
    one = PromptSet((Prompt("a", "x", {"k": "v", "l": "w"}),))
    other = PromptSet((Prompt("a", "x", {"l": "w", "k": "v"}),))
    assert one.digest == other.digest


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "no prompts were given: name at least one"),
        (["x", " \t\n"], "prompt '1' .number 2. is blank: give it text or leave it out"),
        ("x", r"a list of texts, not 'x': write \[text\], or PromptFile.open\(path\)"),
        (Path("p.csv"), r"not 'p.csv': write .*PromptFile.open\(path\)"),
        (["x", None], "prompt 1 is None: it must be a text"),
    ],
)
def test_texts_that_are_no_prompts_are_refused(texts, message):
    with pytest.raises(PromptError, match=message):
        PromptSet.of(texts)


def test_ids_must_be_distinct_and_texts_need_not_be():
    assert PromptSet.of(["x", "x"]).ids == ["0", "1"]
    with pytest.raises(
        PromptError, match=r"two prompts share the id 'a' .*number 3.: ids must be distinct"
    ):
        PromptSet((Prompt("a", "x"), Prompt("b", "y"), Prompt("a", "z")))


def test_a_template_is_filled_once_for_each_fill():
    filled = fill_template("The engineer is a {}.", ["man", "woman"])
    assert filled == ["The engineer is a man.", "The engineer is a woman."]


def test_a_fill_is_put_in_word_for_word():
    assert fill_template("{} {0} {x}", ["{}", "\\1", "%s"]) == [
        "{} {0} {x}",
        r"\1 {0} {x}",
        "%s {0} {x}",
    ]


@pytest.mark.parametrize(
    ("template", "fills", "message"),
    [
        (
            "no place",
            ["x"],
            r"'no place' must hold '\{\}' exactly once.*'The engineer is a \{\}\.'",
        ),
        ("{} and {}", ["x"], "exactly once, where the fills go"),
        ("a {}", [], r"'a \{\}' has no fills: give at least two"),
        ("a {}", ["x", " "], r"a fill of template 'a \{\}' is blank: give it text"),
    ],
)
def test_a_template_that_cannot_be_filled_is_refused(template, fills, message):
    with pytest.raises(PromptError, match=message):
        fill_template(template, fills)


def test_a_text_file_holds_one_prompt_a_line(prompt_file):
    path = prompt_file("p.txt", f"{CAT}\r\n\n   \n  {DOG}  \nÜber café, 猫\n")
    assert rows(read_prompts(path)) == [
        ("0", CAT, {}),
        ("1", f"  {DOG}  ", {}),
        ("2", "Über café, 猫", {}),
    ]
    assert read_prompts(str(path)).digest == read_prompts(path).digest


def test_a_csv_table_gives_text_id_and_labels(prompt_file):
    path = prompt_file("p.csv", "topic,text,id\nanimals,A cat,c\nfood,A pie,p\n")
    assert rows(read_prompts(path)) == [
        ("c", "A cat", {"topic": "animals"}),
        ("p", "A pie", {"topic": "food"}),
    ]


def test_quoted_commas_quotes_and_new_lines_belong_to_the_text(prompt_file):
    path = prompt_file("p.csv", 'text,topic\n"Yes, ""he"" said,\nand left",talk\nplain,none\n')
    assert rows(read_prompts(path)) == [
        ("0", 'Yes, "he" said,\nand left', {"topic": "talk"}),
        ("1", "plain", {"topic": "none"}),
    ]


def test_rows_without_an_id_are_numbered_and_blank_lines_do_not_count(prompt_file):
    path = prompt_file("p.csv", "text\n\nfirst\n\n\nsecond\n")
    assert rows(read_prompts(path)) == [("0", "first", {}), ("1", "second", {})]


def test_jsonl_gives_text_id_and_labels(prompt_file):
    lines = [
        '{"text": "caf\\u00e9", "id": 7, "topic": "food"}',
        "",
        '{"text": "猫", "topic": null}',
    ]
    assert rows(read_prompts(prompt_file("p.jsonl", "\n".join(lines)))) == [
        ("7", "café", {"topic": "food"}),
        ("1", "猫", {}),
    ]


def test_parquet_gives_text_id_and_labels(tmp_path):
    table = pd.DataFrame({"id": [5, 6], "text": ["a\nb", "猫"], "topic": ["food", None]})
    table.to_parquet(tmp_path / "p.parquet")
    assert rows(read_prompts(tmp_path / "p.parquet")) == [
        ("5", "a\nb", {"topic": "food"}),
        ("6", "猫", {}),
    ]


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=1))
@settings(deadline=None, max_examples=25)
def test_tables_give_back_any_text(texts):
    texts = [f"x{text}" for text in texts]
    table = pd.DataFrame({"text": texts, "topic": texts[::-1]})
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder, "p.csv"), Path(folder, "p.parquet")
        table.to_csv(paths[0], index=False, lineterminator="\n", quoting=csv.QUOTE_ALL)
        table.to_parquet(paths[1], index=False)
        for found in map(read_prompts, paths):
            assert found.texts == texts
            assert [prompt.labels["topic"] for prompt in found] == texts[::-1]


@pytest.mark.parametrize("name", ["p.txt", "p.csv", "p.jsonl"])
def test_a_byte_order_mark_is_no_part_of_the_prompts(prompt_file, name):
    content = {"p.txt": "x\n", "p.csv": "text\nx\n", "p.jsonl": '{"text": "x"}\n'}[name]
    assert rows(read_prompts(prompt_file(name, content.encode("utf-8-sig")))) == [("0", "x", {})]


@pytest.mark.parametrize("separator", ["\u2028", "\x85", "\x0c"])
def test_only_a_new_line_ends_a_line(prompt_file, separator):
    text = f"one{separator}prompt"
    line = json.dumps({"text": text}, ensure_ascii=False)
    assert read_prompts(prompt_file("p.jsonl", line)).texts == [json.loads(line)["text"]]
    assert read_prompts(prompt_file("p.txt", text)).texts == [text]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.csv", "title,topic\nx,y\n", r"line 1: no column 'text'; found title"),
        ("p.csv", "", r"line 1: no column 'text'; found nothing"),
        ("p.csv", "text,topic\nx,y\nYes, he said,z\n", r"line 3: expected 2 columns; quote texts"),
        ("p.csv", "text,topic\nx\n", "line 2: expected 2 columns"),
        ("p.csv", "text,topic\nx,y\n  ,z\n", "line 3: 'text' is missing or blank; every row needs"),
        ("p.csv", 'text\n"x\ny"\n" "\n', "line 4: 'text' is missing or blank"),
        ("p.csv", 'text\nx\n"y\nz\n', "the row from line 3 on: unexpected end of data; is a quote"),
        ("p.csv", 'text\nx\n"y" z\n', "the row from line 3 on: ',' expected after .*; is a quote"),
        ("p.jsonl", '{"text": "x"}\n\n{"text": \n', r"line 3: not JSON \(Expecting value"),
        (
            "p.jsonl",
            '{"text": "x"}\n["y"]\n',
            r'line 2: expected an object such as \{"text": "…"\}',
        ),
        ("p.jsonl", '{"text": "x"}\n{"text": 3}\n', "line 2: 'text' is 3; every row needs text"),
        ("p.jsonl", '{"topic": "x"}\n', "line 1: 'text' is missing or blank; every row needs text"),
        ("p.jsonl", '{"text": "a \\ud83d"}\n', r"prompt '0' \(number 1\) holds half a character"),
        ("p.jsonl", '{"text": "a", "id": "\\ud83d"}\n', "holds half a character"),
        ("p.jsonl", "[" * 100_000, "line 1: not JSON"),
        ("p.csv", "text,a,text\nx,y,z\n", "line 1: 2 columns are called 'text': rename them"),
        ("p.csv", "text\n" + "a" * 200_000, r"row from line 2 on: field larger .*; put texts that"),
    ],
)
def test_a_malformed_file_is_refused_with_its_name_and_line(prompt_file, name, content, message):
    path = prompt_file(name, content)
    with pytest.raises(PromptError, match=message) as refused:
        read_prompts(path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("header", ['"text\nx\n', '"te"xt,topic\nx,y\n'])
def test_a_malformed_header_is_refused_as_any_other_line(prompt_file, header):
    with pytest.raises(PromptError, match=r"p\.csv, the row from line 1 on: "):
        read_prompts(prompt_file("p.csv", header))


def test_parquet_rows_and_columns_that_are_lacking_are_named(tmp_path):
    path = tmp_path / "p.parquet"
    pd.DataFrame({"text": ["x", None]}).to_parquet(path)
    with pytest.raises(PromptError, match=r"p\.parquet, line 2: 'text' is missing or blank"):
        read_prompts(path)
    pd.DataFrame({"title": ["x"], "topic": ["y"]}).to_parquet(path)
    with pytest.raises(PromptError, match=r"p\.parquet, no column 'text'; found title, topic"):
        read_prompts(path)


@pytest.mark.parametrize("name", ["p.txt", "p.csv", "p.jsonl"])
def test_a_file_that_is_not_utf8_is_refused_with_the_remedy(prompt_file, name):
    content = {"p.txt": "café", "p.csv": "text\ncafé\n", "p.jsonl": '{"text": "café"}'}[name]
    with pytest.raises(PromptError, match=r"is not UTF-8 text \(.*\): save it as UTF-8"):
        read_prompts(prompt_file(name, content.encode("latin-1")))


def test_a_file_that_is_not_parquet_is_refused(prompt_file):
    with pytest.raises(PromptError, match=r"p\.parquet, not a readable Parquet file"):
        read_prompts(prompt_file("p.parquet", "text\nx\n"))


@pytest.mark.parametrize("name", ["p.md", "p", "p.tsv", "p.txt.gz"])
def test_a_file_of_another_kind_is_refused_and_the_kinds_named(prompt_file, name):
    with pytest.raises(PromptError, match=r"ending must be \.txt, \.csv, \.jsonl, \.parquet"):
        read_prompts(prompt_file(name, "x"))


def test_the_ending_may_be_in_capitals(prompt_file):
    assert read_prompts(prompt_file("P.CSV", "text\nx\n")).texts == ["x"]


def test_labels_that_are_no_text_stay_json(prompt_file):
    row = {"text": "x", "at": [1, 2], "of": {"k": "ä"}, "ok": True, "n": 3, "none": None}
    (prompt,) = read_prompts(prompt_file("p.jsonl", json.dumps(row)))
    assert prompt.labels == {"at": "[1, 2]", "of": '{"k": "ä"}', "ok": "true", "n": "3"}


def test_a_missing_file_is_refused(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(PromptError, match=r"folder.csv' is a folder"):
        read_prompts(tmp_path / "folder.csv")
    with pytest.raises(PromptError, match=r"prompt file '.*none\.txt' does not exist"):
        read_prompts(tmp_path / "none.txt")


@pytest.mark.parametrize(
    ("name", "content"), [("p.txt", " \n\n"), ("p.csv", "text\n"), ("p.jsonl", "")]
)
def test_a_file_without_prompts_is_refused(prompt_file, name, content):
    with pytest.raises(PromptError, match="holds no prompts"):
        read_prompts(prompt_file(name, content))


def test_two_rows_with_one_id_are_refused_with_the_file(prompt_file):
    path = prompt_file("p.csv", "id,text\na,x\nb,y\na,z\n")
    with pytest.raises(PromptError, match=r"share the id 'a' .*: ids must be distinct") as refused:
        read_prompts(path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.csv", "id,text\n,x\nb,y\n"),
        ("p.jsonl", '{"text": "x", "id": null}\n{"text": "y", "id": "b"}'),
    ],
)
def test_a_row_whose_id_is_empty_is_numbered(prompt_file, name, content):
    assert read_prompts(prompt_file(name, content)).ids == ["0", "b"]


@pytest.mark.parametrize("name", ["p.txt", "p.csv", "p.jsonl", "p.parquet"])
def test_a_prompt_file_is_gone_through_as_often_as_asked(tmp_path, name):
    path, texts = tmp_path / name, [f"prompt {number}" for number in range(10_000)]
    if name == "p.parquet":
        pd.DataFrame({"text": texts}).to_parquet(path)
    elif name == "p.jsonl":
        path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    else:
        path.write_text("\n".join(["text", *texts] if name == "p.csv" else texts))
    prompts = PromptFile.open(path)
    assert len(prompts) == 10_000
    assert prompts.characters == sum(map(len, texts))
    assert prompts.digest == PromptSet.of(texts).digest == read_prompts(path).digest
    for _ in range(2):
        assert [prompt.text for prompt in prompts] == texts


def test_reading_a_prompt_file_needs_little_memory(tmp_path):
    path = tmp_path / "p.jsonl"
    line = json.dumps({"text": "a prompt that is as long as prompts are " * 5})
    path.write_text("\n".join([line] * 20_000))
    prompts = PromptFile.open(path)
    tracemalloc.start()
    for _ in prompts:
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < path.stat().st_size / 10
