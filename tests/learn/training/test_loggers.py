"""Loggers draw what `metrics.jsonl` tells, close in the end, and say what is not installed.

wandb and mlflow are small modules that keep what they are told; soaks use the real ones.
"""

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest

import learn
from learn.training.loggers import FAMILY, LoggedRun, Logger
from store import plugins, testing
from store.errors import ConfigError, InputError, UnknownPlugin

QUICK = ("optimiser.epochs=2", "optimiser.batch_size=16")


@pytest.fixture(scope="module")
def fs(tmp_path_factory):
    return testing.fill(
        tmp_path_factory.mktemp("loggers") / "s", clips=60, rows=2, dim=6, classes=5, disjoint=False
    )


class Told:
    """A library that keeps what it is told."""

    def __init__(self):
        self.rows, self.ended, self.asked, self.tags, self.runs = [], 0, {}, {}, []


@pytest.fixture
def wandb(monkeypatch):
    told = Told()
    run = SimpleNamespace(
        define_metric=lambda *a, **k: None,
        log=told.rows.append,
        finish=lambda: setattr(told, "ended", told.ended + 1),
    )
    module = ModuleType("wandb")
    module.init = lambda **asked: told.asked.update(asked) or run
    monkeypatch.setitem(sys.modules, "wandb", module)
    return told


@pytest.fixture
def mlflow(monkeypatch):
    told = Told()

    class MlflowClient:
        def __init__(self, uri):
            told.asked["uri"] = uri

        def get_experiment_by_name(self, name):
            return None

        def create_experiment(self, name):
            return "7"

        def search_runs(self, experiments, text, max_results):
            return [r for r in told.runs if r.tags["microshot.run"] in text]

        def create_run(self, experiment, tags, run_name):
            info = SimpleNamespace(run_id=f"r{len(told.runs)}")
            told.runs.append(SimpleNamespace(info=info, tags=tags))
            return told.runs[-1]

        def update_run(self, run_id, status):
            told.asked["again"] = run_id

        def log_param(self, run_id, key, value):
            told.tags[key] = value

        def log_metric(self, run_id, name, value, step):
            told.rows.append({name: value, "step": step})

        def set_terminated(self, run_id):
            told.ended += 1

    module = ModuleType("mlflow")
    module.MlflowClient = MlflowClient
    monkeypatch.setitem(sys.modules, "mlflow", module)
    return told


