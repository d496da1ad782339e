"""Names of sites and choices of layers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroscope.errors import SiteError
from neuroscope.sites import (
    COMPONENTS,
    LAYER_COMPONENTS,
    Layers,
    Site,
    parse_site,
    resolve_sites,
)

TRANSFORMER_LENS = {
    "blocks.7.hook_resid_pre": "resid_pre",
    "blocks.7.hook_in": "resid_pre",
    "blocks.7.hook_attn_out": "attn_out",
    "blocks.7.attn.hook_out": "attn_out",
    "blocks.7.mlp.hook_post": "mlp_act",
    "blocks.7.mlp.out.hook_in": "mlp_act",
    "blocks.7.hook_mlp_out": "mlp_out",
    "blocks.7.mlp.hook_out": "mlp_out",
    "blocks.7.hook_resid_post": "resid_post",
    "blocks.7.hook_out": "resid_post",
}
AFTER_THE_LAYERS = ("final", "logits")


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_component_parses_with_and_without_a_layer(component):
    assert parse_site(component) == (component, None)
    assert parse_site(f"{component}.0") == (component, 0)
    assert parse_site(f"{component}.31") == (component, 31)


@pytest.mark.parametrize(("name", "component"), TRANSFORMER_LENS.items())
def test_transformer_lens_names_are_aliases(name, component):
    assert Site.parse(name) == Site(component, 7)


def test_every_alias_is_tested():
    from neuroscope.sites import _ALIASES

    aliases = {f"blocks.7.{name}": component for name, component in _ALIASES.items()}
    assert aliases == TRANSFORMER_LENS


@given(st.sampled_from(list(COMPONENTS)), st.integers(0, 10_000))
def test_a_site_parses_from_its_own_text(component, layer):
    assert Site.parse(str(Site(component, layer))) == Site(component, layer)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "resid",
        "resid_post.",
        "resid_post.-1",
        "resid_post.x",
        "resid_post.1.2",
        "resid_post.1 ",
        "resid_post 1",
        "RESID_POST.1",
        "final.-1",
        "blocks.2",
        "blocks.x.hook_out",
        "blocks.2.hook_out.extra",
        "blocks.2.attn.hook_pattern",
        "blocks.2.resid_post",
    ],
)
def test_an_unknown_name_raises_an_error_that_lists_the_known_ones(text):
    with pytest.raises(SiteError) as raised:
        parse_site(text)
    message = str(raised.value)
    assert f"'{text}'" in message
    assert all(component in message for component in COMPONENTS)
    assert "resid_post.2" in message and "blocks.2.mlp.hook_post" in message


def test_the_error_suggests_a_similar_name():
    with pytest.raises(SiteError, match=r"(?i)did you mean 'resid_post'"):
        parse_site("resid_pots.3")
    with pytest.raises(SiteError) as raised:
        parse_site("quite_something_else")
    assert "did you mean" not in str(raised.value).lower()


@pytest.mark.parametrize("name", ["mlp_act", "final"])
def test_a_single_site_needs_a_layer(name):
    with pytest.raises(SiteError, match=rf"'{name}'.*'{name}\.0'"):
        Site.parse(name)


def test_sites_sort_in_forward_order():
    sites = [Site(component, layer) for component in sorted(COMPONENTS) for layer in (1, 0)]
    ordered = [str(site) for site in sorted(sites, key=lambda site: site.order)]
    assert ordered == [f"{component}.{layer}" for layer in (0, 1) for component in COMPONENTS]


def test_components_of_every_layer_come_before_those_after_the_layers():
    assert tuple(COMPONENTS) == (*LAYER_COMPONENTS, *AFTER_THE_LAYERS)


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("all", tuple(range(12))),
        ("3", (3,)),
        (3, (3,)),
        (0, (0,)),
        ("0-5", (0, 1, 2, 3, 4, 5)),
        ("4-4", (4,)),
        ("2,4", (2, 4)),
        ("4,2,4", (2, 4)),
        (" 2 , 4-5 ", (2, 4, 5)),
        ("-1", (11,)),
        (-1, (11,)),
        ("-12", (0,)),
        ("9--1", (9, 10, 11)),
        ("-3--1", (9, 10, 11)),
        ("0-2,-1", (0, 1, 2, 11)),
        ("0-3,2-4", (0, 1, 2, 3, 4)),
        ("2,all", tuple(range(12))),
        ([2, 4], (2, 4)),
        ((5, -1), (5, 11)),
        (range(2), (0, 1)),
    ],
)
def test_every_spelling_of_layers_is_read(text, layers):
    assert Layers.parse(text).resolve(12) == layers


@given(st.lists(st.integers(-8, 7), min_size=1), st.integers(8, 20))
def test_listed_layers_are_those_that_python_indexes(layers, count):
    by_index = sorted({range(count)[layer] for layer in layers})
    assert list(Layers.parse(layers).resolve(count)) == by_index


def test_one_choice_of_layers_fits_models_of_different_depth():
    choice = Layers.parse("0,-1")
    assert choice.resolve(6) == (0, 5)
    assert choice.resolve(32) == (0, 31)
    assert choice.resolve(1) == (0,)


@pytest.mark.parametrize("layers", ["12", 12, "-13", "0-12", "-13-2", "3,40"])
def test_an_error_names_the_layers_that_exist(layers):
    with pytest.raises(SiteError, match=r"\b12\b.*\b0 to 11\b"):
        Layers.parse(layers).resolve(12)


@pytest.mark.parametrize("layers", ["5-2", "-1-3", "-1--3"])
def test_a_descending_range_raises_an_error(layers):
    with pytest.raises(SiteError, match=f"layers {layers} "):
        Layers.parse(layers).resolve(12)


@pytest.mark.parametrize(
    "layers", ["", " ", "x", "ALL", "1.5", "1-", "-", "1,,2", "1;2", "1:3", "0..5", [], [1.5], True]
)
def test_unreadable_layers_raise_an_error_with_examples(layers):
    with pytest.raises(SiteError) as raised:
        Layers.parse(layers)
    assert all(spelling in raised.value.remedy for spelling in ("all", "3", "0-5", "2,4", "-1"))


def test_names_resolve_to_distinct_sites_in_forward_order():
    names = ["final", "resid_post", "mlp_act.1", "blocks.1.mlp.hook_post", "resid_post.0"]
    sites = resolve_sites(names, "0,2", 3)
    assert list(map(str, sites)) == ["resid_post.0", "mlp_act.1", "resid_post.2", "final.2"]


def test_a_name_with_a_layer_ignores_the_choice_of_layers():
    assert resolve_sites("mlp_out.2", "all", 3) == (Site("mlp_out", 2),)
    assert len(resolve_sites("mlp_out", "all", 3)) == 3


@pytest.mark.parametrize("component", AFTER_THE_LAYERS)
def test_sites_after_the_layers_exist_once(component):
    last = (Site(component, 5),)
    assert resolve_sites(component, "all", 6) == last
    assert resolve_sites(f"{component}.5", "all", 6) == last
    assert resolve_sites([component, "mlp_out"], "0", 6) == (Site("mlp_out", 0), *last)
    for layer in range(5):
        with pytest.raises(SiteError, match=rf"{component}\.{layer} .*'{component}\.5'"):
            resolve_sites(f"{component}.{layer}", "all", 6)
    with pytest.raises(SiteError, match="layers '2'"):
        resolve_sites(component, "2", 6)


def test_a_site_is_checked_against_the_number_of_layers():
    Site("mlp_out", 2).check(3)
    Site("logits", 2).check(3)
    for site in (Site("mlp_out", 3), Site("logits", 1), Site("final", 3)):
        with pytest.raises(SiteError):
            site.check(3)


@pytest.mark.parametrize(
    ("names", "layers", "data"),
    [
        ("mlp_out.3", "all", r"layer 3\b.*\b3 layers"),
        ([], "all", "resid_pre, attn_out"),
        (["mlp_out.2", "blocks.0.hook_mlp_out"], "1", "layers '1' .*mlp_out.2, blocks.0"),
        (["resid_post", "mlp"], "all", "'mlp'"),
    ],
)
def test_sites_that_a_model_does_not_have_raise_an_error(names, layers, data):
    with pytest.raises(SiteError, match=data):
        resolve_sites(names, layers, 3)
