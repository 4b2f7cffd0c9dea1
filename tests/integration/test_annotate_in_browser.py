"""The page of `learn annotate` in a real browser: keys alone, through a kill, asking nobody."""

import re
import signal
import subprocess
import sys
import time

import pytest

from store import read_manifest
from tests.integration.test_report_in_browser import CHROMIUM, CONTRAST
from tests.learn.annotation.conftest import client, session, settings, small, truth

__all__ = ["client", "session", "settings", "small", "truth"]
sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium; apt-get install chromium")


@pytest.fixture(scope="module")
def browser():
    with sync.sync_playwright() as play:
        started = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def opened(browser):
    """A function that opens an address, and what its pages said and asked for."""
    said, asked, contexts = [], [], []

    def opened(address, **how):
        context = browser.new_context(**how)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("console", lambda told: said.append(told.text))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        page.locator("body[data-acts]").wait_for(state="attached")
        return page

    opened.said, opened.asked = said, asked
    yield opened
    for context in contexts:
        context.close()


def acts(page):
    return int(page.evaluate("document.body.dataset.acts"))


def press(page, *keys):
    """Press keys that make one act, and wait until it is kept."""
    before = acts(page)
    for key in keys:
        page.keyboard.type(key) if len(key) > 1 and key.islower() else page.keyboard.press(key)
    for _ in range(300):  # other windows count too
        if acts(page) > before:
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"{keys} did nothing")


def clip(page):
    return page.locator("#clip").text_content()


def choices(page):
    return page.locator("#choices button span:nth-of-type(1)").all_text_contents()


def answer(page, name):
    known = choices(page)
    press(page, str(known.index(name) + 1)) if name in known else press(page, "n", name, "Enter")


def address(process):
    for line in process.stderr:
        if found := re.search(r"http://\S+", line):
            return found[0]
    raise AssertionError("no address")


def test_a_session_by_keyboard_survives_a_kill(opened, small, truth, tmp_path):
    output = tmp_path / "labels.csv"
    command = [
        sys.executable, "-m", "learn", "annotate", str(small / "store"), "--media",
        str(small / "media"), "-o", str(output), "--sandbox", "off",
    ]  # fmt: skip
    given = {}
    for round_ in range(2):
        process = subprocess.Popen(
            command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            page = opened(address(process))
            assert acts(page) == len(given)
            for _ in range(6):
                shown = clip(page)
                assert shown not in given
                given[shown] = truth[shown]
                answer(page, truth[shown])
            if not round_:
                written = output.read_bytes()
                process.send_signal(signal.SIGKILL)
                process.wait()
                page.keyboard.press("1")
                page.locator("#alert").wait_for(state="visible")
                assert "nothing that you press is kept" in page.locator("#alert").text_content()
                assert output.read_bytes() == written
            else:
                process.send_signal(signal.SIGINT)
                told, _ = process.communicate(timeout=60)
                assert process.returncode == 0
                assert "12 of 120 clips" in told
        finally:
            process.kill()
            process.communicate()
    table = read_manifest(output)
    assert dict(zip(table.clip_ids, table.column("label"), strict=True)) == given
    assert output.read_bytes().startswith(written)


def test_every_key_does_what_the_help_says(opened, client, settings):
    page = opened(client.site.address)
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    first = clip(page)
    answer(page, "dog")
    press(page, "u")
    assert clip(page) == first
    assert client.site.session.annotations.labels(first).of == {}
    answer(page, "dog")
    second = clip(page)
    page.keyboard.press("s")
    page.locator("#clip", has_not_text=second).wait_for()
    third = clip(page)
    assert third not in (first, second)
    press(page, "0")
    assert client.site.session.annotations.labels(third).none_of == {"label"}
    answer(page, "cat")
    press(page, "Enter")  # the first class
    assert acts(page) == 6
    assert not [told for told in opened.said if "Failed to load resource" not in told]


def test_it_asks_its_own_server_only_and_its_label_is_text(opened, client):
    page = opened(client.site.address)
    answer(page, "<img src=http://evil.example/x onerror=alert(1)>")
    page.wait_for_timeout(300)
    assert "<img src=http" in page.locator("#counts").text_content()
    origin = f"http://127.0.0.1:{client.site.port}/"
    assert len(opened.asked) > 4
    assert [u for u in opened.asked if not u.startswith((origin, "data:", "blob:"))] == []


def test_another_page_can_do_nothing(browser, client, session):
    page = browser.new_page()
    answer = {"body": "<p>", "content_type": "text/html"}
    page.route("http://evil.example/**", lambda route: route.fulfill(**answer))
    page.goto("http://evil.example/")
    tried = """async ([address, body]) => {
      const told = [];
      for (const how of [{}, {mode: 'no-cors'}, {headers: {'Content-Type': 'application/json'}}]) {
        try { const a = await fetch(address + 'state', {method: 'POST', body, ...how});
              told.push(a.type === 'opaque' ? 'opaque' : a.status); }
        catch (error) { told.push('refused'); }
      }
      return told;
    }"""  # fmt: skip
    body = '{"kind": "undo", "window": "w", "column": "label"}'
    assert set(page.evaluate(tried, [client.site.address, body])) <= {"refused", "opaque"}
    assert session.annotations.acts == 0
    page.close()


def test_two_windows_do_no_harm(opened, client):
    one, two = opened(client.site.address), opened(client.site.address)
    assert clip(one) != clip(two)
    left, right = clip(one), clip(two)
    answer(one, "x")
    answer(two, "y")
    press(one, "u")
    annotations = client.site.session.annotations
    assert annotations.labels(left).of == {}
    assert annotations.labels(right).of == {"label": "y"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_and_can_be_read(opened, client, truth, width, scheme):
    page = opened(
        client.site.address, viewport={"width": width, "height": 800}, color_scheme=scheme
    )
    annotations = client.site.session.annotations
    for name in sorted(truth)[::6]:
        annotations.answer("x", name, "label", truth[name], none=False, version=0)
    client.site.session.chooser.fit("label")
    press(page, "0")  # the next clip has proposals
    page.locator("#choices .share").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(CONTRAST) == []
    names = page.evaluate(
        "[...document.querySelectorAll('button, input')]"
        ".map(e => e.textContent || e.labels[0].textContent)"
    )
    assert all(name.strip() for name in names)


def test_a_key_is_answered_at_once(client, truth):
    """Not counting the browser: the slowest of many answers while fits are made."""
    session = client.site.session
    slowest = []
    for _ in range(20):
        shown = session.state("w", "label")["clip"]
        begun = time.perf_counter()
        client.act("answer", clip=shown["id"], version=shown["version"], name=truth[shown["id"]])
        slowest.append(time.perf_counter() - begun)
    assert sorted(slowest)[10] < 0.5  # on a busy machine; `docs/performance.md` has the numbers
