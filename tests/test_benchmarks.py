"""The benchmarks: their prompts, their tables, and that contenders read the same values."""

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.utils.offload import OffloadedWeightsLoader

from benchmarks.child import Failed, Run
from benchmarks.contenders import OWN
from benchmarks.larger_than_memory import make_checkpoint, offloaded, streamed
from benchmarks.prompts import LONGEST, lengths, load_prompts, make_prompts, write_texts
from benchmarks.speed import HEADER, ROWS, Result, Row, aims, astray, differences, lines, result_of
from benchmarks.tables import PERFORMANCE, machine, table, write_section
from benchmarks.volume import Extraction
from benchmarks.volume import aims as volume_aims
from neuroscope.extraction.checkpoints import find_checkpoint


def test_made_prompts_are_the_same_for_the_same_seed():
    assert make_prompts(50) == make_prompts(50)
    assert make_prompts(50) != make_prompts(50, seed=1)


@pytest.mark.parametrize("count", [1000, 20_000])
def test_made_prompts_have_the_promised_lengths(count):
    words = lengths(count)
    assert sum(words) / count == pytest.approx(33, abs=0.5)
    assert words[count // 2] == 24
    assert words[-1] <= LONGEST
    assert words[0] >= 1


def test_made_prompts_are_as_long_as_their_lengths_say():
    prompts = make_prompts(200)
    assert sorted(len(one.split()) for one in prompts) == lengths(200)
    assert [len(one.split()) for one in prompts] != lengths(200)  # in random order


def test_prompts_are_read_from_a_file(tmp_path: Path):
    texts = ["one, two", "three\nfour", '"five"']
    file = write_texts(tmp_path / "prompts.csv", texts)
    assert load_prompts(file, 3) == texts
    assert load_prompts(file, 2) == texts[:2]
    with pytest.raises(ValueError, match="holds 3 prompts, 4 are asked for"):
        load_prompts(file, 4)


def test_only_its_section_is_replaced(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- bench:x -->\nold\n<!-- /bench:x -->\nb\n<!-- bench:y -->c\n")
    for content in ("new", "newer"):
        write_section(page, "x", content)
        assert page.read_text() == (
            f"a\n<!-- bench:x -->\n{content}\n<!-- /bench:x -->\nb\n<!-- bench:y -->c\n"
        )


@pytest.mark.parametrize("section", ["y", "z"])
def test_a_section_that_is_not_there_or_not_closed_is_refused(tmp_path: Path, section):
    page = tmp_path / "page.md"
    page.write_text("<!-- bench:y -->c\n")
    with pytest.raises(ValueError, match=f"no section <!-- bench:{section} -->"):
        write_section(page, section, "new")
    assert page.read_text() == "<!-- bench:y -->c\n"


@pytest.mark.parametrize("section", ["speed", "volume", "memory", "precision"])
def test_the_page_has_every_section(section):
    text = PERFORMANCE.read_text(encoding="utf-8")
    assert text.count(f"<!-- bench:{section} -->") == text.count(f"<!-- /bench:{section} -->") == 1


def test_a_table():
    assert table(["a", "b"], [["x", "1"]]) == "| a | b |\n| --- | ---: |\n| x | 1 |"


def test_the_machine_is_named():
    assert "torch" in machine() and "cores" in machine()


def test_what_does_not_run_says_why():
    results = {
        "plain-loop": Result(10, 50.0, 10**9, 1e-6, 1e-7),
        "bare-fp32": Result(10, 220.0, 10**9, 0.0, 0.0),
        "ours-fp32": Result(10, 200.0, 10**9, 2e-4, 1e-5),
        "nnsight": Failed("ModuleNotFoundError: No module named 'nnsight'"),
    }
    plain, bare, own, peer = lines(results)
    assert plain[3:] == ["50", "1.00", "-", "1,000", "1.0e-06 (1.0e-07)"]
    assert bare[-1] == "-"
    assert own[3:6] == ["200", "4.00", "1.10"]
    assert peer[1] == "does not run: ModuleNotFoundError: No module named 'nnsight'"
    assert {len(row) for row in (plain, bare, own, peer)} == {len(HEADER)}
    assert astray(results) == ["ours-fp32"]
    assert aims(results) == [
        "- time / bare passes, float32: 1.10; at most 1.10 is aimed at, reached",
        "- speed / plain loop, float32: 4.00; at least 3 is aimed at, reached",
    ]


def test_aims_that_are_missed_say_so(monkeypatch):
    monkeypatch.setattr("benchmarks.speed.cpu_flags", lambda: ["avx2"])
    results = {"plain-loop": Result(10, 50.0, 1, 0, 0), "ours-bf16": Result(10, 300.0, 1, 0, 0)}
    assert aims(results) == [
        "- speed / plain loop, bfloat16: 6.00; at least 8 is aimed at, not reached (meant for CPUs"
        " with AMX, which this one has not)"
    ]
    small, large = (Extraction(10_000, 9.0, 8.0, 1000, 1), Extraction(100_000, 80.0, 50.0, 1056, 1))
    assert volume_aims([large, small]) == [
        "- time / bare passes, 100,000 prompts: 1.60; at most 1.25 is aimed at, not reached",
        "- peak memory, 100,000 prompts / 10,000: 1.06; at most 1.05 is aimed at, not reached",
    ]


def test_values_that_are_not_finite_are_no_agreement():
    values = {"resid_post.0": np.ones((2, 3)), "mlp_act.0": np.ones((2, 3))}
    wrong = values | {"resid_post.0": np.full((2, 3), np.nan)}
    assert differences(values, values) == (0, 0)
    result = Result(2, 1.0, 1, *differences(wrong, values))
    assert astray({"ours-fp32": result}) == ["ours-fp32"]


def test_few_prompts_are_scaled_to_the_mean_length_of_all():
    row = Row("slow", "`resid_post`", most=2)
    result = result_of(Run(2.0, 1, {}), row, ["a b", "a b", "a b c d e", "a b c"], {})
    assert (result.prompts, result.rate) == (2, pytest.approx(2 / 3))  # 2 words/s, 3 a prompt


def test_contenders_read_the_same_values():
    prompts = make_prompts(20)
    expected = OWN["hugging-face"](prompts).pooled
    assert len(expected) == 12
    for name, sites in (("ours-fp32", 12), ("ours-bf16", 12), ("plain-loop", 6), ("bare-fp32", 0)):
        outcome = OWN[name](prompts)
        assert len(outcome.pooled) == sites, name
        assert differences(outcome.pooled, expected)[0] < ROWS[name].tolerance, name
        assert outcome.seconds > 0, name


def test_streaming_finds_what_offload_finds_and_fetches_the_weights_once(tmp_path, monkeypatch):
    shape = {"layers": 3, "hidden": 64, "mlp": 96, "heads": 4, "kv_heads": 2, "vocabulary": 50}
    given = Namespace(folder=tmp_path, prompts=6, batch=2, dtype="bfloat16", cold=False, **shape)
    monkeypatch.setattr(OffloadedWeightsLoader, "__getitem__", OffloadedWeightsLoader.__getitem__)
    make_checkpoint(given)
    checkpoint = find_checkpoint(str(tmp_path))
    one, once = streamed(checkpoint, given)
    other, often = offloaded(checkpoint, given)
    for site, batches in one.items():
        torch.testing.assert_close(torch.cat(batches), torch.cat(other[site]), atol=0, rtol=0)
    outside = 2 * (50 * 64 + 64)  # bfloat16: embeddings and the final norm
    assert often == pytest.approx(3 * (once - outside), rel=0.01)  # three batches
