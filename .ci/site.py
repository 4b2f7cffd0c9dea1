"""Builds the site into build/site, strictly and without a network, and looks at what was built.

    make site           (python .ci/site.py [FOLDER])

MkDocs refuses pages that lead nowhere, pages that nobody leads to and names of Python that do not
exist. What it cannot see is looked at in the pages themselves: every address and anchor of ours is
there, whoever wrote it, and nothing that a page loads comes from elsewhere.
"""

import logging
import os
import re
import socket
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import unquote, urldefrag, urlsplit

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "build" / "site"
CONFIG = ROOT / "docs" / "site" / "mkdocs.yml"
LOADS = {("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("video", "src")}
IN_STYLE = re.compile(r"(?:url\(|@import\s+)[\"']?(https?:)?//", re.IGNORECASE)


class Page(HTMLParser):
    """What a page loads, where it leads, and the anchors that it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.leads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Called by the parser for every tag."""
        of = dict(attrs)
        self.anchors |= {of[key] or "" for key in ("id", "name") if of.get(key)}
        if tag == "link" and of.get("rel") not in ("canonical", "next", "prev", "edit"):
            self.loads.append(of.get("href") or "")
        self.loads += [of.get(key) or "" for name, key in LOADS if name == tag and key in of]
        if tag == "a" and of.get("href"):
            self.leads.append(of["href"] or "")


def build(folder: Path, config: Path = CONFIG) -> None:
    """Build the site; whoever asks the network for anything ends it."""
    from mkdocs.commands.build import build as build_site
    from mkdocs.config import load_config

    def refuse(_: socket.socket, address: Any) -> None:
        raise OSError(f"the site must be built without a network, and something asks {address}")

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    with mock.patch.object(socket.socket, "connect", refuse):
        build_site(load_config(str(config), site_dir=str(folder), strict=True))


def problems(folder: Path) -> list[str]:
    """What is wrong with the pages of a folder, a line each."""
    pages = {path: Page(path.read_text()) for path in sorted(folder.rglob("*.html"))}
    found = [] if pages else ["there is no page"]
    for path, page in pages.items():
        name = path.relative_to(folder)
        found += [f"{name} loads {url}" for url in page.loads if urlsplit(url).netloc]
        if path.name != "404.html":  # its addresses are those of a server's root
            of_page = {lead for lead in page.leads if _astray(lead, path, pages)}
            found += [f"{name} leads to {lead}, which is not there" for lead in sorted(of_page)]
    for path in sorted(folder.rglob("*.css")):
        if IN_STYLE.search(path.read_text()):
            found.append(f"{path.relative_to(folder)} loads from elsewhere")
    return found


def _astray(lead: str, path: Path, pages: dict[Path, Page]) -> bool:
    """Whether an address of ours is one that is not there."""
    if urlsplit(lead).scheme or urlsplit(lead).netloc:
        return False
    place, anchor = urldefrag(lead)
    target = (path.parent / unquote(place)).resolve() if place else path
    if target.is_dir():
        target /= "index.html"
    if target not in pages:
        return not target.is_file()
    return bool(anchor) and unquote(anchor) not in pages[target].anchors


def main() -> None:
    folder = Path(sys.argv[1]).resolve() if sys.argv[1:] else SITE
    os.environ["NO_MKDOCS_2_WARNING"] = "1"
    build(folder)
    if found := problems(folder):
        sys.exit("\n".join(found))
    count = len(list(folder.rglob("*.html")))
    print(f"{folder}: {count} pages, built offline; every link leads somewhere")


if __name__ == "__main__":
    main()
