"""The interface in a browser: type prompts, choose a neuron, watch it, keep it, find it again."""

import json
import os
import re
from urllib.parse import quote

import pytest
from browsers import open_browser
from PIL import Image

from benchmarks.interface import served
from neuroscope import Tracker

PROMPTS = ["the cat sits on the mat .", "the dog sits on the mat ."]
HOSTILE = [
    '<script>document.title="x"</script> cat',
    '"><img src=x onerror="document.title=\'x\'"> dog',
]
SIZES = {
    "phone": {"width": 390, "height": 800},
    "laptop": {"width": 1280, "height": 800},
    "desktop": {"width": 1920, "height": 1080},
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ui_home(tmp_path_factory):
    return tmp_path_factory.mktemp("ui")


@pytest.fixture(scope="module")
def address(ui_home, family_folder):
    with served(ui_home, str(family_folder("bert"))) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


@pytest.fixture
def page(browser, address):
    """Return a page of the interface; at the end, nothing may have failed in it."""
    faults, hosts = [], set()
    context = browser.new_context(viewport=SIZES["laptop"])
    page = context.new_page()
    page.set_default_timeout(30_000)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
    page.goto(address)
    yield page
    context.close()
    assert faults == [] and hosts == {address.split("/")[2]}


def read_prompts(page, prompts=PROMPTS):
    """Type prompts and read them."""
    page.locator("#prompt-1").wait_for()
    for index, prompt in enumerate(prompts):
        page.fill(f"#prompt-{index}", prompt)
    page.get_by_role("button", name="Read the neurons").click()
    page.get_by_role("heading", name="All layers:").wait_for()


def choose_neuron(page):
    """Click a layer and a neuron of its grid; return the name of the neuron."""
    page.locator(".overview canvas").click(position={"x": 100, "y": 5})
    page.locator(".layer canvas").click(position={"x": 40, "y": 30})
    page.get_by_role("heading", name="Token by token").wait_for()
    return page.locator(".neuron h2").inner_text().split()[0]


def test_from_prompts_to_a_neuron_that_is_kept(page, address, ui_home, monkeypatch):
    read_prompts(page)
    name = choose_neuron(page)
    layer, unit = name.split(".")[1:]
    assert f"/L{layer}/N{unit}?" in page.url and "p=the+cat" in page.url
    page.locator(".neuron button.watch").click()
    page.fill("input[name=note]", "a first look")
    page.get_by_role("button", name="Save this session").click()
    page.get_by_role("link", name="Open the session").wait_for()

    watched = page.url
    page.reload()  # the address holds everything
    page.get_by_role("heading", name="Token by token").wait_for()
    assert page.url == watched
    assert page.locator(".neuron h2").inner_text().split()[0] == name
    assert page.locator(".watched td button.link").inner_text() == name

    page.get_by_role("link", name="Sessions").click()
    page.get_by_role("link", name="cat vs dog").click()
    page.get_by_role("heading", name="a first look").wait_for()
    assert page.get_by_role("cell", name=name, exact=True).count() == 1
    with page.expect_download() as download:
        page.get_by_role("link", name="JSON").click()
    session = json.loads(download.value.path().read_text(encoding="utf-8"))
    assert session["prompts"] == PROMPTS and session["watched"][0]["neuron"] == name
    page.get_by_role("link", name="Read the prompts again").click()
    page.get_by_role("heading", name="All layers:").wait_for()
    assert page.locator(".watched td button.link").inner_text() == name
    monkeypatch.setenv("NEUROSCOPE_HOME", str(ui_home))
    assert Tracker.connect().find_runs("probe")[0].params["note"] == "a first look"


def test_the_back_button_returns_to_the_neuron_before(page):
    read_prompts(page)
    first = choose_neuron(page)
    page.locator(".layer canvas").click(position={"x": 80, "y": 60})
    page.locator(".neuron h2", has_text=first).wait_for(state="detached")
    page.go_back()
    page.locator(".neuron h2", has_text=first).wait_for()


def test_the_keyboard_alone_leads_to_a_neuron(page):
    page.locator("#prompt-0").focus()
    page.keyboard.press("Control+Enter")
    page.get_by_role("heading", name="All layers:").wait_for()
    page.locator(".overview canvas").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.get_by_role("heading", name="Layer 1:").wait_for()
    page.keyboard.press("Enter")
    for key in ("ArrowRight", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    page.get_by_role("heading", name="Token by token").wait_for()
    page.keyboard.press("w")
    assert page.locator(".watched tbody tr").count() == 1
    table = page.get_by_role("heading", name="Strongest neurons of layer 1")
    assert table.count() == 1  # the same values as text


def test_nothing_that_is_typed_becomes_part_of_the_page(page):
    read_prompts(page, HOSTILE)
    choose_neuron(page)
    page.fill("input[name=note]", HOSTILE[0])
    page.get_by_role("button", name="Save this session").click()
    page.get_by_role("link", name="Open the session").click()
    page.get_by_role("heading", name="document.title").wait_for()
    page.get_by_role("link", name="Sessions").click()
    page.locator("td", has_text="document.title").first.wait_for()
    assert page.title() == "neuroscope" and page.locator("img").count() == 0


def test_the_threshold_leaves_the_strongest_neurons_visible(page):
    read_prompts(page)
    hits = [int(text) for text in page.locator(".hits span:last-child").all_inner_texts()]
    assert sum(hits) > 0
    slider = page.locator(".threshold input")
    slider.fill("0")
    shown = [int(text) for text in page.locator(".hits span:last-child").all_inner_texts()]
    assert sum(shown) > sum(hits)


def test_a_box_of_neurons_is_watched(page):
    read_prompts(page)
    page.locator(".overview canvas").click(position={"x": 100, "y": 5})
    grid = page.locator(".layer canvas").bounding_box()
    page.mouse.move(grid["x"] + 10, grid["y"] + 10)
    page.mouse.down()
    page.mouse.move(grid["x"] + grid["width"] / 2, grid["y"] + grid["height"] / 2, steps=4)
    page.mouse.up()
    button = page.get_by_role("button", name="selected")
    count = int(re.search(r"\d+", button.inner_text())[0])
    button.click()
    assert count > 1 and page.locator(".watched tbody tr").count() == count
    assert page.url.count("watch=") == count


def test_silencing_tells_what_changes(page):
    read_prompts(page)
    choose_neuron(page)
    page.get_by_role("button", name="Silence it").click()
    page.get_by_text("Change of the representation: A ").wait_for()


def test_a_list_that_is_pasted_fills_a_template(page):
    page.locator("#prompt-0").wait_for()
    page.get_by_role("button", name="remove prompt B").click()
    page.fill("#prompt-0", "")
    page.evaluate(
        """() => {
            const data = new DataTransfer();
            data.setData("text", "cat\\ndog\\nman");
            const event = new ClipboardEvent("paste", { clipboardData: data, cancelable: true });
            document.querySelector("#prompt-0").dispatchEvent(event);
        }"""
    )
    page.locator("summary", has_text="Template").click()
    page.fill("input[name=template]", "the {} sits $& .")
    page.get_by_role("button", name="Read the neurons").click()
    page.get_by_role("heading", name="All layers:").wait_for()
    assert page.url.count("p=the+") == 3 and "p=the+man+sits+%24%26+." in page.url
    page.get_by_label("of prompt").select_option("C")
    page.get_by_role("heading", name="z of C").wait_for()


def test_every_reading_saves_itself_and_sessions_are_compared(page):
    read_prompts(page)
    name = choose_neuron(page)
    page.locator(".neuron button.watch").click()
    page.get_by_label("Save every reading by itself").check()
    for texts in (PROMPTS, [PROMPTS[0], "the man sits on the mat ."]):
        read_prompts(page, texts)
        page.get_by_text("Saved.").last.wait_for()
        page.wait_for_timeout(300)
    page.get_by_role("link", name="Sessions").click()
    page.get_by_label("cat vs dog").first.check()
    page.get_by_label("cat vs man").first.check()
    page.get_by_role("link", name="Compare 2 sessions").click()
    page.get_by_role("heading", name="Sessions over dates").wait_for()
    rows = page.locator("tbody tr").all_inner_texts()
    assert len(rows) == 3 and all(row.startswith(name) for row in rows)
    assert sum("\N{EN DASH}" not in row for row in rows) == 1  # only the first prompt is in both
    page.go_back()
    page.get_by_role("heading", name="Sessions").wait_for()


def test_a_picture_is_downloaded(page, tmp_path):
    read_prompts(page)
    choose_neuron(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Picture").click()
    file = tmp_path / "picture.png"
    download.value.save_as(file)
    with Image.open(file) as picture:
        assert picture.format == "PNG" and picture.width == 1200
        assert len(picture.convert("RGB").getcolors(2**24)) > 20  # a grid and its legend


def test_a_reading_that_fails_changes_nothing_else(page):
    read_prompts(page)
    name = choose_neuron(page)
    before = page.url
    page.fill("#prompt-0", "never read")
    page.fill("input[name=model]", "nosuch")
    page.get_by_role("button", name="Read the neurons").click()
    page.get_by_role("alert").wait_for()
    assert page.url == before
    page.locator(".strongest button.link").last.click()
    page.locator(".neuron h2", has_text=name).wait_for(state="detached")
    assert "nosuch" not in page.url and "never" not in page.url


def test_what_is_typed_survives_clicks_and_another_theme(page):
    read_prompts(page)
    page.fill("input[name=note]", "half a thought")
    page.fill("#prompt-0", "half a prompt")
    page.get_by_label("light or dark").click()
    page.locator(".overview canvas").click(position={"x": 100, "y": 5})
    page.locator(".strongest button.watch").first.click()
    assert page.input_value("input[name=note]") == "half a thought"
    assert page.input_value("#prompt-0") == "half a prompt"


def test_back_and_forward_need_no_new_reading(page):
    read_prompts(page)
    choose_neuron(page)
    page.locator(".strongest button.link").last.click()
    last = page.locator(".neuron h2").inner_text()
    readings = []
    page.on("request", lambda request: readings.append(request.url.endswith("/api/probe")))
    page.go_back()
    page.locator(".neuron h2", has_text=last).wait_for(state="detached")
    page.go_forward()
    page.locator(".neuron h2", has_text=last).wait_for()
    assert sum(readings) == 0


@pytest.mark.parametrize("path", ["/m/%E0%A4%A", "/m/{model}/mlp_act/L1/N99999?p=the+cat&of=-1"])
def test_broken_addresses_are_no_blank_pages(page, address, family_folder, path):
    model = quote(str(family_folder("bert")), safe="")
    page.goto(address + path.format(model=model))
    page.locator(".error, .overview canvas").first.wait_for()
    assert "99999" not in page.locator("main").inner_text()


def test_errors_name_the_remedy(page):
    read_prompts(page)
    page.fill("#prompt-0", "the cat " * 400)
    page.get_by_role("button", name="Read the neurons").click()
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert "tokens" in alert.inner_text() and "shorten it" in alert.inner_text()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_size_and_theme_can_be_used(page, size, theme):
    page.set_viewport_size(SIZES[size])
    page.emulate_media(color_scheme=theme)
    page.reload()
    read_prompts(page)
    choose_neuron(page)
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= SIZES[size]["width"]
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(re.search(r"\d+", background)[0]) < 128) == (theme == "dark")
    if folder := os.environ.get("NEUROSCOPE_PICTURES"):
        page.screenshot(path=f"{folder}/ui-{size}-{theme}.png", full_page=True)


def test_the_first_page_is_small(page, address):
    sizes = page.evaluate(
        "performance.getEntriesByType('resource').map((entry) => entry.encodedBodySize)"
    )
    assert len(sizes) > 10 and sum(sizes) < 300_000
