"""Plug-ins of other packages: found, listed and checked without importing anything."""

import json
import subprocess
import sys
from textwrap import dedent

import pytest

from store import outside, plugins
from store.errors import ConfigError, UnknownPlugin, UnknownSetting

FAMILY = "learn.fewshot.fusions"
PLUGIN = '''
"""An outside plug-in."""
from dataclasses import dataclass
import nowhere_at_all
from store.settings import Settings, setting
from .base import START

@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    size: int = setting(START, at_least=1, main=True)

def build(config):
    return config
'''


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Makes a distribution with a package and entry points, as an installer would leave it."""
    made = set()

    def make(name, entry_points, **modules):
        package = name.replace("-", "_")
        folder = tmp_path / name
        for module, text in {"__init__": "raise RuntimeError('imported')", **modules}.items():
            (folder / package / f"{module}.py").parent.mkdir(parents=True, exist_ok=True)
            (folder / package / f"{module}.py").write_text(dedent(text))
        info = folder / f"{package}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        lines = [f"{key} = {value}" for key, value in entry_points.items()]
        (info / "entry_points.txt").write_text("\n".join(["[microshot.fusions]", *lines, ""]))
        monkeypatch.syspath_prepend(str(folder))
        made.add(package)

    yield make
    for module in [m for m in sys.modules if m.split(".")[0] in made]:
        del sys.modules[module]


@pytest.fixture
def louder(install):
    install("mix-louder", {"louder": "mix_louder.louder"}, louder=PLUGIN, base="START = 3\n")


def test_the_group_of_a_family():
    assert outside.group("extract.encoders") == "microshot.encoders"
    assert outside.group("store.exchange.formats") == "microshot.formats"


@pytest.mark.usefixtures("louder")
def test_an_entry_point_is_listed_with_its_distribution_and_nothing_is_imported():
    (row,) = [row for row in plugins.describe(FAMILY) if row["distribution"]]
    assert row == {
        "name": "louder", "summary": "An outside plug-in.", "settings": {"size": 3},
        "bounds": {"size": "1 or more"}, "main": "size", "distribution": "mix-louder 1.2",
    }  # fmt: skip
    assert "louder" in plugins.known(FAMILY)
    assert "louder" not in plugins.names(FAMILY)
    assert plugins.check(FAMILY, plugins.parse_spec("louder:7", FAMILY)).size == 7
    with pytest.raises(UnknownSetting, match="did you mean 'size'"):
        plugins.check(FAMILY, plugins.parse_spec("louder:sise=7", FAMILY))
    with pytest.raises(UnknownPlugin, match="did you mean 'louder'"):
        plugins.check(FAMILY, plugins.parse_spec("luder", FAMILY))
    assert not [m for m in sys.modules if m.startswith("mix_louder")]


@pytest.mark.usefixtures("louder")
def test_a_plug_in_that_cannot_be_imported_says_whose_it_is():
    with pytest.raises(ConfigError, match=r"of mix-louder 1\.2 cannot be imported: Runtime"):
        plugins.build(FAMILY, "louder")


def test_places_are_names(install):
    of_class = """
        from store.settings import Settings
        from mix_places import plain
        class Other:
            "Has both."
            Config = plain.Config
            @staticmethod
            def build(config):
                return "other", config
        """
    plain = PLUGIN.replace("import nowhere_at_all\n", "")
    install("mix-places", {}, __init__="", plain=plain, base="START = 3\n", more=of_class)
    for name in ("mix_places/plain", "mix_places.plain/build"):
        assert plugins.build(FAMILY, f"{name}:size=5").size == 5
        assert plugins.build(FAMILY, f"{name}:4").size == 4
    assert plugins.build(FAMILY, "mix_places.more/Other")[0] == "other"
    assert plugins.parse_spec("mix_places.more/Other:4", FAMILY).settings == {"size": "4"}
    assert plugins.glance(FAMILY, "mix_places/plain", "TRAITS", None) is None


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nothing_here/x", "no module nothing_here on Python's path"),
        ("antigravity/x", "antigravity defines no x"),
        ("json/build", "json defines no Config and no build"),
        ("json.decoder/JSONDecoder", None),
        ("os.path/", "no fusion"),
        ("../x", "no fusion"),
        ("/x", "no fusion"),
        ("a b/x", "no fusion"),
    ],
)
def test_what_is_no_plug_in_is_refused_before_it_is_run(name, says):
    with pytest.raises(ConfigError, match=says):
        plugins.check(FAMILY, plugins.Spec(name, {}))
    assert "antigravity" not in sys.modules


def test_our_names_are_never_taken_and_rivals_are_named_by_place(install):
    plain = PLUGIN.replace("import nowhere_at_all\n", "")
    for name in ("mix-one", "mix-two"):
        package = name.replace("-", "_")
        points = {"late": f"{package}.late", "both": f"{package}.late"}
        install(name, points, __init__="", late=plain, base="START = 3\n")
    own = plugins.module(FAMILY, "late")
    assert own.__name__ == f"{FAMILY}.late"
    with pytest.raises(UnknownPlugin, match=r"mix_one\.late/build of mix-one 1\.2 and mix_two"):
        plugins.build(FAMILY, "both")
    listed = {row["name"]: row["distribution"] for row in plugins.describe(FAMILY)}
    assert listed["late"] is None
    assert listed["mix_one.late/build"] == "mix-one 1.2"
    assert plugins.build(FAMILY, "mix_two.late/build").size == 3


def test_a_plug_in_that_cannot_be_read_does_not_stop_the_listing(install):
    install("mix-broken", {"broken": "mix_broken.broken"}, broken="def Config(:\n")
    install("mix-gone", {"gone": "mix_gone.gone"})
    rows = {row["name"]: row for row in plugins.describe(FAMILY)}
    assert rows["broken"]["summary"].startswith("cannot be read: SyntaxError")
    assert rows["gone"]["summary"].startswith("cannot be read")
    assert len(rows) > 3


def test_known_names_ask_no_distribution():
    """Reading every distribution's metadata costs more than a small call."""
    code = (
        "import sys; from store import plugins; plugins.build('learn.fewshot.fusions', 'late');"
        "print('importlib.metadata' in sys.modules and 'torch' not in sys.modules,"
        " plugins.elsewhere._offered.cache_info().currsize)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split()[-1] == "0", done.stdout + done.stderr


BROKEN = {
    "syntax": ("def build(:\n", "SyntaxError"),
    "bytes": ("Config = 1\n# \udcff\ndef build(config): ...\n", "SyntaxError: .* is not UTF-8"),
    "null": ("Config = 1\0\ndef build(config): ...\n", "null bytes"),
    "plain": ("class Config: ...\ndef build(config): ...\n", "Config is no dataclass"),
    "number": ("Config = build = 6\n", "Config is no dataclass"),
    "leaves": ("import sys\nConfig = sys.exit(4)\ndef build(config): ...\n", "SystemExit: 4"),
    "round": ("from broken.round import Config\ndef build(config): ...\n", "cannot be"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_package_is_told_in_a_line_and_spoils_no_listing(install, tmp_path, name):
    text, fault = BROKEN[name]
    install("broken", {name: f"broken.{name}"}, __init__="")
    (tmp_path / "broken/broken" / f"{name}.py").write_bytes(text.encode("utf-8", "surrogateescape"))
    (row,) = [row for row in plugins.describe(FAMILY) if row["distribution"]]
    assert row["summary"].startswith("cannot be read: ")
    assert len(plugins.describe(FAMILY)) == len(plugins.names(FAMILY)) + 1
    for asked in (name, f"broken.{name}/build"):
        for ask in (plugins.check, plugins.build):
            with pytest.raises(ConfigError, match=fault) as told:
                ask(FAMILY, plugins.parse_spec(asked, FAMILY))
            assert "\n" not in str(told.value)


def test_defaults_of_any_kind_are_listed(install):
    text = """
    from dataclasses import dataclass, field
    from pathlib import Path

    @dataclass(frozen=True)
    class Config:
        needed: int
        folder: Path = Path("here")
        several: list = field(default_factory=list)
        scale: float = 0.5

    def build(config):
        return config
    """
    install("odd-defaults", {"odd": "odd_defaults.odd"}, odd=text)
    (row,) = [row for row in plugins.describe(FAMILY) if row["distribution"]]
    assert json.loads(json.dumps(row["settings"])) == {
        "needed": None, "folder": "here", "several": "[]", "scale": 0.5,
    }  # fmt: skip
    with pytest.raises(ConfigError, match="needed"):
        plugins.check(FAMILY, plugins.parse_spec("odd", FAMILY))
