"""Names of sites and choices of layers."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroscope.errors import SiteError
from neuroscope.sites import COMPONENTS, Layers, Site, parse_site, resolve_sites

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


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_component_is_read_with_and_without_a_layer(component):
    assert parse_site(component) == (component, None)
    assert parse_site(f"{component}.0") == (component, 0)
    assert parse_site(f"{component}.31") == (component, 31)


@pytest.mark.parametrize(("name", "component"), TRANSFORMER_LENS.items())
def test_transformer_lens_names_mean_the_same_site(name, component):
    assert Site.parse(name) == Site(component, 7)


def test_every_alias_that_is_known_is_tested():
    from neuroscope.sites import _ALIASES

    assert {f"blocks.7.{name}": of for name, of in _ALIASES.items()} == TRANSFORMER_LENS


@given(st.sampled_from(list(COMPONENTS)), st.integers(0, 10_000))
@settings(deadline=None)
def test_a_site_reads_back_what_it_writes(component, layer):
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
        "blocks.2",
        "blocks.x.hook_out",
        "blocks.2.hook_out.extra",
        "blocks.2.attn.hook_pattern",
        "blocks.2.resid_post",
    ],
)
def test_an_unknown_site_is_refused_and_the_known_ones_named(text):
    with pytest.raises(SiteError) as refused:
        parse_site(text)
    message = str(refused.value)
    assert f"unknown site '{text}'" in message
    assert all(component in message for component in COMPONENTS)
    assert "resid_post.2" in message and "blocks.2.mlp.hook_post" in message


def test_a_near_miss_is_pointed_out():
    with pytest.raises(SiteError, match=r"Did you mean 'resid_post'\?"):
        parse_site("resid_pots.3")
    with pytest.raises(SiteError) as refused:
        parse_site("quite_something_else")
    assert "Did you mean" not in str(refused.value)


def test_a_site_needs_a_layer():
    with pytest.raises(SiteError, match=r"'mlp_act' names no layer: write .* 'mlp_act\.0'"):
        Site.parse("mlp_act")


def test_sites_sort_as_a_forward_pass_reaches_them():
    sites = [Site(component, layer) for component in sorted(COMPONENTS) for layer in (1, 0)]
    ordered = [str(site) for site in sorted(sites, key=lambda site: site.order)]
    assert ordered == [f"{component}.{layer}" for layer in (0, 1) for component in COMPONENTS]


@pytest.mark.parametrize(
    ("asked", "meant"),
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
def test_layers_are_read_in_every_spelling(asked, meant):
    assert Layers.parse(asked).resolve(12) == meant


@given(st.lists(st.integers(-8, 7), min_size=1), st.integers(8, 20))
@settings(deadline=None)
def test_listed_layers_are_those_that_python_indexes(layers, count):
    by_index = sorted({range(count)[layer] for layer in layers})
    assert list(Layers.parse(layers).resolve(count)) == by_index


def test_one_choice_of_layers_serves_models_of_different_depth():
    choice = Layers.parse("0,-1")
    assert choice.resolve(6) == (0, 5)
    assert choice.resolve(32) == (0, 31)
    assert choice.resolve(1) == (0,)


@pytest.mark.parametrize("layers", ["12", 12, "-13", "0-12", "-13-2", "3,40"])
def test_a_layer_that_does_not_exist_is_named_with_those_that_do(layers):
    with pytest.raises(SiteError, match=r"does not exist: .* 12 layers, 0 to 11 \(-1 is the last"):
        Layers.parse(layers).resolve(12)


@pytest.mark.parametrize("layers", ["5-2", "-1-3", "-1--3"])
def test_layers_that_run_backwards_are_refused(layers):
    with pytest.raises(SiteError, match="run backwards: write the lower layer first"):
        Layers.parse(layers).resolve(12)


@pytest.mark.parametrize(
    "layers", ["", " ", "x", "ALL", "1.5", "1-", "-", "1,,2", "1;2", "1:3", "0..5", [], [1.5], True]
)
def test_what_is_no_choice_of_layers_is_refused_with_examples(layers):
    with pytest.raises(SiteError) as refused:
        Layers.parse(layers)
    assert "cannot read layers" in str(refused.value)
    assert all(spelling in str(refused.value) for spelling in ("all", "'3'", "0-5", "2,4", "-1"))


def test_names_resolve_to_distinct_sites_in_forward_order():
    names = ["resid_post", "mlp_act.1", "blocks.1.mlp.hook_post", "resid_post.0"]
    found = resolve_sites(names, "0,2", 3)
    assert [str(site) for site in found] == [
        "resid_post.0",
        "mlp_act.1",
        "resid_post.2",
    ]


def test_a_name_with_its_layer_ignores_the_choice_of_layers():
    assert resolve_sites("mlp_out.2", "all", 3) == (Site("mlp_out", 2),)
    assert len(resolve_sites("mlp_out", "all", 3)) == 3


def test_resolving_refuses_what_the_model_does_not_have():
    with pytest.raises(SiteError, match="layer 3 does not exist: the model has 3 layers"):
        resolve_sites("mlp_out.3", "all", 3)
    with pytest.raises(SiteError, match=r"no sites were given: name at least one of resid_pre"):
        resolve_sites([], "all", 3)
    with pytest.raises(SiteError, match=r"layers '1' are for sites named without one, and each of"):
        resolve_sites(["mlp_out.2", "blocks.0.hook_mlp_out"], "1", 3)
    with pytest.raises(SiteError, match="unknown site 'mlp'"):
        resolve_sites(["resid_post", "mlp"], "all", 3)
