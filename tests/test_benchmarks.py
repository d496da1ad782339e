"""The benchmarks: their prompts, their tables, and that contenders compute the same values."""

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.utils.offload import OffloadedWeightsLoader

from benchmarks import tiles
from benchmarks.child import Failed, Run, run_contender
from benchmarks.contenders import OWN
from benchmarks.larger_than_memory import offloaded, streamed
from benchmarks.precision import worst_layers
from benchmarks.prompts import LONGEST, generate_prompts, lengths, load_prompts, write_texts
from benchmarks.random_checkpoint import Shape, ensure_checkpoint
from benchmarks.speed import (
    HEADER,
    ROWS,
    Result,
    Row,
    deviating,
    differences,
    result_of,
    table_rows,
    targets,
)
from benchmarks.tables import PERFORMANCE, machine, table, write_section
from benchmarks.volume import Extraction
from benchmarks.volume import targets as volume_targets
from neuroscope.extraction.checkpoints import find_checkpoint
from neuroscope.sites import LAYER_COMPONENTS


def test_generated_prompts_are_the_same_for_the_same_seed():
    assert generate_prompts(50) == generate_prompts(50)
    assert generate_prompts(50) != generate_prompts(50, seed=1)


@pytest.mark.parametrize("count", [1000, 20_000])
def test_generated_prompts_have_the_documented_lengths(count):
    words = lengths(count)
    assert sum(words) / count == pytest.approx(33, abs=0.5)
    assert words[count // 2] == 24
    assert words[-1] <= LONGEST
    assert words[0] >= 1


def test_generated_prompts_are_shuffled():
    prompts = generate_prompts(200)
    words = [len(prompt.split()) for prompt in prompts]
    assert sorted(words) == lengths(200)
    assert words != lengths(200)


def test_prompts_are_read_from_a_file(tmp_path: Path):
    texts = ["one, two", "three\nfour", '"five"']
    file = write_texts(tmp_path / "prompts.csv", texts)
    assert load_prompts(file, 3) == texts
    assert load_prompts(file, 2) == texts[:2]
    with pytest.raises(ValueError, match=r"\b3\b.*\b4\b"):
        load_prompts(file, 4)


def test_write_section_replaces_only_its_section(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- bench:x -->\nold\n<!-- /bench:x -->\nb\n<!-- bench:y -->c\n")
    for content in ("new", "newer"):
        write_section(page, "x", content)
        assert page.read_text() == (
            f"a\n<!-- bench:x -->\n{content}\n<!-- /bench:x -->\nb\n<!-- bench:y -->c\n"
        )


@pytest.mark.parametrize("section", ["y", "z"])
def test_a_section_that_is_missing_or_not_closed_is_refused(tmp_path: Path, section):
    page = tmp_path / "page.md"
    page.write_text("<!-- bench:y -->c\n")
    with pytest.raises(ValueError, match=f"bench:{section} "):
        write_section(page, section, "new")
    assert page.read_text() == "<!-- bench:y -->c\n"


@pytest.mark.parametrize(
    "section", ["speed", "tiles", "layers", "drift", "volume", "memory", "precision"]
)
def test_the_performance_page_has_every_section(section):
    text = PERFORMANCE.read_text(encoding="utf-8")
    assert text.count(f"<!-- bench:{section} -->") == text.count(f"<!-- /bench:{section} -->") == 1


def test_a_table_aligns_numbers_to_the_right():
    assert table(["a", "b"], [["x", "1"]]) == "| a | b |\n| --- | ---: |\n| x | 1 |"


def test_the_machine_line_has_cores_and_versions():
    assert "torch" in machine() and "cores" in machine()


def test_the_table_shows_figures_or_the_error_of_a_contender():
    results = {
        "plain-loop": Result(10, 50.0, 10**9, 1e-6, 1e-7),
        "bare-fp32": Result(10, 220.0, 10**9, 0.0, 0.0),
        "ours-fp32": Result(10, 200.0, 10**9, 2e-4, 1e-5),
        "nnsight": Failed("ModuleNotFoundError: No module named 'nnsight'"),
    }
    plain, bare, own, peer = table_rows(results)
    assert plain[3:] == ["50", "1.00", "-", "1,000", "1.0e-06 (1.0e-07)"]
    assert bare[-1] == "-"
    assert own[3:6] == ["200", "4.00", "1.10"]
    assert peer[1] == "does not run: ModuleNotFoundError: No module named 'nnsight'"
    assert {len(row) for row in (plain, bare, own, peer)} == {len(HEADER)}
    assert deviating(results) == ["ours-fp32"]
    assert targets(results) == [
        "- time / bare passes, float32: 1.10 (target: at most 1.10; met)",
        "- speed / plain loop, float32: 4.00 (target: at least 3; met)",
    ]


def test_missed_targets_are_marked(monkeypatch):
    monkeypatch.setattr("benchmarks.speed.cpu_flags", lambda: ["avx2"])
    results = {"plain-loop": Result(10, 50.0, 1, 0, 0), "ours-bf16": Result(10, 300.0, 1, 0, 0)}
    assert targets(results) == [
        "- speed / plain loop, bfloat16: 6.00 (target: at least 8; not met; meant for CPUs with"
        " AMX, which this one lacks)"
    ]
    small, large = (Extraction(10_000, 9.0, 8.0, 1000, 1), Extraction(100_000, 80.0, 50.0, 1056, 1))
    assert volume_targets([large, small]) == [
        "- time / bare passes, 100,000 prompts: 1.60 (target: at most 1.25; not met)",
        "- peak memory, 100,000 prompts / 10,000: 1.06 (target: at most 1.05; not met)",
    ]


def test_values_that_are_not_finite_deviate():
    values = {"resid_post.0": np.ones((2, 3)), "mlp_act.0": np.ones((2, 3))}
    wrong = values | {"resid_post.0": np.full((2, 3), np.nan)}
    assert differences(values, values) == (0, 0)
    result = Result(2, 1.0, 1, *differences(wrong, values))
    assert deviating({"ours-fp32": result}) == ["ours-fp32"]


def test_the_rate_of_few_prompts_is_scaled_to_the_mean_length_of_all():
    row = Row("slow", "`resid_post`", most=2)
    result = result_of(Run(2.0, 1, {}), row, ["a b", "a b", "a b c d e", "a b c"], {})
    assert (result.prompts, result.rate) == (2, pytest.approx(2 / 3))  # 2 words/s, 3 per prompt


def test_contenders_compute_the_same_values():
    prompts = generate_prompts(20)
    expected = OWN["hugging-face"](prompts).pooled
    assert len(expected) == 12
    for name, sites in (("ours-fp32", 12), ("ours-bf16", 12), ("plain-loop", 6), ("bare-fp32", 0)):
        outcome = OWN[name](prompts)
        assert len(outcome.pooled) == sites, name
        assert differences(outcome.pooled, expected)[0] < ROWS[name].tolerance, name
        assert outcome.seconds > 0, name


def test_tiles_are_compared_over_the_same_prompts():
    rows = tiles.measure(load_prompts(None, 12), ["float32"], rounds=1)
    assert [row[:2] for row in rows] == [["float32", str(tile)] for tile in tiles.TILES]
    tokens = [float(row[4]) for row in rows]
    assert tokens == sorted(tokens) and tokens[0] == 1 and float(rows[0][-1]) == 1


def test_precision_shows_the_worst_layer_of_each_component():
    full = {f"{name}.{layer}": np.eye(2) for name in LAYER_COMPONENTS for layer in range(3)}
    half = full | {f"{name}.1": np.array([[1, 0.03], [0.04, 1]]) for name in LAYER_COMPONENTS}
    worst = worst_layers(half, full)
    assert list(worst) == [f"{name}.1" for name in LAYER_COMPONENTS]
    assert worst["mlp_out.1"].cells() == ["0.99938", "0.99920", "3.50%", "4.00%"]


def test_a_run_through_a_child_process_returns_its_values(tmp_path: Path):
    texts = generate_prompts(3)
    run = run_contender("ours-fp32", write_texts(tmp_path / "prompts.csv", texts))
    expected = OWN["ours-fp32"](texts).pooled
    assert set(run.pooled) == set(expected)
    for site, rows in expected.items():
        np.testing.assert_allclose(run.pooled[site], rows, atol=1e-5)
    assert run.seconds > 0 and run.peak > 100e6


def test_a_contender_that_fails_in_its_process_reports_the_error(tmp_path: Path):
    with pytest.raises(Failed, match=r"missing\.csv"):
        run_contender("ours-fp32", tmp_path / "missing.csv")


SHAPE = Shape(layers=3, hidden=64, mlp=96, heads=4, kv_heads=2, vocabulary=50)


def test_streaming_gives_the_values_of_offload_and_fetches_the_weights_once(tmp_path, monkeypatch):
    arguments = Namespace(folder=tmp_path, prompts=6, batch=2, dtype="bfloat16", cold=False)
    monkeypatch.setattr(OffloadedWeightsLoader, "__getitem__", OffloadedWeightsLoader.__getitem__)
    ensure_checkpoint(tmp_path, SHAPE)
    checkpoint = find_checkpoint(str(tmp_path))
    activations, streamed_bytes = streamed(checkpoint, arguments)
    expected, offloaded_bytes = offloaded(checkpoint, arguments)
    for site, batches in activations.items():
        torch.testing.assert_close(torch.cat(batches), torch.cat(expected[site]), atol=0, rtol=0)
    outside_layers = 2 * (50 * 64 + 64)  # bfloat16: embeddings and the final norm
    assert offloaded_bytes == pytest.approx(
        3 * (streamed_bytes - outside_layers), rel=0.01
    )  # three batches


def test_a_checkpoint_of_another_shape_is_refused(tmp_path):
    ensure_checkpoint(tmp_path, SHAPE)
    ensure_checkpoint(tmp_path, SHAPE)
    with pytest.raises(ValueError, match="num_hidden_layers 3 "):
        ensure_checkpoint(tmp_path, replace(SHAPE, layers=4))
