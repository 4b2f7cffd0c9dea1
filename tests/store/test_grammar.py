"""The grammar of SPECs, and the examples of its page."""

import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import plugins
from store.errors import ConfigError, UnknownSetting
from store.grammar import Spec, split_specs

PAGE = (Path(__file__).parents[2] / "docs/spec.md").read_text()
LISTED = {
    name: family
    for family in (
        *("extract.encoders", "extract.media.samplers", "extract.datasets.layouts"),
        *("store.exchange.formats", "learn.fewshot.heads", "learn.evaluation.protocols"),
    )
    for name in plugins.names(family)
}
PLUGIN = """
from dataclasses import dataclass
from store.settings import Settings, setting

@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    size: int = 3
    word: str = setting("x", main=True)
    untrained: bool = False

def build(config):
    return config
"""


@pytest.fixture
def family(tmp_path, monkeypatch):
    package = tmp_path / "family_with_arguments"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "alpha.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield package.name
    for module in [m for m in sys.modules if m.split(".")[0] == package.name]:
        del sys.modules[module]


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("alpha:abc", {"word": "abc"}),
        ("alpha: abc ,size=1", {"word": "abc", "size": "1"}),
        ("alpha:untrained", {"untrained": True}),
        ("alpha:'untrained'", {"word": "untrained"}),
        ("alpha:abc,untrained", {"word": "abc", "untrained": True}),
        ('alpha:"a,b=c: d"', {"word": "a,b=c: d"}),
        ("alpha:'it''s \"it\"',size=1", {"word": 'it\'s "it"', "size": "1"}),
        ('alpha:size=1,word=" "', {"size": "1", "word": " "}),
        ('alpha:word=""', {"word": ""}),
        ('alpha:word=6" wide', {"word": '6" wide'}),
        ("alpha:word=/a/b=c.pt", {"word": "/a/b=c.pt"}),
        ("alpha:,,size=1,", {"size": "1"}),
    ],
)
def test_what_a_spec_means(family, text, settings):
    spec = plugins.parse_spec(text, family)
    assert spec.settings == settings
    assert plugins.parse_spec(str(spec), family) == spec
    built = plugins.build(family, text)
    assert {key: getattr(built, key) for key in settings} == {
        key: int(value) if key == "size" else value for key, value in settings.items()
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("alpha:'abc", "not closed"),
        ('alpha:size="1"2', "text follows"),
        ("alpha:size=1,'abc'", "is no main argument"),
        ("alpha:abc,word=x", "repeated key 'word'"),
        ("alpha:size=1,size=2", "repeated key 'size'"),
        ("alpha:=1", "empty key"),
        (" :1", "names nothing"),
    ],
)
def test_what_is_no_spec_is_refused_with_the_place(family, text, says):
    with pytest.raises(ConfigError, match=says):
        plugins.parse_spec(text, family)


def test_a_word_that_is_neither_argument_nor_switch_is_no_setting(family):
    with pytest.raises(UnknownSetting, match="'abc'"):
        plugins.build(family, "alpha:size=1,abc")
    with pytest.raises(UnknownSetting, match="no setting 'fast'"):
        plugins.build("learn.fewshot.heads", "gda:fast")
    with pytest.raises(ConfigError, match="'fast' is no main argument here; write KEY=fast"):
        plugins.build("learn.fewshot.heads", "gda:'fast'")


def test_every_main_argument_stands_in_its_listing():
    rows = [(family, row) for family in set(LISTED.values()) for row in plugins.describe(family)]
    mains = {row["name"]: (family, row["main"]) for family, row in rows if row["main"]}
    assert mains["fps"] == ("extract.media.samplers", "rate")
    for name, (family, main) in mains.items():
        assert plugins.parse_spec(f"{name}:5", family).settings == {main: "5"}


def test_the_examples_of_the_page_are_specs():
    examples = re.findall(r"^\| `(.*?)` \|", PAGE, re.MULTILINE)
    assert len(examples) > 6
    for text in examples:
        name = plugins.parse_spec(text).name if '"' not in text else text.partition(":")[0]
        plugins.check(LISTED[name], plugins.parse_spec(text, LISTED[name]))


text = st.text("ab:=,'\" \\é", max_size=8)
keys = st.text("abcxyz_", min_size=1, max_size=4)


@given(st.dictionaries(keys, text | st.just(True), max_size=4))
def test_a_spec_written_down_is_read_back(settings):
    spec = Spec("name", settings)
    assert plugins.parse_spec(str(spec)) == spec
    if True not in [*settings.values()][1:]:  # a word alone is the next SPEC
        assert split_specs(f"{spec},other") == [str(spec), "other"]


def test_several_specs_in_one_text():
    assert split_specs('a:x="p,q",y=2,b:c=1, d') == ['a:x="p,q",y=2', "b:c=1", "d"]
    assert split_specs("a,,b") == ["a", "", "b"]  # refused later, as a SPEC that names nothing
