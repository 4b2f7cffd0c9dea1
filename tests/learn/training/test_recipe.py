from dataclasses import fields
from pathlib import Path

import pytest

from learn.training import recipe
from store import plugins
from store.errors import ConfigError, MissingFile, UnknownPlugin, UnknownSetting


@pytest.mark.parametrize("name", [entry["name"] for entry in recipe.recipes()])
def test_every_recipe_says_how_to_run_it_and_can_be_read(name):
    entry = next(entry for entry in recipe.recipes() if entry["name"] == name)
    lines = Path(entry["path"]).read_text().splitlines()
    header = [line for line in lines if line.startswith("#")]
    for word in ("Command", "Time", "Expect"):
        assert any(line.startswith(f"# {word}") for line in header), word
    assert f"--recipe {name} " in "".join(header)
    assert f"--recipe {name} " in f"{entry['command']} "
    assert f"# Time       {entry['time'][:20]}" in "\n".join(header)
    assert entry["expect"].split() == words_of(header, "Expect")
    loaded = recipe.load(name)
    assert recipe.from_tables(loaded.to_dict(), source="") == loaded


def words_of(header, fact):
    """The words of a fact, counted here once more: its line, and those without a word in front."""
    begins = next(i for i, line in enumerate(header) if line.startswith(f"# {fact}"))
    words = header[begins].split()[2:]
    for line in header[begins + 1 :]:
        if not line.startswith("#   "):
            break
        words += line.split()[1:]
    return words


def test_changes_are_typed_like_the_recipe():
    changed = recipe.load(
        "infonce",
        ("projection.dim_out=7", "optimiser.learning_rate=3e-4", "objective.symmetric=sum",
         "data.label=topic"),
    )  # fmt: skip
    assert changed.projection["audio"].settings["dim_out"] == 7
    assert changed.stages[0].optimiser.learning_rate == 3e-4
    assert changed.stages[0].objective.settings["symmetric"] == "sum"
    assert changed.data.label == "topic"
    assert changed.projection["visual"].settings["dropout"] == 0.1  # defaults are written out


def test_a_file_serves_as_well_as_a_name(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[projection]\nname = "linear"\n[objective]\nname = "infonce"\n')
    assert recipe.load(path).projection["visual"].name == "linear"
    path.write_text("[projection")
    with pytest.raises(ConfigError, match="is not TOML"):
        recipe.load(path)
    path.write_text("projection = 3")
    with pytest.raises(ConfigError, match=r"not a \[section\]"):
        recipe.load(path)
    path.write_text('[projection]\nname = "linear"\n')
    with pytest.raises(ConfigError, match=r"objective\.name is missing; there are "):
        recipe.load(path)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ("optimizer.epochs=3", UnknownSetting, "did you mean 'optimiser'"),
        ("optimiser.epoch=3", UnknownSetting, "did you mean 'epochs'"),
        ("projection.dimout=3", UnknownSetting, "did you mean 'dim_out'"),
        ("projection.name=lineer", UnknownPlugin, "did you mean 'linear'"),
        ("optimiser.epochs=many", ConfigError, "epochs='many' is not a number"),
        ("optimiser.epochs=0", ConfigError, "less than 1"),
        ("optimiser.ways=100", ConfigError, "less than two clips of a class"),
        ("optimiser.learning_rate=0", ConfigError, "above 0"),
        ("optimiser.learning_rate=nan", ConfigError, "is not finite"),
        ("epochs=3", ConfigError, "SECTION.KEY=VALUE"),
        ("optimiser.epochs", ConfigError, "SECTION.KEY=VALUE"),
    ],
)
def test_what_cannot_be_set_is_one_line(change, error, says):
    with pytest.raises(error) as refusal:
        recipe.load("infonce", (change,))
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_an_unknown_recipe_says_what_was_meant():
    with pytest.raises(MissingFile, match="did you mean 'infonce'"):
        recipe.load("infonse")


def test_runs_of_before_projections_were_residual_are_read_as_what_they_were():
    for name, settings in (("linear", {"dim_out": 5}), ("mlp", {"dim_out": 5, "dropout": 0.1})):
        then = {"visual": {"name": name, **settings}, "audio": {"name": name, **settings}}
        tables = {"projection": then, "objective": {"name": "infonce"}}
        known = recipe.saved(tables, source="").projection["audio"].settings
        assert known["residual"] is False
        assert known["dropout"] == settings.get("dropout", 0.0)
        assert recipe.from_tables(tables, source="").projection["audio"].settings["residual"]


@pytest.mark.parametrize(("section", "name"), recipe.BEFORE)
def test_runs_of_before_a_setting_did_what_the_table_says(section, name):
    now = plugins.check(recipe.FAMILIES[section], plugins.Spec(name, {}))
    settings = {"name": name, **{f.name: getattr(now, f.name) for f in fields(now)}}
    settings |= {"heads": 6} if (section, name) == ("network", "tcaf") else {}
    before = recipe.BEFORE[section, name]
    then = {key: value for key, value in settings.items() if key not in before}
    tables = {
        "projection": {"visual": {"name": "linear"}, "audio": {"name": "linear"}},
        "stages": [{"objective": then if section == "objective" else {"name": "infonce"}}],
    }
    if section == "projection":
        tables["projection"] = {"visual": then, "audio": then}
    elif section == "network":
        tables = {"network": then, "stages": tables["stages"]}
    read = recipe.saved(tables, source="")
    spec = {
        "network": read.network,
        "projection": read.projection.get("visual"),
        "objective": read.stages[0].objective,
    }[section]
    for key, value in before.items():
        assert spec.settings[key] == (value(settings) if callable(value) else value)
    assert any(spec.settings[key] != settings[key] for key in before)


def test_same_is_a_word_for_a_dimension():
    for value in ("same", "0"):
        changed = recipe.load("protonet", (f"projection.dim_out={value}",))
        assert changed.projection["audio"].settings["dim_out"] == 0
    with pytest.raises(ConfigError, match="is not a number"):
        recipe.load("protonet", ("projection.dim_out=some",))


def test_another_plugin_leaves_the_settings_of_the_one_it_replaces():
    changed = recipe.load("cjme", ("projection.dim_out=7", "projection.name=linear"))
    assert changed.projection["visual"].name == "linear"
    assert changed.projection["visual"].settings["dim_out"] == 7
    assert recipe.load("cjme", ("projection.name=mlp",)).projection == (
        recipe.load("cjme").projection
    )
    other = recipe.load("infonce", ("network.name=concat", "projection.name=linear"))
    assert other.network is None
    assert recipe.load("infonce", ("network.name=concat",)).network.name == "concat"
    stages = recipe.load("sscl", ("objective.name=infonce",)).stages
    assert [stage.objective.name for stage in stages] == [
        "memory_bank", "infonce", "memory_bank", "infonce",
    ]  # fmt: skip
    one = recipe.load("cjme", ("projection.audio.name=linear", "projection.audio.dim_out=64"))
    assert (one.projection["visual"].name, one.projection["audio"].name) == ("mlp", "linear")
    assert recipe.from_tables(one.to_dict(), source="") == one