def curves(run_dir):
    """{curve: numbers in order} as `metrics.jsonl` has them."""
    found = {}
    for line in (run_dir / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        if "loss" in row and row["event"] == "epoch":
            found.setdefault(f"{row['stage']}/epoch/loss", []).append(row["loss"])
    return found


def drawn(rows, name):
    return [row[name] for row in rows if name in row]


def test_weights_and_biases_get_every_curve_and_the_settings(fs, wandb, tmp_path):
    learn.train(
        fs.path, "infonce", settings=QUICK, run_dir=tmp_path / "r", loggers=["wandb:mine,name=x"]
    )
    for name, numbers in curves(tmp_path / "r").items():
        assert drawn(wandb.rows, name) == pytest.approx(numbers)
    assert wandb.asked["project"] == "mine"
    assert wandb.asked["name"] == "x"
    assert wandb.asked["config"]["stages"][0]["objective"]["name"] == "infonce"
    assert all("training_step" in row for row in wandb.rows)
    assert wandb.ended == 1


def test_mlflow_gets_every_curve_and_goes_on_in_the_same_run(fs, mlflow, tmp_path):
    where = "mlflow:http://127.0.0.1:1/x,experiment=e"
    for _ in range(2):
        run = LoggedRun(path=tmp_path / "r", key="k", settings={"a": {"b": 1}})
        logger = plugins.build(FAMILY, where, run)
        logger.log({"main/epoch/loss": 0.5}, 3)
        logger.close()
    assert mlflow.asked == {"uri": "http://127.0.0.1:1/x", "again": "r0"}
    assert len(mlflow.runs) == 1
    assert mlflow.tags == {"a.b": "1"}
    assert mlflow.rows == [{"main/epoch/loss": 0.5, "step": 3}] * 2
    assert mlflow.ended == 2
    learn.train(fs.path, "infonce", settings=QUICK, run_dir=tmp_path / "r", loggers=["mlflow"])
    for name, numbers in curves(tmp_path / "r").items():
        assert drawn(mlflow.rows[2:], name) == pytest.approx(numbers)


def test_several_draw_at_once_and_all_are_closed_where_one_fails(fs, wandb, mlflow, tmp_path):
    with pytest.raises(ConfigError, match="name a directory"):
        learn.train(
            fs.path, "infonce", settings=QUICK, run_dir=tmp_path / "r",
            loggers=["wandb", "mlflow", "tensorboard"],
        )  # fmt: skip
    assert (wandb.ended, mlflow.ended) == (1, 1)


@pytest.mark.parametrize("name", plugins.names(FAMILY))
def test_without_the_library_it_says_what_to_install(name, monkeypatch, tmp_path):
    for module in (name, "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, module, None)
    run = LoggedRun(path=tmp_path, key="k", settings={})
    with pytest.raises(ConfigError, match=rf"microshot\[{name}\]"):
        plugins.build(FAMILY, f"{name}:{tmp_path}", run)


def test_what_a_library_says_against_it_is_one_line(fs, wandb, tmp_path):
    def init(**_):
        raise RuntimeError("no API key\nconfigured")

    sys.modules["wandb"].init = init
    with pytest.raises(ConfigError, match=r"^wandb cannot log: no API key conf"):
        learn.train(fs.path, "infonce", settings=QUICK, run_dir=tmp_path / "r", loggers=["wandb"])


@pytest.mark.parametrize("fails", ["log", "finish"])
def test_a_logger_that_fails_later_is_named_in_a_line_and_resume_goes_on(
    fs, wandb, tmp_path, fails
):
    def gone(*_):
        raise RuntimeError("the server is\ngone")

    run = sys.modules["wandb"].init()
    works = getattr(run, fails)
    setattr(run, fails, gone)
    asked = {"settings": QUICK, "run_dir": tmp_path / "r"}
    with pytest.raises(ConfigError, match=r"^wandb cannot log: the server is gone; .*`resume`"):
        learn.train(fs.path, "infonce", **asked, loggers=["wandb"])
    setattr(run, fails, works)
    learn.train(fs.path, "infonce", **asked, loggers=["wandb"], resume=True)
    assert (tmp_path / "r" / "done.json").is_file()


def test_what_ends_a_training_is_not_hidden_by_what_closing_says(fs, wandb, tmp_path):
    def gone():
        raise RuntimeError("the server is gone")

    sys.modules["wandb"].init().finish = gone
    diverging = (*QUICK, "optimiser.learning_rate=1e30")
    with pytest.raises(InputError, match="not finite"):
        learn.train(
            fs.path, "infonce", settings=diverging, run_dir=tmp_path / "r", loggers=["wandb"]
        )


def test_a_logger_that_is_none_is_refused_before_anything_is_written(fs, tmp_path):
    with pytest.raises(UnknownPlugin, match="did you mean 'wandb'"):
        learn.train(fs.path, "infonce", settings=QUICK, run_dir=tmp_path / "r", loggers=["wanb"])


@pytest.mark.soak
def test_the_real_weights_and_biases_offline(fs, tmp_path):
    pytest.importorskip("wandb")
    spec = f"wandb:mode=offline,directory={tmp_path}"
    learn.train(fs.path, "infonce", settings=QUICK, run_dir=tmp_path / "r", loggers=[spec])
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore")
def test_the_real_mlflow_in_a_file(fs, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow = pytest.importorskip("mlflow")
    uri = f"file:{tmp_path / 'ml'}"
    learn.train(
        fs.path, "infonce", settings=QUICK, run_dir=tmp_path / "r", loggers=[f"mlflow:{uri}"]
    )
    client = mlflow.MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("microshot").experiment_id])
    found = [m.value for m in client.get_metric_history(run.info.run_id, "main/epoch/loss")]
    assert found == pytest.approx(curves(tmp_path / "r")["main/epoch/loss"])


def test_every_logger_is_one(tmp_path, wandb, mlflow):
    run = LoggedRun(path=tmp_path, key="k", settings={})
    for name in plugins.names(FAMILY):
        spec = f"{name}:{tmp_path}" if name == "tensorboard" else name
        logger = plugins.build(FAMILY, spec, run)
        assert isinstance(logger, Logger)
        logger.close()
