"""What the documentation site is made of; `make site` builds it and follows every link."""

import importlib
import importlib.util
import os
import re
import subprocess
import sys

import pytest
import typer

import cli
from tests.test_documents import ROOT

SITE = ROOT / "docs" / "site"
NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")


def module(path):
    """A module of `docs/site` or `.ci`, which are no packages."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="module")
def command_pages():
    return module(SITE / "command_pages.py")


@pytest.fixture(scope="module")
def pointers():
    before = sys.path[:]
    sys.path.insert(0, str(SITE))
    yield importlib.import_module("pointers")
    sys.path[:] = before
    for name in ("pointers", "command_pages"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def pages(command_pages):
    return {path: text for path, _, text in command_pages.pages()}


def every_option():
    """Each command's words, and its options and arguments that are not hidden."""
    found = {}
    for name, app in (
        ("extract", cli.extract_app),
        ("store", cli.store_app),
        ("learn", cli.learn_app),
    ):
        below = [(name, typer.main.get_command(app))]
        while below:
            words, command = below.pop()
            if hasattr(command, "commands"):
                below += [(f"{words} {n}", inner) for n, inner in command.commands.items()]
            else:
                found[words] = [p for p in command.params if not p.hidden and p.name != "help"]
    return found


@pytest.mark.parametrize(("words", "parameters"), every_option().items())
def test_a_page_has_every_option_of_its_command(words, parameters, pages):
    text = pages[f"commands/{words.replace(' ', '-')}.md"]
    assert text.startswith(f"# {words}\n\n")
    rows = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) == len(parameters)
    written = " ".join(rows)
    for parameter in parameters:
        if parameter.param_type_name == "option":
            assert all(re.search(rf"{option}\b", written) for option in parameter.opts)
        assert " ".join((parameter.help or "").split()).split("|")[0].strip()[:40] in text


def test_a_row_says_what_holds_if_an_option_is_left_out(pages):
    text = pages["commands/learn-episodes.md"]
    assert "| `--ways <int>` | Classes per episode. | `5` |" in text
    assert (
        "| `--group COLUMN|none` | Clips of one source, kept on one side. | group, if there" in text
    )
    assert (
        "| `DIR <str>` | The feature store: a directory or s3://BUCKET/PREFIX. | `required` |"
        in text
    )


def test_every_column_of_a_page_has_a_name(pages):
    heads = {head for text in pages.values() for head in re.findall(r"(?m)^(.*)\n\|---", text)}
    assert heads == {
        "| command | meaning |",
        "| argument | meaning | default |",
        "| option | meaning | default |",
    }


def test_a_command_that_lists_shows_what_it_lists(pages):
    assert "prototypes: The nearest class mean" in pages["commands/learn-heads.md"]
    assert "## What it prints" not in pages["commands/learn-train.md"]


def test_pages_are_the_same_each_time(command_pages, pages):
    assert {path: text for path, _, text in command_pages.pages()} == pages


@pytest.mark.parametrize(
    ("text", "linked"),
    [
        ("see `docs/format.md`.", "see [`docs/format.md`](../format.md)."),
        ("`CONTRIBUTING.md`", "[`CONTRIBUTING.md`](../contributing.md)"),
        ("`learn episodes --ways 5`", "[`learn episodes --ways 5`](../commands/learn-episodes.md)"),
        (
            "`extract weights\nlist`",
            "[`extract weights\nlist`](../commands/extract-weights-list.md)",
        ),
        ("`learn.split(x)`", "[`learn.split(x)`][learn.split]"),
        ("`docs/gone.md`, `learn nothing`, `learn.nothing`", None),
        ("# `learn split`", None),
        ("```sh\nlearn split `learn split`\n```", None),
        ("[`learn split`](x.md)", None),
    ],
)
def test_pointers_become_links(text, linked, pointers):
    assert pointers.linked(text, "howto/head.md") == (linked or text)


def test_a_page_does_not_point_at_itself(pointers):
    assert pointers.linked("`docs/format.md`", "format.md") == "`docs/format.md`"


def families():
    """Packages with modules that are plug-ins."""
    paths = [p for name in ("extract", "store", "learn") for p in (ROOT / name).rglob("*.py")]
    plugins = [
        p for p in paths if re.search(r"^class Config.*^def build\(", p.read_text(), re.M | re.S)
    ]
    return {p.parent.relative_to(ROOT).as_posix().replace("/", ".") for p in plugins}


