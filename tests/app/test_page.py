"""The page in Debian's Chromium, as a musician uses it."""

import re
import shutil
import threading
import time
from types import SimpleNamespace

import pytest
import torch

from stable_longform.app import uploads
from stable_longform.music_files import read_values
from stable_longform.utils.audio import read_audio, read_info, write_audio

CHROMIUM = shutil.which("chromium")
RATE = 8000
TIMEOUT_IN_MS = 60000

httpx = pytest.importorskip("httpx")
sync_api = pytest.importorskip("playwright.sync_api")
sync_api.expect.set_options(timeout=TIMEOUT_IN_MS)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium"),
]


@pytest.fixture(scope="module")
def browser():
    """One for all tests."""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, server):
    """A visitor's page, from which nothing may be sent to another machine."""
    elsewhere = []
    context = browser.new_context(accept_downloads=True)
    context.on("request", lambda request: elsewhere.append(request.url) if is_elsewhere(request.url) else None)
    yield open_page(context, server)
    context.close()
    assert elsewhere == []


@pytest.fixture
def music(tmp_path):
    """1.5 seconds of noise."""
    path = tmp_path / "noise.wav"
    waveform = torch.randn(2, 12000, generator=torch.Generator().manual_seed(0)) * 0.1
    write_audio(path, waveform, RATE, "float")
    return path


def is_elsewhere(url):
    """Whether an address is another machine's."""
    return not url.startswith(("http://127.0.0.1:", "data:", "blob:"))


def open_page(context, server):
    """The app in a new tab."""
    page = context.new_page()
    page.set_default_timeout(TIMEOUT_IN_MS)
    page.goto(server.url)
    page.reload()  # from the cache: values that are filled in while the page is still loading would be lost
    return page


def settle(page):
    """Waits until the page has no work left: only then are its fields bound, and what was filled in is known to it."""
    page.evaluate("() => new Promise(done => requestIdleCallback(done))")


def press(page, name):
    """Clicks a button."""
    settle(page)
    page.get_by_role("button", name=name, exact=True).click()


def open_tab(page, name):
    """The panel of a tab."""
    page.get_by_role("tab", name=name).click()
    settle(page)
    return page.locator("[role=tabpanel]:visible")


def open_accordion(page, name):
    """Unfolds a part of the page."""
    page.locator("button.label-wrap", has_text=name).click()


def status(page, text):
    """Waits until the status says something."""
    sync_api.expect(page.locator("#status")).to_contain_text(re.compile(text))


def upload(panel, path, note="8000 Hz, stereo"):
    """Puts a file into the panel, and waits for what is said of it."""
    panel.locator("input[type=file]").set_input_files(path)
    sync_api.expect(panel.locator(".prose.note")).to_contain_text(note)


def duration(page):
    """Seconds that the audio element would play."""
    for _ in range(200):
        seconds = page.locator("#player audio").evaluate_all("all => Math.max(...all.map(a => a.duration || 0))")
        if seconds > 0:
            return seconds
        time.sleep(0.05)
    return 0


def download(page, folder):
    """The file behind the button."""
    with page.expect_download() as found:
        page.get_by_text("Download", exact=True).click()
    path = folder / found.value.suggested_filename
    found.value.save_as(path)
    return path


def test_generate_listen_download_and_use_the_settings_again(page, tmp_path):
    panel = open_tab(page, "Text")
    panel.get_by_label("Prompt").fill("solo piano")
    panel.get_by_label("Duration").fill("1.5")
    open_accordion(page, "Settings")
    page.get_by_role("textbox", name="Seed").fill("7")
    press(page, "Generate")
    status(page, "Done")
    assert duration(page) == pytest.approx(1.5, abs=0.02)
    path = download(page, tmp_path)
    values = read_values(path)
    assert read_info(path).duration_in_s == 1.5
    assert (values["prompt"], values["seed"], values["checkpoint"]) == ("solo piano", 7, "random")

    panel.get_by_label("Prompt").fill("rock")
    page.get_by_role("textbox", name="Seed").fill("8")
    press(page, "Generate")
    sync_api.expect(page.get_by_label("2. 0:02")).to_be_visible()
    page.get_by_label("1. 0:02").check()
    open_accordion(page, "How it was made")
    sync_api.expect(page.get_by_text('"solo piano"')).to_be_visible()
    press(page, "Use these settings")
    sync_api.expect(panel.get_by_label("Prompt")).to_have_value("solo piano")
    assert page.get_by_role("textbox", name="Seed").input_value() == "7"


