"""Options as nobody put them together: no traceback, nothing half-written, JSON that is JSON.

Values come from the commands' own parameters, so a new option is tried the moment it exists.
"""

import contextlib
import io
import json
import os
import sys
from itertools import count
from pathlib import Path
from typing import get_type_hints

import pytest
import typer
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import cli
from store import console, plugins, testing

APPS = {"extract": cli.extract_app, "store": cli.store_app, "learn": cli.learn_app}
NUMBERS = ("-1", "0", "1", "2", "3", "5", "9999", "x")
SHARES = ("-1", "0", "0.05", "0.5", "1", "2", "nan", "inf", "x")
WORDS = ("", "v", "a", "av", "v,a", "label", "mood", "group", "none", "split", "all", "test", "val",
         "train", "Ü\n", "synthetic-visual", "synthetic-audio", "../x", "x" * 300)  # fmt: skip
# What takes long, or says nothing, if it is drawn from all there is.
KEPT_SMALL = {
    "episodes": ("-1", "0", "1", "6"),
    "max_episodes": ("0", "1", "1000"),
    "until_ci": ("0", "0.2", "0.9", "2"),
    "map_by": ("pca", "none", "x"),
    "figures": ("fs", "run1", "no/such"),  # elsewhere than in the world, or nowhere
    "older_than": ("0s", "1s", "24h", "-1s", "x"),
    "memory": ("1MiB", "1GiB", "0", "x"),
    "head": (*tuple(plugins.names("learn.fewshot.heads")), "own", "ridge:alpha=0", "nearest:k=3"),
    "by": ("prototypes", "nearest", "x"),
    "task": (*tuple(plugins.names("learn.fewshot.tasks")), "any_way_any_shot:min_ways=2", "x"),
    "groups": ("within", "strict", "mixed", "x"),
    "protocol": (*tuple(plugins.names("learn.evaluation.protocols")), "linear:c=1", "x"),
    "index": ("exact", "ivf", "ivf:cells=4,probes=1", "ivf:cells=-1", "x"),
    "form": (*tuple(plugins.names("store.exchange.formats")), "x"),
    "store_dir": ("fs", "odd", "new", "media", "x\n"),
    "extract visual": ("mobilenetv2:untrained", "mobilenetv2", "x", ""),
    "extract audio": ("yamnet:untrained", "vggish:untrained,x=1", "x"),
    "sample": (*tuple(plugins.names("extract.media.samplers")), "uniform:frames=-1", "x"),
    "device": ("auto", "cpu", "x"),
    "workers": ("-1", "1", "2", "x"),
    "clips": ("-1", "0", "1", "2", "x"),
    "against": ("first", "best", "all", "x"),
    "ci": ("t-ddof1", "normal-ddof0", "bootstrap", "x"),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two small stores, results, tables and a folder of media; tests run in there."""
    home = tmp_path_factory.mktemp("world")
    for name, more in {
        "fs": {"disjoint": False},
        "odd": {"silent_share": 0.9, "failed_share": 0.1, "separation": 0.0},
    }.items():
        testing.fill(home / name, clips=120, rows=2, dim=8, classes=6, clips_per_unit=50, **more)
    clips = [f"class{i % 6:03d}/clip{i:06d}.mp4" for i in range(120)]
    for name, rows in {
        "six.csv": [f"{c},{i % 2},m{i % 3}" for i, c in enumerate(clips[:6])],
        "many.csv": [f"{c},{c[:8]},m" for c in clips[:40]],
        "one.csv": [f"{clips[0]},a,b"],
        "empty.csv": [],
        "lost.csv": ["nowhere.mp4,a,b"],
    }.items():
        (home / name).write_text("\n".join(["clip_id,label,mood", *rows]) + "\n")
    (home / "m.csv").write_text(
        "path,label,group,split\n"
        + "".join(f"{c},{c[:8]},g{i // 4},{'val' if i % 2 else 'test'}\n"
                  for i, c in enumerate(clips[::2]))
    )  # fmt: skip
    for name in ("one", "two"):
        (home / "media" / name).mkdir(parents=True)
        (home / "media" / name / "clip.mp4").write_bytes(b"no video")
    (home / "clips.csv").write_text("path\nmedia/one/clip.mp4\nmedia/two/clip.mp4\n")
    for run, head in (("run1", "prototypes"), ("run2", "nearest")):
        code, _, talk = call(home, ["learn", "episodes", "fs", "--split", "all", "--queries", "3",
                                    "--episodes", "30", "--head", head, "-o", run])  # fmt: skip
        assert code == 0, talk
    code, _, talk = call(
        home, ["learn", "evaluate", "fs", "--protocol", "retrieval", "-o", "found"]
    )
    assert code == 0, talk
    return home


def call(home: Path, words: list[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command line, run in this process as its script would."""
    out, talk = io.StringIO(), io.StringIO()
    argv, here = sys.argv, Path.cwd()
    os.chdir(home)
    sys.argv = words
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(talk):
            console.run(APPS[words[0]])
    except SystemExit as left:
        code = int(left.code or 0)
    finally:
        os.chdir(here)
        sys.argv = argv
    return code, out.getvalue(), talk.getvalue()


def command_of(words: str):
    name, inner = words.split()
    return typer.main.get_command(APPS[name]).commands[inner]


def types_of(words: str) -> dict[str, str]:
    """What the function behind a command takes, by parameter."""
    name, inner = words.split()
    (command,) = (c for c in APPS[name].registered_commands if c.name == inner)
    return {key: str(hint) for key, hint in get_type_hints(command.callback).items()}


def values(words: str, name: str, kind: str) -> st.SearchStrategy[str]:
    """What may be written for a parameter of that name and type."""
    for key in (f"{words.split()[0]} {name}", name):
        if key in KEPT_SMALL:
            return st.sampled_from(KEPT_SMALL[key])
    if "int" in kind:
        return st.sampled_from(NUMBERS)
    if "float" in kind:
        return st.sampled_from(SHARES)
    if "Path" in kind:
        return st.sampled_from(
            ("m.csv", "six.csv", "many.csv", "one.csv", "empty.csv", "lost.csv", "none", "fs",
             "run1", "found", "media", "no such")
        )  # fmt: skip
    return st.sampled_from(WORDS)


ARGUMENTS = {
    "extract manifest": (("folder", "esc50", "x"), ("media", "m.csv", "no such")),
    "extract plan": (("clips.csv", "m.csv", "empty.csv", "media", "no such"),),
    "extract status": (("clips.csv", "m.csv", "empty.csv", "media", "no such"),),
    "store info": (("fs", "odd", "media", "no such"),),
    "store verify": (("fs", "odd", "run1"),),
    "store export": (("fs", "odd"),),
    "store gc": (("fs", "odd", "media"),),
    "learn episodes": (("fs", "odd"),),
    "learn evaluate": (("fs", "odd"),),
    "learn predict": (("fs", "odd"),),
    "learn search": (("fs", "odd"), ("class000/clip000000.mp4", "class001/clip000001.mp4", "x")),
    "learn compare": (("run1", "run2"), ("run2", "run1", "found", "no such")),
    "learn report": (("run1", "found", "run2", "fs"),),
}
SLOW = ("learn report", "extract plan")  # a second a page, and a decode process
ALWAYS = {
    "learn episodes": ["--episodes", "6", "--queries", "2"],
    "learn report": ["--map", "none"],
    "extract manifest": ["--media", "media"],
}


def drawn(data, words: str, output: Path) -> list[str]:
    """A command line with some of the command's options."""
    line = [*words.split(), *(data.draw(st.sampled_from(a)) for a in ARGUMENTS[words])]
    line += ALWAYS.get(words, [])
    types = types_of(words)
    for parameter in command_of(words).params:
        options = [option for option in parameter.opts if option.startswith("-")]
        if parameter.name in ("help", "output", "config", "save_config") or not options:
            continue
        if not parameter.required and data.draw(st.integers(0, 5)) > 0:
            continue
        option = max(options, key=len)
        line.append(option)
        if not parameter.is_flag:
            line.append(data.draw(values(words, parameter.name, types[parameter.name])))
    written = {p.name for p in command_of(words).params} & {"output"}
    return [*line, "-o", str(output)] if written else line


def hold(world: Path, words: str, examples: int) -> None:
    numbers = count()

    @settings(
        max_examples=examples, derandomize=True, database=None, deadline=None,
        suppress_health_check=list(HealthCheck), phases=[Phase.generate],
    )  # fmt: skip
    @given(st.data())
    def tried(data):
        folder = world / "out" / words.replace(" ", "-") / f"{next(numbers):05d}"
        folder.mkdir(parents=True)
        line = drawn(data, words, folder / "made")
        code, out, talk = call(world, line)
        shown = f"{' '.join(line)}\n{talk}"
        assert code in (0, 1, 2), shown
        assert "Traceback" not in talk, shown
        made = [path.name for path in folder.rglob("*")]
        assert not [n for n in made if n.endswith((".unfinished", ".partial", ".tmp"))], shown
        assert "made" in made or code == 2 or "-o" not in line, shown
        assert not made or code != 2, shown
        if code == 2:
            assert talk.strip().splitlines()[-1].startswith("error["), shown
            assert not out.strip(), shown
        elif "--json" in line:
            json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} in JSON: {shown}"))

    tried()


@pytest.mark.parametrize("words", [words for words in ARGUMENTS if words not in SLOW])
def test_any_options_end_well(world, words):
    hold(world, words, 20)


@pytest.mark.soak
@pytest.mark.parametrize("words", ARGUMENTS)
def test_any_options_end_well_for_long(world, words):
    hold(world, words, 300)