def test_every_family_of_plugins_has_its_place_in_the_reference():
    shown = re.findall(r"^::: ([\w.]+)", (ROOT / "docs/api/plugins.md").read_text(), re.MULTILINE)
    assert {"learn.fewshot.heads", "extract.encoders"} <= families() <= set(shown)


def numbers(text):
    """Numbers of two digits or more, as they are written."""
    return {found for found in NUMBER.findall(text) if len(re.sub(r"\D", "", found)) > 1}


def test_every_number_of_the_comparison_stands_in_performance():
    compared = (ROOT / "docs/compare.md").read_text()
    measured = (ROOT / "docs/performance.md").read_text() + (ROOT / "docs/encoders.md").read_text()
    measured += "160 91 1,000,000 1 M"  # clips of the collections; 1 M as it is written out
    assert not numbers(compared) - numbers(measured)
    assert "19.6" not in numbers(measured), "an invented number would be seen"


def test_the_words_of_the_glossary_are_there_once():
    words = re.findall(r'<a id="([\w-]+)">', (ROOT / "docs/glossary.md").read_text())
    assert len(words) > 30
    assert len(words) == len(set(words))


# ── what `make site` looks at ────────────────────────────────────────────────────────────────────


@pytest.fixture
def site():
    return module(ROOT / ".ci" / "site.py")


@pytest.mark.parametrize(
    ("html", "said"),
    [
        ('<a href="other.html#there">x</a> <a href="#here" id="here">y</a>', None),
        ('<a href="https://example.org/">x</a>', None),
        ('<a href="gone.html">x</a>', "leads to gone.html"),
        ('<a href="other.html#gone">x</a>', "leads to other.html#gone"),
        ('<a href="#gone">x</a>', "leads to #gone"),
        ('<script src="https://example.org/x.js"></script>', "loads https://example.org/x.js"),
        ('<link rel="stylesheet" href="//example.org/x.css">', "loads //example.org/x.css"),
        ('<img src="https://example.org/x.png">', "loads https://example.org/x.png"),
    ],
)
def test_what_is_wrong_with_a_page_is_said(html, said, site, tmp_path):
    (tmp_path / "index.html").write_text(html)
    (tmp_path / "other.html").write_text('<p id="there"></p>')
    found = site.problems(tmp_path)
    assert [line for line in found if said and said in line] == found
    assert bool(found) == bool(said)


def test_fonts_of_a_style_come_from_nowhere_else(site, tmp_path):
    (tmp_path / "index.html").write_text("x")
    (tmp_path / "a.css").write_text("@import url(https://example.org/font.css);")
    assert site.problems(tmp_path) == ["a.css loads from elsewhere"]


MKDOCS = """
site_name: x
docs_dir: pages
theme: {name: material, font: false}
validation: {links: {anchors: warn}}
"""


@pytest.mark.parametrize(
    ("page", "ends"),
    [("# x\n", 0), ("[x](gone.md)\n", 1), ("[x](#gone)\n", 1)],
)
def test_a_page_that_leads_nowhere_ends_the_build(page, ends, tmp_path):
    pytest.importorskip("mkdocstrings", reason="MkDocs is not installed (extra docs)")
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "index.md").write_text(page)
    (tmp_path / "mkdocs.yml").write_text(MKDOCS)
    script = (
        "import importlib.util as u, pathlib as p\n"
        f"s = u.spec_from_file_location('made', {str(ROOT / '.ci/site.py')!r})\n"
        "m = u.module_from_spec(s); s.loader.exec_module(m)\n"
        f"m.build(p.Path({str(tmp_path / 'built')!r}), p.Path({str(tmp_path / 'mkdocs.yml')!r}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == ends, done.stderr


def test_examples_are_fenced():
    pytest.importorskip("mkdocstrings", reason="MkDocs is not installed (extra docs)")
    fenced = module(SITE / "examples.py").fenced
    assert fenced("a\n\n>>> x\n1\n\nb") == "a\n\n\n```pycon\n>>> x\n1\n```\n\nb"
    assert fenced(">>> x\n1") == "\n```pycon\n>>> x\n1\n```"
    assert fenced("nothing") == "nothing"
