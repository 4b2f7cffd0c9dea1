"""`--config` and `--save-config`: what one run was asked, another is asked by a file."""

import json
import tomllib

import pytest

from store import command_config, testing
from tests.integration.test_options import KNOWN
from tests.integration.test_random_options import call, command_of

MANY = [words for words, known in KNOWN.items() if "save_config" in known]
ASKED = ("--split", "all", "--queries", "3", "--episodes", "20", "--shots", "1", "--shots", "2")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("config")
    testing.fill(folder / "fs", clips=90, rows=2, dim=6, classes=6, disjoint=False)
    return folder


def episodes(home, *words):
    code, out, talk = call(home, ["learn", "episodes", *words, "--json"])
    return code, json.loads(out) if out else None, talk


def test_every_command_of_many_options_has_them():
    for words, known in KNOWN.items():
        own = [p for key, p in known.items() if key not in ("config", "save_config")
               and any(s.startswith("-") for s in p["spelling"])]  # fmt: skip
        assert (len(own) > command_config.MANY) == (words in MANY), words
    assert {"extract run", "learn episodes", "learn train"} <= set(MANY)


def test_a_saved_file_asks_the_same(home):
    head = 'npy="a, b"'  # no such head: quotes are for the grammar
    code, first, talk = episodes(home, "fs", *ASKED, "--head", "ridge:alpha=0.5,unit=true",
                                 "--head", "prototypes", "--save-config", "e.toml")  # fmt: skip
    assert code == 0, talk
    said = tomllib.loads((home / "e.toml").read_text())
    assert said["shots"] == [1, 2]
    assert said["directory"] == "fs"
    assert said["head"] == ["ridge:alpha=0.5,unit=true", "prototypes"]
    assert "json" not in said
    assert head not in said["head"]
    code, again, talk = episodes(home, "--config", "e.toml")
    assert code == 0, talk
    for one, two in zip(first["results"], again["results"], strict=True):
        assert {**one, "seconds": 0} == {**two, "seconds": 0}


def test_the_command_line_goes_before_the_file(home):
    (home / "few.toml").write_text(
        'directory = "fs"\nsplit = "all"\nqueries = 3\nepisodes = 20\nshots = [1]\n'
        'head = ["ridge"]\n'
    )
    _, found, talk = episodes(home, "--config", "few.toml", "--episodes", "30", "--shots", "2")
    assert found, talk
    assert {(row["episodes"], row["shots"], row["head"]) for row in found["results"]} == {
        (30, 2, "ridge")
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sots = [1]", "no option 'sots'.*did you mean 'shots'"),
        ("shots = 1", "shots takes a list"),
        ("seed = [1]", "seed takes one value"),
        ("inflation = 1", "inflation takes true or false"),
        ("seed = true", "seed takes text or a number"),
        ("shots = [[1]]", "its items are text or numbers"),
        ("seed = 1.5", "'--seed'"),
        ("[shots]\na = 1", "takes a list"),
        ("config = 'x'", "no option 'config'"),
        ("query-split = 'a'\nquery_split = 'b'", "there twice"),
        ("= 1", "is not TOML"),
        pytest.param("x = " + "[" * 30_000, "is not TOML", id="deep"),
    ],
)
def test_what_a_file_cannot_say(home, text, says):
    (home / "bad.toml").write_text(text)
    code, _, talk = episodes(home, "fs", "--config", "bad.toml")
    assert code == 2
    assert talk.count("\n") == 1
    import re

    assert re.search(says, talk), talk


def test_files_that_are_not_there_or_are(home):
    assert "no configuration" in episodes(home, "fs", "--config", "none.toml")[2]
    (home / "mine.toml").write_text("mine")
    code, _, talk = episodes(home, "fs", *ASKED, "--save-config", "mine.toml")
    assert code == 2
    assert "name a new file" in talk
    assert (home / "mine.toml").read_text() == "mine"
    (home / "dangling.toml").symlink_to(home / "elsewhere")
    assert "name a new file" in episodes(home, "fs", "--save-config", "dangling.toml")[2]
    assert "no directory" in episodes(home, "fs", "--save-config", "no/such/e.toml")[2]


def test_what_was_refused_leaves_no_file(home):
    code, _, _ = episodes(home, "fs", "--ways", "99", "--save-config", "refused.toml")
    assert code == 2
    assert not (home / "refused.toml").exists()


@pytest.mark.parametrize("words", MANY)
def test_every_parameter_can_be_written_and_read(words, tmp_path):
    """Of every command: a value of each kind comes back as the command line would have it."""
    parameters = [p for p in command_of(words).params if p.name not in command_config.NOT_KEPT]
    values = {}
    for p in parameters:
        one = True if getattr(p, "is_flag", False) else 'a "b"\\ é\n'
        several = bool(getattr(p, "multiple", False)) or p.nargs != 1
        values[p.name] = [one, "2"] if several else one
    path = tmp_path / "all.toml"
    command_config.write(path, words, parameters, values)
    assert command_config.read(path, parameters) == values


@pytest.mark.parametrize(("code", "written"), [(0, True), (1, True), (2, False), (130, False)])
def test_only_what_was_done_leaves_a_file(code, written):
    """Done with findings is done; stopped by Ctrl-C is not."""
    saved = []

    def command(
        a: int = 1, b: int = 1, c: int = 1, d: int = 1, e: int = 1, f: int = 1, g: int = 1,
        h: int = 1, i: int = 1,
    ) -> int:  # fmt: skip
        return code + 0 * (a + b + c + d + e + f + g + h + i)

    asked = command_config.with_files(command)
    assert asked(config=None, save_config=lambda: saved.append(1)) == code
    assert bool(saved) == written
