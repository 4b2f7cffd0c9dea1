"""Pointers in backticks become links.

Documents point at one another in backticks (`docs/format.md`), as their readers may sit before a
file and not before a page. On the site such a pointer is a link; so is the name of a command
(`learn episodes …`) or of a public function (`store.open`). Headings and blocks of code stay as
they are.
"""

import importlib
import posixpath
import re
from functools import cache
from pathlib import Path

import command_pages

ROOT = Path(__file__).resolve().parents[2]
# Pages that lie beside the code, where people look for them first, and where the site has them.
ELSEWHERE = {
    "README.md": "readme.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "data_manifests/README.md": "manifests.md",
}
PACKAGES = ("store", "extract", "learn")
_FENCE = re.compile(r"(^[ ]*```.*?^[ ]*```[ ]*$)", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<![`\[])`([^`\n]+(?:\n[^`\n]+)?)`(?![`\]])")


def linked(markdown: str, here: str) -> str:
    """A page's text with links; `here` is where it lies in the site."""
    parts = _FENCE.split(markdown)
    parts[::2] = [_of_prose(part, here) for part in parts[::2]]
    return "".join(parts)


def _of_prose(text: str, here: str) -> str:
    """A stretch without blocks of code, with links."""
    lines = re.split(r"(^#.*$)", text, flags=re.MULTILINE)
    lines[::2] = [_SPAN.sub(lambda found: _link(found[0], found[1], here), s) for s in lines[::2]]
    return "".join(lines)


def _link(span: str, inside: str, here: str) -> str:
    """What one span of code becomes."""
    words = " ".join(inside.split())
    if page := page_of(words):
        place = posixpath.relpath(page, posixpath.dirname(here) or ".")
        return span if page == here else f"[{span}]({place})"
    name = re.match(r"[\w.]+", words)
    if name and name[0] in _public() and words[name.end() :][:1] in ("", "("):
        return f"[{span}][{name[0]}]"
    return span


def page_of(words: str) -> str | None:
    """The page of the site that a span of code means, if any."""
    if words in ELSEWHERE:
        return ELSEWHERE[words]
    if words.startswith("docs/") and words.endswith(".md") and (ROOT / words).is_file():
        return words.removeprefix("docs/")
    fitting = [c for c in _commands() if words == c or words.startswith(f"{c} ")]
    return command_pages.path_of(max(fitting, key=len)) if fitting else None


@cache
def _commands() -> frozenset[str]:
    """The words of every command."""
    return frozenset(words for words, _ in command_pages.commands())


@cache
def _public() -> frozenset[str]:
    """The names that the packages offer."""
    offered = {package: importlib.import_module(package).__all__ for package in PACKAGES}
    return frozenset(f"{package}.{name}" for package, names in offered.items() for name in names)
