"""Prompt files that are refused, with the file and the line."""

import re

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neuroscope.errors import NeuroscopeError, PromptError
from neuroscope.prompt_files import PromptFile, read_prompts


def refusal(path, **options):
    """Return the error for a prompt file, after a check that it names the file."""
    with pytest.raises(PromptError) as raised:
        read_prompts(path, **options)
    assert str(path) in raised.value.problem
    with pytest.raises(PromptError):
        PromptFile.open(path, **options)
    return raised.value


@pytest.mark.parametrize(
    ("name", "content", "location", "data"),
    [
        ("p.csv", "title,topic\nx,y\n", "line 1", "'text'.*title, topic"),
        ("p.csv", "", "p.csv", "no prompts"),
        ("p.csv", "text,topic\nx,y\nYes, he said,z\n", "line 3", "2 columns"),
        ("p.csv", "text,topic\nx\n", "line 2", "2 columns"),
        ("p.tsv", "text\ttopic\nx\ty\tz\n", "line 2", "2 columns"),
        ("p.csv", "text,topic\nx,y\n  ,z\n", "line 3", "'text'"),
        ("p.csv", 'text\n"x\ny"\n" "\n', "line 4", "'text'"),
        ("p.csv", 'text\nx\n"y\nz\n', "line 3", "end of data"),
        ("p.csv", 'text\nx\n"y" z\n', "line 3", "','"),
        ("p.csv", '"text\nx\n', "line 1", "end of data"),
        ("p.csv", '"te"xt,topic\nx,y\n', "line 1", "','"),
        ("p.csv", "text\n" + "a" * 200_000, "line 2", "131072"),
        ("p.csv", "text,a,text\nx,y,z\n", "line 1", "2 .*'text'"),
        ("p.jsonl", '{"text": "x"}\n\n{"text": \n', "line 3", "JSON"),
        ("p.jsonl", '{"text": "x"}\n["y"]\n', "line 2", "JSON"),
        ("p.jsonl", '{"text": "x"}\n{"text": 3}\n', "line 2", "3"),
        ("p.jsonl", '{"topic": "x"}\n', "line 1", "'text'.*topic"),
        ("p.jsonl", "[" * 100_000, "line 1", "JSON"),
        ("p.jsonl", '{"text": "x", "n": ' + "1" * 5000 + "}", "line 1", "JSON"),
        ("p.jsonl", '{"text": "a \\ud83d"}\n', "line 1", "prompt 'a"),
        ("p.jsonl", '{"text": "a", "id": "\\ud83d"}\n', "line 1", "ud83d"),
        ("p.jsonl", '{"text": "a", "topic": "\\ud83d"}\n', "line 1", "prompt 'a"),
        ("p.jsonl", '{"text": "x"}\n{"text": "a", "id": "\\u0000"}\n', "line 2", "NUL"),
        ("p.jsonl", '{"text": "x"}\n{"text": "first", "text": "second"}\n', "line 2", "'text'"),
        ("p.jsonl", '{"text": "x", "a": {"b": 1, "b": 2}}\n', "line 1", "'b'"),
        ("p.jsonl", '{"text": "x"}\n{"text": "y", "a": -1e400}\n', "line 2", "-1e400"),
        ("p.jsonl", '{"text": "x", "a": [NaN]}\n', "line 1", "NaN"),
        ("p.jsonl", '{"text": "x", "topic": "a", " topic": "b"}\n', "line 1", "2 .*'topic'"),
        ("p.csv", "text,topic, topic\nx,y,z\n", "line 1", "2 .*'topic'"),
        ("p.csv", "text,topic\n\ufeffx,y\n", "line 2", "byte order mark"),
        ("p.csv", "id,text\na,x\nb,y\n\na,z\n", "line 5", "'a'"),
        ("p.txt", "x\ny\0z\n", "line 2", "NUL"),
        ("p.csv", "text,topic\nx,y\nx,y\0z\n", "line 3", "NUL"),
        ("p.jsonl", '{"text": "x\0"}\n', "line 1", "NUL"),
        ("p.txt", "x\n\ufeffy\n", "line 2", "byte order mark"),
        ("p.csv", "id;text\na;x\n", "line 1", "'id;text'.*';'"),
        ("p.csv", '"id";"text"\n"a";"x"\n', "line 1", "';'"),
        ("p.csv", "id\ttext\na\tx\n", "line 1", r"'\\t'"),
        ("p.tsv", "sentence,topic\nx,y\n", "line 1", "'sentence,topic'.*','"),
    ],
)
def test_a_malformed_file_is_refused_with_its_line(tmp_path, name, content, location, data):
    (tmp_path / name).write_text(content, newline="")
    problem = refusal(tmp_path / name).problem
    assert location in problem and re.search(data, problem)


