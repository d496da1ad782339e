"""What a notebook shows of results and activations: one line, HTML and figures."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from html_page import HtmlPage
from layered import labelled_prompts

import neuroscope as ns
from neuroscope.reporting.plots.layout import page
from neuroscope.reporting.tables import Column, Section, Table
from neuroscope.studies.compare.experiment import compare_experiment
from neuroscope.studies.layers.experiment import layers_experiment
from neuroscope.studies.study import Findings, Results

HOSTILE = "<script>alert(1)</script> & \x1b[31m \u202e\n\"'>"
TEXTS = ["the cat sits .", "the dog sits .", f"the {HOSTILE} sits ."]
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def model(family_folder):
    return ns.load_model(str(family_folder("bert")))


@pytest.fixture(scope="module")
def comparison(model, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEUROSCOPE_HOME", str(tmp_path_factory.mktemp("home")))
        return ns.compare(model, TEXTS)


@pytest.fixture(scope="module")
def layers_result(model):
    return ns.layers(model, labelled_prompts(), probes=False)


@pytest.fixture(scope="module")
def acts(model):
    return ns.extract(model, TEXTS, ["resid_post", "mlp_act"])


def findings(headline="largest change"):
    table = Table(HOSTILE, [Column("pair")], [Section(HOSTILE, [[HOSTILE]] * 2000)])
    return Findings(headline, [table], (HOSTILE,))


def texts_of(html):
    """Return the parsed page, after checking that nothing in it was written as markup."""
    parsed = HtmlPage(html)
    assert {tag for tag, _ in parsed.elements}.isdisjoint({"script", "img", "a", "style"})
    return parsed


def one_line(value):
    """Return the `repr` of a value, which is short and has printable letters only."""
    text = repr(value)
    assert len(text) <= 100 and text.isprintable() and text.endswith(")")
    return text


def test_the_repr_of_a_result_names_its_model_site_and_counts(comparison, layers_result):
    name = Path(comparison.model).name
    assert one_line(comparison).startswith(f"Comparison({name}, resid_post, 2 layers, 3 pairs: ")
    start = f"LayersResult({name}, resid_post, 2 layers, 72 prompts: "
    assert one_line(layers_result).startswith(start)
    assert layers_result.headline[:15] in repr(layers_result)
    long = replace(layers_result, model="owner/" + "x" * 500, headline=HOSTILE * 50)
    assert "2 layers, 72 prompts: <script>" in one_line(long)


def test_the_repr_of_results_names_the_models_and_the_overview(comparison):
    name = Path(comparison.model).name
    assert one_line(Results([comparison])) == f"Results(1 result: {name})"
    both = Results([comparison, replace(comparison, model="minilm")], findings())
    assert one_line(both) == f"Results(2 results: {name}, minilm; largest change)"
    assert one_line(findings()) == "Findings(1 table: largest change)"
    assert one_line(findings(HOSTILE * 9)).startswith("Findings(1 table: <script>")
    assert "12 results" in one_line(Results([comparison] * 12, findings(HOSTILE)))


def test_the_repr_of_a_comparison_without_rows_is_short(comparison):
    assert "0 layers, 0 pairs" in one_line(replace(comparison, rows=(), pairs=()))


def test_the_repr_of_prompts_and_activations_is_short(acts, tmp_path):
    assert one_line(acts.prompts).startswith("PromptSet(3 prompts: 'the cat sits .', ")
    assert "1,000 prompts" in one_line(ns.PromptSet.of(["long " * 500] * 1000))
    path = tmp_path / ("p" * 120 + ".txt")
    path.write_text("a cat\na dog\n")
    assert one_line(ns.PromptFile.open(path)).startswith("PromptFile(2 prompts, 'ppp")
    assert one_line(acts).startswith("Activations(3 prompts, 4 sites, pool 'mean', model ")


def test_the_html_of_a_comparison_is_its_summary_with_headline_and_notes(comparison):
    noted = replace(comparison, notes=(HOSTILE,))
    parsed = texts_of(noted._repr_html_())
    values = comparison.values("cosine_z", "span")
    assert parsed.cells[:6] == ["pair", "layer 0", "layer 1", "cat vs dog"] + [
        f"{value:.3f}" for value in values[0]
    ]
    assert comparison.headline in parsed.text and HOSTILE in parsed.text
    assert Path(comparison.model).name in parsed.text


def test_the_html_of_a_study_of_layers_has_one_row_per_layer(layers_result):
    parsed = texts_of(layers_result._repr_html_())
    rows = [tag for tag, _ in parsed.elements].count("tr")
    assert rows == 1 + len(layers_result.layers)
    assert f"{layers_result.rows[0].anisotropy:.3f}" in parsed.cells
    assert layers_result.headline in parsed.text


def test_the_html_of_results_has_every_model_and_the_overview(comparison):
    both = Results([comparison, replace(comparison, model="minilm")], findings())
    parsed = texts_of(both._repr_html_())
    assert parsed.cells.count("cat vs dog") == 2 * comparison._repr_html_().count("cat vs dog</td>")
    assert "minilm, resid_post" in parsed.text and "largest change" in parsed.text
    assert parsed.cells.count(HOSTILE) == 2000
    assert "largest change" not in Results([comparison])._repr_html_()


def test_the_html_of_activations_lists_sites_shapes_and_dtypes(acts, model):
    parsed = texts_of(acts._repr_html_())
    assert parsed.cells[:3] == ["site", "shape", "dtype"]
    rows = [(str(site), str(acts[site].shape), "float32") for site in acts]
    assert parsed.cells[3:] == [cell for row in rows for cell in row]
    assert "3 prompts" in parsed.text and "'mean'" in parsed.text
    unsafe = replace(acts, provenance=replace(acts.provenance, model=HOSTILE))
    texts_of(unsafe._repr_html_())
    tokens = ns.extract(model, TEXTS[:2], "resid_post.1", pool="none")
    width = tokens["resid_post.1"][0].shape[1]
    assert f"2 arrays (tokens, {width}), 8 tokens" in texts_of(tokens._repr_html_()).cells


def test_the_figures_of_a_comparison_are_those_of_its_run(family_folder, database):
    tracker = ns.Tracker.open()
    experiment = compare_experiment([str(family_folder("bert"))], {"texts": [*TEXTS[:2], "a man"]})
    (recorded,) = ns.run_comparison(experiment, tracker)
    figures = recorded.figures()
    assert list(figures)[:2] == ["by_layer.png", "pairs_by_layer.png"]
    for name, figure in figures.items():
        assert tracker.artifact(recorded.run_id, f"plots/{name}").read_bytes() == (
            figure._repr_png_()
        )


def test_the_figures_of_a_study_of_layers_are_those_of_its_run(family_folder, database, tmp_path):
    tracker, path = ns.Tracker.open(), tmp_path / "prompts.txt"
    path.write_text("\n".join(prompt.text for prompt in labelled_prompts()))
    experiment = layers_experiment("x", [str(family_folder("bert"))], {"file": str(path)})
    (recorded,) = ns.run_layers(experiment, tracker)
    folder = tracker.artifact(recorded.run_id, "plots/cka.png").parent
    assert sorted(recorded.figures()) == sorted(file.name for file in folder.iterdir())


def test_a_figure_is_shown_without_pyplot(acts):
    site = "resid_post.1"
    figure = ns.plot_activations(acts[site][0], model="bert", site=site, prompt=HOSTILE)
    assert figure._repr_png_().startswith(PNG)
    assert page(1, "title", [])._repr_png_().startswith(PNG)


def test_importing_neuroscope_imports_no_library_for_figures_or_html():
    script = "import sys, neuroscope; print({'matplotlib', 'jinja2', 'pandas'} & set(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert printed.stdout.split() == [b"set()"]
