"""Prompts from files."""

import csv
import json
import tempfile
import tracemalloc
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_prompts import CAT, DOG, rows

from neuroscope.errors import PromptError
from neuroscope.prompt_files import PromptFile, read_prompts
from neuroscope.prompts import PromptSet


@pytest.fixture
def write_file(tmp_path):
    """Return a function that writes a prompt file and returns its path."""

    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_a_text_file_holds_one_prompt_per_line(write_file):
    path = write_file("p.txt", f"{CAT}\r\n\n   \n  {DOG}  \rÜber café, 猫\n")
    assert rows(read_prompts(path)) == [
        ("0", CAT, {}),
        ("1", f"  {DOG}  ", {}),
        ("2", "Über café, 猫", {}),
    ]
    assert read_prompts(str(path)).digest == read_prompts(path).digest


@pytest.mark.parametrize(("name", "delimiter"), [("p.csv", ","), ("p.tsv", "\t")])
def test_a_table_gives_text_id_and_labels(write_file, name, delimiter):
    content = "topic,text,id\nanimals,A cat,c\nfood,A pie,p\n".replace(",", delimiter)
    assert rows(read_prompts(write_file(name, content))) == [
        ("c", "A cat", {"topic": "animals"}),
        ("p", "A pie", {"topic": "food"}),
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.csv", "text, topic ,\ufeffid\nA cat, animals,c\n"),
        ("p.csv", '\ufeff" \ufefftext","topic","id"\nA cat, animals,c\n'),
        ("p.tsv", "text\t topic\tid\u200b\nA cat\t animals\tc\n"),
        ("p.csv", ",text,topic,id\n0,A cat, animals,c\n"),
        ("p.jsonl", '{" text": "A cat", "topic ": " animals", "id": "c", "": 0}'),
    ],
)
def test_blanks_around_names_of_columns_and_columns_without_a_name_do_not_count(
    write_file, name, content
):
    assert rows(read_prompts(write_file(name, content))) == [("c", "A cat", {"topic": " animals"})]


def test_the_index_of_a_data_frame_is_no_label(tmp_path):
    path = tmp_path / "p.parquet"
    frame = pd.DataFrame({" text": ["A cat"], "topic": ["food"]}, index=["first"])
    frame.to_parquet(path)
    assert "__index_level_0__" in pq.read_schema(path).names
    assert rows(read_prompts(path)) == [("0", "A cat", {"topic": "food"})]
    named = read_prompts(path, label_columns=["__index_level_0__"])
    assert rows(named) == [("0", "A cat", {"__index_level_0__": "first"})]


@pytest.mark.parametrize(("name", "delimiter"), [("p.csv", ","), ("p.tsv", "\t")])
def test_quoted_delimiters_quotes_and_new_lines_belong_to_the_text(write_file, name, delimiter):
    content = 'text|topic\n"Yes| ""he"" said|\nand left"|talk\nplain|none\n'
    assert rows(read_prompts(write_file(name, content.replace("|", delimiter)))) == [
        ("0", f'Yes{delimiter} "he" said{delimiter}\nand left', {"topic": "talk"}),
        ("1", "plain", {"topic": "none"}),
    ]


def test_rows_without_an_id_are_numbered_and_blank_lines_do_not_count(write_file):
    path = write_file("p.csv", "text\n\nfirst\n\n\nsecond\n")
    assert rows(read_prompts(path)) == [("0", "first", {}), ("1", "second", {})]


@pytest.mark.parametrize(("name", "delimiter"), [("p.csv", ","), ("p.tsv", "\t")])
def test_an_empty_cell_of_a_table_is_a_missing_label(write_file, name, delimiter):
    lines = ["text,topic", "x,food", "y,", "z,  "]
    prompts = read_prompts(write_file(name, "\n".join(lines).replace(",", delimiter)))
    assert [dict(prompt.labels) for prompt in prompts] == [{"topic": "food"}, {}, {}]


