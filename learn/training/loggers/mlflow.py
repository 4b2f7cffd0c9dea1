"""MLflow: a run of an experiment, at a tracking server or in a local file."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from learn.training.loggers import LoggedRun
from store.optional import library
from store.settings import Settings, setting
from store.spec import settings_of

LONGEST = 6000  # characters of a parameter's value, as MLflow has it
KEY = "microshot.run"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the logger `mlflow`."""

    uri: str = setting("", main=True)  # of the tracking server; none: as MLflow's own settings say
    experiment: str = "microshot"
    name: str = ""  # of the run; none: that of its directory


class MLflow:
    """Metrics of a run, by its client: nothing of the process is changed."""

    def __init__(self, client: Any, run_id: str) -> None:
        self._client, self._run_id = client, run_id

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Draw numbers at a step."""
        for name, value in values.items():
            self._client.log_metric(self._run_id, name, value, step=step)

    def close(self) -> None:
        """Mark the run as ended."""
        self._client.set_terminated(self._run_id)


def build(config: Config, run: LoggedRun) -> MLflow:
    """The run, gone on with where it is there already.

    Raises:
        ConfigError: MLflow is not installed.
    """
    client = library("mlflow", "mlflow").MlflowClient(config.uri or None)
    found = client.get_experiment_by_name(config.experiment)
    experiment = found.experiment_id if found else client.create_experiment(config.experiment)
    known = client.search_runs([experiment], f"tags.`{KEY}` = '{run.key}'", max_results=1)
    if known:
        run_id = known[0].info.run_id
        client.update_run(run_id, status="RUNNING")
        return MLflow(client, run_id)
    name = config.name or run.path.name
    run_id = client.create_run(experiment, tags={KEY: run.key}, run_name=name).info.run_id
    for key, value in settings_of(run.settings).items():
        client.log_param(run_id, key, str(value)[:LONGEST])
    return MLflow(client, run_id)
