"""A library's message on the command line: parameters are shown as the options they are."""

import pytest

import cli
from store import console


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("`until_ci` draws, and `episodes_file` has them", "--until-ci draws, and --episodes-file"),
        ("`until-ci` too", "--until-ci too"),
        ("run `learn labels` first", "`learn labels`"),
        ("`nobody` knows this one", "`nobody`"),
        ("`directory` is an argument", "`directory`"),
        ("name `output` anew", "--output"),
        ("one of `projections`, `groups` apart", "one of --projection, --groups apart"),
    ],
)
def test_parameters_become_options(message, shown):
    options = console._options(cli.learn_app, ["episodes", "my_store", "--shots", "1"])
    assert shown in console.with_options(message, options)


def test_the_command_that_runs_decides():
    assert "support" in console._options(cli.learn_app, ["predict", "x"])
    assert console._options(cli.extract_app, ["weights", "fetch", "x"])["sha256"] == "--sha256"
    assert console._options(cli.store_app, ["export", "x"])["features"] == "--feature"
    assert console._options(cli.learn_app, ["nonsense"]) == {}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            "episodes nowhere --until-ci 0.1 --episodes-file e",
            "--until-ci draws episodes, and --episodes-file has them",
        ),
        ("episodes nowhere --drop v --drop-rates 2", "--drop rates [2.0]: name shares"),
        ("compare nowhere --against frist", "--against 'frist' is none of"),
        ("sweep nowhere --recipe infonce --grid x -o g", "--grid 'x' is not SECTION.KEY"),
    ],
)
def test_an_error_of_the_library_names_the_option(words, says, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["learn", *words.split()])
    with pytest.raises(SystemExit) as end:
        cli.learn_main()
    assert end.value.code == console.FIXABLE
    error = capsys.readouterr().err
    assert says in error
    assert "`" not in error