def test_jsonl_gives_text_id_and_labels(write_file):
    lines = [
        '{"text": "caf\\u00e9", "id": 7, "topic": "food"}',
        "",
        '{"text": "猫", "topic": null}',
    ]
    assert rows(read_prompts(write_file("p.jsonl", "\n".join(lines)))) == [
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


TABLE = [
    {"id": "a", "question": CAT, "topic": "animals", "text": "other", "source": "x"},
    {"id": "b", "question": DOG, "topic": "pets", "text": "other", "source": "y"},
]


def write_table(path):
    table = pd.DataFrame(TABLE)
    if path.suffix == ".parquet":
        table.to_parquet(path, index=False)
    elif path.suffix == ".jsonl":
        table.to_json(path, orient="records", lines=True)
    else:
        table.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return path


@pytest.mark.parametrize("name", ["p.csv", "p.tsv", "p.jsonl", "p.parquet"])
def test_the_columns_of_texts_and_labels_are_chosen(tmp_path, name):
    path = write_table(tmp_path / name)
    chosen = read_prompts(path, text_column="question", label_columns=["topic"])
    assert rows(chosen) == [("a", CAT, {"topic": "animals"}), ("b", DOG, {"topic": "pets"})]
    every = read_prompts(path, text_column="question")
    assert [set(prompt.labels) for prompt in every] == [{"topic", "text", "source"}] * 2
    none = PromptFile.open(path, text_column="question", label_columns=[])
    assert rows(none) == [("a", CAT, {}), ("b", DOG, {})]
    assert (none.text_column, none.label_columns) == ("question", ())
    prompts = PromptFile.open(path, text_column="question", label_columns=["topic"])
    assert rows(prompts) == rows(prompts) == rows(chosen)
    assert prompts.digest == chosen.digest
    assert len({prompts.digest, every.digest, none.digest}) == 3


@pytest.mark.parametrize("name", ["p.csv", "p.tsv", "p.jsonl", "p.parquet"])
def test_a_missing_column_is_reported_with_the_existing_columns(tmp_path, name):
    path = write_table(tmp_path / name)
    columns = "id, question, topic, text, source"
    with pytest.raises(PromptError, match=f"'body'.*{columns}") as raised:
        read_prompts(path, text_column="body")
    assert [option.name for option in raised.value.options] == ["text_column"]
    with pytest.raises(PromptError, match=f"'subject' .*{columns}"):
        PromptFile.open(path, label_columns=["topic", "subject"])


def test_a_label_may_be_missing_only_if_no_label_columns_are_chosen(write_file):
    path = write_file("p.jsonl", '{"text": "x", "topic": "a"}\n{"text": "y"}\n')
    assert [dict(prompt.labels) for prompt in read_prompts(path)] == [{"topic": "a"}, {}]
    with pytest.raises(PromptError, match=r"line 2: .*'topic'"):
        read_prompts(path, label_columns=["topic"])


def test_a_text_file_has_no_other_columns(write_file):
    path = write_file("p.txt", "x\n")
    for options in ({"text_column": "body"}, {"label_columns": ["topic"]}):
        with pytest.raises(PromptError, match=r"\btext\b"):
            read_prompts(path, **options)


def test_only_chosen_columns_are_read_and_checked(tmp_path, write_file):
    path = write_file("p.csv", "text,a,a\nx,1,2\n")
    assert read_prompts(path, label_columns=[]).texts == ["x"]
    with pytest.raises(PromptError, match=r"line 1: .*\b2\b.*'a'"):
        read_prompts(path)
    days = pa.array([1, 5_000_000], pa.int32()).cast(pa.date32())
    pq.write_table(pa.table({"text": ["x", "y"], "day": days}), tmp_path / "p.parquet")
    assert read_prompts(tmp_path / "p.parquet", label_columns=[]).texts == ["x", "y"]


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=1))
@settings(max_examples=25)
def test_tables_preserve_any_text(texts):
    texts = [f"x{text}" for text in texts]
    table = pd.DataFrame({"text": texts, "topic": texts[::-1]})
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder, "p.csv"), Path(folder, "p.parquet"), Path(folder, "p.tsv")
        options = {"index": False, "lineterminator": "\n", "quoting": csv.QUOTE_ALL}
        table.to_csv(paths[0], **options)
        table.to_parquet(paths[1], index=False)
        table.to_csv(paths[2], sep="\t", **options)
        for prompts in map(read_prompts, paths):
            assert prompts.texts == texts
            assert [prompt.labels["topic"] for prompt in prompts] == texts[::-1]


@pytest.mark.parametrize("name", ["p.txt", "p.csv", "p.jsonl"])
def test_a_byte_order_mark_is_not_part_of_the_prompts(write_file, name):
    content = {"p.txt": "x\n", "p.csv": "text\nx\n", "p.jsonl": '{"text": "x"}\n'}[name]
    assert rows(read_prompts(write_file(name, content.encode("utf-8-sig")))) == [("0", "x", {})]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e"])
def test_other_separators_do_not_end_a_line(write_file, separator):
    text = f"one{separator}prompt"
    line = json.dumps({"text": text}, ensure_ascii=False)
    assert read_prompts(write_file("p.jsonl", line)).texts == [json.loads(line)["text"]]
    for name, header in (("p.txt", ""), ("p.csv", "text\n"), ("p.tsv", "text\n")):
        assert read_prompts(write_file(name, f"{header}{text}\n")).texts == [text]


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_lf_cr_and_both_end_a_line(write_file, end):
    lines = {"p.txt": ["a", "b"], "p.csv": ["text", "a", "b"], "p.tsv": ["text", "a", '"b"']}
    lines["p.jsonl"] = ['{"text": "a"}', '{"text": "b"}']
    for name, texts in lines.items():
        path = write_file(name, end.join(texts) + end)
        assert read_prompts(path).texts == ["a", "b"]
        positions = [prompt.position for prompt in PromptFile.open(path)]
        assert positions == [f"line {number}" for number in range(len(texts) - 1, len(texts) + 1)]
    assert read_prompts(write_file("p.csv", f'text{end}"a{end}b"{end}')).texts == [f"a{end}b"]


def test_labels_that_are_not_text_are_read_as_json(write_file):
    row = {"text": "x", "at": [1, 2], "of": {"k": "ä"}, "ok": True, "n": 3, "none": None}
    (prompt,) = read_prompts(write_file("p.jsonl", json.dumps(row)))
    assert prompt.labels == {"at": "[1, 2]", "of": '{"k": "ä"}', "ok": "true", "n": "3"}


def test_binary_labels_are_utf8(tmp_path):
    table = {"text": ["x"], "id": ["é".encode()], "topic": ["ü".encode()]}
    pq.write_table(pa.table(table), tmp_path / "p.parquet")
    assert rows(read_prompts(tmp_path / "p.parquet")) == [("é", "x", {"topic": "ü"})]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.csv", "id,text\n,x\nb,y\n"),
        ("p.jsonl", '{"text": "x", "id": null}\n{"text": "y", "id": "b"}'),
    ],
)
def test_a_row_whose_id_is_empty_is_numbered(write_file, name, content):
    assert read_prompts(write_file(name, content)).ids == ["0", "b"]


def test_the_suffix_may_be_in_capitals(write_file):
    assert read_prompts(write_file("P.CSV", "text\nx\n")).texts == ["x"]


@pytest.mark.parametrize("name", ["p.txt", "p.csv", "p.jsonl", "p.parquet"])
def test_a_prompt_file_can_be_iterated_over_repeatedly(tmp_path, name):
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