@pytest.mark.parametrize(
    ("name", "content", "columns"),
    [
        ("p.csv", "id,topic,sentence\na1,animals,The cat sat down\n", ["sentence"]),
        ("p.tsv", "id\tsentence\ttopic\na1\tThe cat sat down\tanimals\n", ["sentence"]),
        ("p.csv", "id,n\nThe cat sat,3\n", []),
        ("p.csv", "id,n\n", []),
        ("p.csv", 'sentence,n\n"x,3\n', []),
        ("p.csv", "sentence,n\nx\n", ["sentence"]),
        ("p.jsonl", '{"id": "some id", "n": 3, "question": "Is it?"}\n', ["question"]),
    ],
)
def test_the_column_that_looks_like_text_is_suggested(tmp_path, name, content, columns):
    (tmp_path / name).write_text(content)
    assert [option.value for option in refusal(tmp_path / name).options] == columns


def test_a_column_of_a_parquet_file_is_suggested(tmp_path):
    table = pd.DataFrame({"id": ["some long id"], "n": [3], "question": ["Is it?"]}, index=["abc"])
    table.to_parquet(tmp_path / "p.parquet")
    assert [option.value for option in refusal(tmp_path / "p.parquet").options] == ["question"]


def test_a_faulty_row_of_a_parquet_file_is_reported(tmp_path):
    path = tmp_path / "p.parquet"
    pd.DataFrame({"text": ["x"] * 5000 + [None]}).to_parquet(path)
    problem = refusal(path).problem
    assert "row 5001" in problem and "'text'" in problem
    pd.DataFrame({"title": ["x"], "topic": ["y"]}).to_parquet(path)
    problem = refusal(path).problem
    assert "'text'" in problem and "title, topic" in problem
    days = pa.array([1, 5_000_000], pa.int32()).cast(pa.date32())
    times = pa.array([1, 1], pa.timestamp("s", tz="No/Where"))
    for name, column in (("day", days), ("time", times)):
        pq.write_table(pa.table({"text": ["x", "y"], name: column}), path)
        problem = refusal(path).problem
        assert "rows 1 to 2" in problem and f"'{name}'" in problem


@pytest.mark.parametrize("name", ["p.txt", "p.csv", "p.tsv", "p.jsonl"])
def test_a_file_that_is_not_utf8_is_refused_with_its_line(tmp_path, name):
    first, second = ('{"text": "a"}', '{"text": "café"}') if name == "p.jsonl" else ("text", "café")
    for end in ("\n", "\r", "\r\n"):
        (tmp_path / name).write_bytes(f"{first}{end}{second}{end}".encode("latin-1"))
        refused = refusal(tmp_path / name)
        assert "line 2" in refused.problem and "0xe9" in refused.problem
        assert "UTF-8" in refused.remedy
    for encoding in ("utf-16", "utf-32", "utf-16-le", "utf-16-be", "utf-32-le"):
        (tmp_path / name).write_bytes(f"{first}\n{second}\n".encode(encoding))
        refused = refusal(tmp_path / name)
        assert "line 1" in refused.problem and "UTF-8" in refused.remedy


@pytest.mark.parametrize("content", ["text\nx\n", "", "PAR1"])
def test_a_file_that_is_not_parquet_is_refused(tmp_path, content):
    (tmp_path / "p.parquet").write_text(content)
    assert "Parquet" in refusal(tmp_path / "p.parquet").problem


@pytest.mark.parametrize("name", ["p.md", "p", "p.txt.gz"])
def test_a_file_of_another_kind_is_refused_with_the_known_kinds(tmp_path, name):
    (tmp_path / name).write_text("x")
    remedy = refusal(tmp_path / name).remedy
    assert all(kind in remedy for kind in (".txt", ".csv", ".tsv", ".jsonl", ".parquet"))


def test_a_missing_file_is_refused(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    refusal(tmp_path / "folder.csv")
    refusal(tmp_path / "none.txt")
    with pytest.raises(NeuroscopeError, match="~nobody-of-that-name"):
        read_prompts("~nobody-of-that-name/p.txt")


def test_a_file_that_disappears_is_refused(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("x")
    prompts = PromptFile.open(path)
    path.unlink()
    with pytest.raises(PromptError, match=str(path)):
        list(prompts)


@pytest.mark.parametrize(
    ("name", "content"), [("p.txt", " \n\n"), ("p.csv", "text\n"), ("p.jsonl", "")]
)
def test_a_file_without_prompts_is_refused(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    refusal(tmp_path / name)
