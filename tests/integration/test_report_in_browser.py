"""The page of `learn report` in a real browser: it asks for nothing, says nothing, and fits."""

import re
import shutil

import pytest

import learn
from store import testing

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium; apt-get install chromium")


@pytest.fixture(scope="module")
def page_path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    store = folder / "store"
    testing.fill(store, clips=400, rows=3, dim=16, classes=10, disjoint=False)
    learn.train(store, "infonce", settings=("optimiser.epochs=3",), run_dir=folder / "run")
    scored = learn.run_episodes(
        store, ways=5, queries=3, episodes=40, shots=(1, 2), projections=(folder / "run",),
        heads=("prototypes", "prototypes:metric=cl2n,centre=support"),
        support=("v", "a", "av"), query=("v", "a", "av"),
    )  # fmt: skip
    scored.save(folder / "a-directory-with-a-rather-long-name-that-has-no-place-to-break")
    runs = (folder / "a-directory-with-a-rather-long-name-that-has-no-place-to-break",)
    picture = lambda media: [b"\xff\xd8"] * len(media)  # noqa: E731
    learn.report((*runs, folder / "run"), folder / "r.html", thumbnails=picture)
    return folder / "r.html"


@pytest.fixture(scope="module")
def browser():
    with sync.sync_playwright() as play:
        started = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_opens_offline_and_fits(browser, page_path, width, scheme):
    context = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True
    )
    page = context.new_page()
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(page_path.as_uri())
    # Tables that are shut are wide too.
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [page_path.as_uri()]
    context.close()


def test_every_figure_has_an_accessible_name(browser, page_path):
    page = browser.new_page()
    page.goto(page_path.as_uri())
    drawings = page.get_by_role("img").all()
    assert len(drawings) == page.locator("figure svg").count() > 5
    assert len(drawings) == page.locator("figure").count()
    names = re.findall(r'img "((?:[^"\\]|\\.)+)"', page.locator("main").aria_snapshot())
    assert len(names) == len(drawings)
    assert all(len(name) > 40 for name in names)  # a title and what there is to see
    page.close()


CONTRAST = """
() => {
  const light = c => {
    const [r, g, b] = c.match(/[0-9.]+/g).slice(0, 3).map(v => {
      const s = v / 255; return s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  const behind = one => {
    for (let e = one; e; e = e.parentElement) {
      const c = getComputedStyle(e).backgroundColor;
      if (c !== 'rgba(0, 0, 0, 0)') return c;
    }
    return 'rgb(255, 255, 255)';
  };
  const poor = [];
  const words = 'p, li, th, td, caption, h1, h2, h3, h4, summary, a, figcaption, svg text';
  for (const one of document.querySelectorAll(words)) {
    if (!one.textContent.trim()) continue;
    const style = getComputedStyle(one);
    const ink = one.namespaceURI.endsWith('svg') ? style.fill : style.color;
    const found = ratio(light(ink), light(behind(one)));
    if (found < 4.5) poor.push([one.tagName, one.textContent.slice(0, 30), ink, found]);
  }
  return poor;
}
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(browser, page_path, scheme):
    context = browser.new_context(color_scheme=scheme)
    page = context.new_page()
    page.goto(page_path.as_uri())
    assert page.evaluate(CONTRAST) == []
    context.close()