def test_transform_an_upload(page, music, tmp_path):
    panel = open_tab(page, "Transform")
    upload(panel, music)
    panel.get_by_label("Prompt").fill("rock")
    press(page, "Transform")
    status(page, "Done")
    assert duration(page) == pytest.approx(1.5, abs=0.02)
    values = read_values(download(page, tmp_path))
    assert (values["command"], values["input"], values["strength"]) == ("transform", "noise.wav", 0.8)


def test_inpaint_a_region_that_is_dragged(page, music, tmp_path):
    panel = open_tab(page, "Inpaint")
    upload(panel, music)
    press(page, "Inpaint")
    status(page, "Mark a region")
    canvas = page.locator("#regions canvas")
    box = canvas.bounding_box()
    page.wait_for_timeout(300)
    page.mouse.move(box["x"] + box["width"] / 3, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 2 / 3, box["y"] + 60, steps=3)
    page.mouse.up()
    regions = panel.get_by_label("Regions to replace")
    sync_api.expect(regions).to_have_value(re.compile(r"^0\.\d+-1(\.\d+)?$"))
    low, high = (float(seconds) for seconds in regions.input_value().split("-"))
    assert (low, high) == pytest.approx((0.5, 1.0), abs=0.02)
    open_accordion(page, "Settings")
    page.get_by_label("wav", exact=True).check()
    press(page, "Inpaint")
    status(page, "Done")
    before, after = read_audio(music)[0], read_audio(download(page, tmp_path))[0]
    start, stop = round(low * RATE), round(high * RATE)
    kept = torch.ones(12000, dtype=torch.bool)
    kept[start:stop] = False
    assert (after - before)[:, kept].abs().max() <= 2**-15  # the file has 16 bits
    assert (after - before)[:, ~kept].abs().max() > 0.01


def marked(page):
    """Which twentieths of the waveform are marked in the topmost row, which no peak reaches."""
    return page.locator("#regions canvas").evaluate("""canvas => [...Array(20).keys()].filter((part) => {
        const x = Math.floor((part + 0.5) / 20 * canvas.width);
        return canvas.getContext("2d").getImageData(x, 1, 1, 1).data[3] > 0;
    })""")


def wait_until_marked(page, parts):
    """Waits until these twentieths are marked, and no others."""
    for _ in range(200):
        if marked(page) == parts:
            return
        page.wait_for_timeout(50)
    assert marked(page) == parts


@pytest.fixture
def slow_reading(monkeypatch):
    """Holds the reading of uploads until it is set; counts how often one is decoded."""
    go_on, read = threading.Event(), []
    checked_blocks = uploads.checked_blocks

    def read_slowly(path):
        read.append(path)
        go_on.wait(60)
        return checked_blocks(path)

    monkeypatch.setattr(uploads, "checked_blocks", read_slowly)
    uploads._read_peaks.cache_clear()
    yield SimpleNamespace(read=read, go_on=go_on)
    go_on.set()


@pytest.mark.parametrize("when", ["before the upload", "before the waveform"])
def test_regions_typed_early_stay_and_are_drawn(page, music, tmp_path, slow_reading, when):
    panel = open_tab(page, "Inpaint")
    regions = panel.get_by_label("Regions to replace")
    if when == "before the upload":
        regions.fill("0.3-0.6")
        regions.blur()
    panel.locator("input[type=file]").set_input_files(music)
    wait_for(lambda: slow_reading.read)
    if when == "before the waveform":
        regions.fill("0.3-0.6")
        regions.blur()
        page.wait_for_timeout(300)
    slow_reading.go_on.set()
    sync_api.expect(panel.locator(".prose.note")).to_contain_text("8000 Hz, stereo")
    wait_until_marked(page, [4, 5, 6, 7])
    press(page, "Inpaint")
    status(page, "Done")
    assert read_values(download(page, tmp_path))["regions"] == [[0.3, 0.6]]
    assert regions.input_value() == "0.3-0.6" and marked(page) == [4, 5, 6, 7]
    assert len(slow_reading.read) == 1


def test_extend_and_sections(page, music):
    panel = open_tab(page, "Extend")
    upload(panel, music)
    panel.get_by_label("Total duration").fill("1")
    press(page, "Extend")
    status(page, r"Total duration must be in \[1.501, 900\] seconds, got 1")
    panel.get_by_label("Total duration").fill("3")
    press(page, "Extend")
    status(page, "Done")
    assert duration(page) == pytest.approx(3, abs=0.02)
    panel = open_tab(page, "Sections")
    panel.get_by_label("Sections").fill("0 piano\nthen rock")
    panel.get_by_label("Duration").fill("2")
    press(page, "Generate sections")
    status(page, "Sections, line 2: 'then' is neither")
    panel.get_by_label("Sections").fill("0 piano\n1 rock")
    press(page, "Generate sections")
    status(page, "Done: 0:02")


