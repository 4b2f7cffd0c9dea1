import sys
from pathlib import Path

import pytest

from store import plugins
from store.errors import ConfigError, UnknownPlugin, UnknownSetting

PLUGIN = """
from dataclasses import dataclass

@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    size: int = 3
    scale: float = 0.5
    word: str = "x"
    untrained: bool = False

def build(config, *args, **kwargs):
    return config, args, kwargs
"""


@pytest.fixture
def family(tmp_path, monkeypatch):
    name = "family_of_toys"
    package = tmp_path / name
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "alpha.py").write_text(PLUGIN)
    (package / "beta.py").write_text("raise RuntimeError('imported')")
    (package / "_helper.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    for module in [m for m in sys.modules if m.split(".")[0] == name]:
        del sys.modules[module]


def test_names_may_be_written_with_hyphens():
    assert plugins.parse_spec("zero-shot:beta=0").name == "zero_shot"


def test_a_spec_is_split():
    spec = plugins.parse_spec("simclrv2:variant=r50, weights=/a/b=c.pt,untrained")
    assert spec.name == "simclrv2"
    assert spec.settings == {"variant": "r50", "weights": "/a/b=c.pt", "untrained": True}


@pytest.mark.parametrize("text", ["", ":a=1", "x:=1", "x:a=1,a=2"])
def test_a_malformed_spec_is_refused(text):
    with pytest.raises(ConfigError):
        plugins.parse_spec(text)


def test_public_modules_are_the_family_and_stay_unimported(family):
    assert plugins.names(family) == ["alpha", "beta"]
    assert f"{family}.beta" not in sys.modules


def test_settings_take_the_type_of_their_field(family):
    config, args, kwargs = plugins.build(
        family, "alpha:size=7,scale=2,word=5,untrained", 1, device="cpu"
    )
    assert (config.size, config.scale, config.word, config.untrained) == (7, 2.0, "5", True)
    assert isinstance(config.scale, float)
    assert (args, kwargs) == ((1,), {"device": "cpu"})


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({"scale": 2}, 2.0), ({"scale": 2.5}, 2.5)],
)
def test_typed_values_pass_and_whole_numbers_may_be_floats(family, settings, expected):
    value = plugins.configure(family, plugins.Spec("alpha", settings)).scale
    assert value == expected
    assert isinstance(value, float)


@pytest.mark.parametrize(
    "settings",
    [
        {"size": "seven"},
        {"size": "1.5"},
        {"size": True},
        {"size": 1.5},
        {"scale": "fast"},
        {"untrained": "yes"},
        {"untrained": 1},
        {"word": True},
    ],
)
def test_values_of_another_type_are_refused(family, settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        plugins.configure(family, plugins.Spec("alpha", settings))


def test_typos_are_answered_with_what_exists(family):
    with pytest.raises(UnknownPlugin, match="did you mean 'alpha'"):
        plugins.build(family, "alhpa")
    with pytest.raises(UnknownSetting, match="did you mean 'scale'"):
        plugins.build(family, "alpha:scal=1")


def test_a_module_outside_the_family_is_no_plugin(family):
    for name in ("_helper", "os", "../alpha", "alpha.x"):
        with pytest.raises(UnknownPlugin):
            plugins.module(family, name)


def test_a_new_file_is_a_new_plugin(family, tmp_path):
    Path(tmp_path, family, "gamma.py").write_text(PLUGIN)
    assert plugins.names(family) == ["alpha", "beta", "gamma"]
    assert plugins.build(family, "gamma")[0].size == 3


# What is read without what else its module needs: here a library that nobody has.
HEAVY = f"import nowhere_at_all\n{PLUGIN}\nTRAITS = ('open',)\n"


@pytest.fixture
def heavy(family, tmp_path):
    (tmp_path / family / "gamma.py").write_text(HEAVY)
    return family


def test_settings_are_checked_without_what_else_the_module_needs(heavy):
    assert plugins.check(heavy, plugins.parse_spec("gamma:size=7")).size == 7
    with pytest.raises(UnknownSetting, match="did you mean 'size'"):
        plugins.check(heavy, plugins.parse_spec("gamma:sise=7"))
    with pytest.raises(ConfigError, match="not a number"):
        plugins.check(heavy, plugins.parse_spec("gamma:size=many"))
    with pytest.raises(UnknownPlugin):
        plugins.check(heavy, plugins.parse_spec("gama"))
    assert f"{heavy}.gamma" not in sys.modules
    with pytest.raises(ModuleNotFoundError):
        plugins.build(heavy, "gamma:size=7")


def test_a_name_is_read_likewise_and_anew_where_the_module_changed(heavy, tmp_path):
    assert plugins.glance(heavy, "gamma", "TRAITS") == ("open",)
    assert plugins.glance(heavy, "gamma", "NOTHING", None) is None
    path = tmp_path / heavy / "gamma.py"
    path.write_text(path.read_text().replace("'open'", "'shut'"))
    assert plugins.glance(heavy, "gamma", "TRAITS") == ("shut",)
