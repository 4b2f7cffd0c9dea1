"""What tests of the page share: the page read back, and the results that it shows."""

import json
import re
from html.parser import HTMLParser

FEW = {"ways": 4, "queries": 3, "episodes": 30}
HEADS = ("prototypes", "ridge", "tim")
MATRIX = {"support": ("v", "a", "av"), "query": ("v", "a", "av")}


class Page(HTMLParser):
    """A page's tables by caption, its text, and how deep each heading is."""

    def __init__(self, text):
        super().__init__()
        self.html = text
        self.tables, self.text, self.levels, self.ids = [], [], [], []
        self.inside = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.ids += [value for name, value in attrs if name == "id"]
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))
        if tag == "table":
            self.tables.append({"rows": []})
        elif tag == "tr":
            self.tables[-1]["rows"].append([])
        elif tag in ("th", "td"):
            self.tables[-1]["rows"][-1].append("")
        if tag in ("th", "td", "caption", "style"):
            self.inside = tag

    def handle_endtag(self, tag):
        if tag in ("th", "td", "caption", "style"):
            self.inside = None

    def handle_data(self, data):
        if self.inside in ("th", "td"):
            self.tables[-1]["rows"][-1][-1] += data
        elif self.inside == "caption":
            self.tables[-1]["caption"] = data
        elif self.inside != "style":
            self.text.append(data)

    def rows(self, caption):
        """The first table with that caption, as dictionaries."""
        rows = next(table["rows"] for table in self.tables if table["caption"] == caption)
        return [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


def result(run):
    return json.loads((run / "result.json").read_text())


def shown(value):
    return "" if value is None else f"{100 * value:.2f}"