@pytest.fixture
def gate(pipe, server):
    """Holds the sampling at its third step until `open_gate` is called, so that the page has all time to act."""
    calls, is_open = [], threading.Event()

    def hold(*_):
        calls.append(1)
        if len(calls) > 2:
            is_open.wait(120)

    def open_gate():
        """Once the server has nothing left to do, so that the generation was told to stop."""
        wait_until_idle(server)
        is_open.set()

    handle = pipe.transformer.register_forward_pre_hook(hold)
    yield SimpleNamespace(calls=calls, open=open_gate)
    handle.remove()
    is_open.set()


def wait_until_idle(server):
    """Until no generation runs or waits."""
    wait_for(lambda: httpx.get(f"{server.url}/v1/health").json()["num_generations"] == 0)


def wait_for(is_true):
    """Until something is so in another thread."""
    for _ in range(600):
        if is_true():
            return
        time.sleep(0.1)
    raise TimeoutError("it never was")


def generate_with_200_steps(page):
    """Starts a generation, and waits for its first step."""
    open_tab(page, "Text").get_by_label("Duration").fill("2")
    open_accordion(page, "Settings")
    steps = page.get_by_label("number input for Steps")
    for _ in range(2):  # once more, should the page have been at work with its own value
        steps.fill("200")
        steps.press("Tab")
        page.wait_for_timeout(1000)
    sync_api.expect(page.get_by_label("range slider for Steps")).to_have_value("200")
    press(page, "Generate")
    status(page, "Sampling, step .* of 200, about .* left")


def test_cancel_and_go_on(page, gate):
    generate_with_200_steps(page)
    press(page, "Cancel")
    status(page, "Cancelled")
    gate.open()
    page.get_by_label("number input for Steps").fill("2")
    press(page, "Generate")
    status(page, "Done")
    assert len(gate.calls) < 20  # of about 400


def test_two_tabs_and_a_double_click(browser, server, music):
    context = browser.new_context()
    before = set(server.folder.glob("*/results/*/*.flac"))
    pages = [open_page(context, server) for _ in range(2)]
    panel = open_tab(pages[0], "Inpaint")
    upload(panel, music)
    panel.get_by_label("Regions").fill("0.5-0.75")
    open_tab(pages[1], "Text").get_by_label("Duration").fill("1")
    for page, button in zip(pages, ("Inpaint", "Generate"), strict=True):
        page.get_by_role("button", name=button, exact=True).dblclick()
    for page in pages:
        status(page, "Done")
    while httpx.get(f"{server.url}/v1/health").json()["num_generations"] > 0:
        time.sleep(0.1)
    assert len(set(server.folder.glob("*/results/*/*.flac")) - before) == 2
    context.close()


def test_a_closed_browser_stops_its_generation_and_leaves_no_file(browser, server, gate):
    context = browser.new_context()
    page = open_page(context, server)
    generate_with_200_steps(page)
    context.close()
    gate.open()
    results = next(server.folder.glob("*/results"))
    for _ in range(300):
        if not list(results.rglob("*.*")):
            break
        time.sleep(0.1)
    assert list(results.rglob("*.*")) == []


def test_bad_uploads_are_a_sentence(page, tmp_path):
    bad = {
        "text.wav": (lambda path: path.write_bytes(b"no music at all" * 100), "cannot be read as audio"),
        "silent.wav": (lambda path: write_audio(path, torch.zeros(2, 8000), RATE), "is silent"),
        "nan.wav": (lambda path: write_audio(path, torch.full((2, 800), torch.nan), RATE, "float"), "non-finite"),
        "eight.wav": (lambda path: write_audio(path, torch.rand(8, 800), 192000), "1 or 2 channels, got 8"),
    }
    panel = open_tab(page, "Transform")
    press(page, "Transform")
    status(page, "Upload an audio file first")
    for name, (make, message) in bad.items():
        make(tmp_path / name)
        upload(panel, tmp_path / name, message)
        press(page, "Transform")
        status(page, message)
        text = page.locator("#status").inner_text()
        assert name in text and "/" not in text and text.count(".") <= 3
        panel.get_by_label("Clear").click()


def test_light_dark_and_a_phone(browser, server):
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="light", has_touch=True)
    page = open_page(context, server)
    page.get_by_role("button", name="Generate", exact=True).wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.get_by_role("tab", name="Sections").is_visible()
    assert not page.evaluate("document.body.classList.contains('dark')")
    press(page, "Light / dark")
    page.wait_for_function("document.body.classList.contains('dark')")
    page.reload()
    page.get_by_role("button", name="Generate", exact=True).wait_for()
    page.wait_for_function("document.body.classList.contains('dark')")
    context.close()
