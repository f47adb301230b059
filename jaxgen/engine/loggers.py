"""Logging to Weights & Biases and MLflow, besides metrics.jsonl: the same numbers under the same names,
"train/network/loss".

    jaxgen train ddpm_digits --log wandb mlflow

Both are extras, and neither needs a network: Weights & Biases is offline where neither WANDB_MODE nor WANDB_API_KEY is
set, and MLflow writes RUN/mlflow.db, SQLite, where MLFLOW_TRACKING_URI does not say otherwise. A run that continues
also continues there: RUN/loggers.json has its identifiers. Whatever else is to hear of the numbers is a function in
`Run.on_metrics`.
"""

import json
import math
import os
import pathlib
import secrets
import time
from collections.abc import Callable
from typing import Any, Literal

import jax

from jaxgen.core import files
from jaxgen.core.errors import UserError
from jaxgen.engine.run import Run

Logger = Literal["wandb", "mlflow"]
KEPT = "loggers.json"  # where a run keeps its identities


class Wandb:
  """A run of Weights & Biases; it begins with the first numbers."""

  def __init__(self, run: Run):
    self._module, self._run, self._there = _imported("wandb"), run, None
    _check_local(run, "wandb")

  def __call__(self, step: int, kind: str, numbers: dict[str, float]) -> None:
    if self._there is None:
      kept = _kept(self._run)
      mode = None if {"WANDB_MODE", "WANDB_API_KEY"} & set(os.environ) else "offline"
      self._there = self._module.init(
        project=os.environ.get("WANDB_PROJECT", "jaxgen"),
        name=self._run.name,
        id=kept.get("wandb") or secrets.token_hex(8),
        resume="allow",
        dir=str(self._run.folder.path),
        config={**self._run.config.to_json(self._run.arguments), "seed": self._run.seed},
        mode=mode,
      )
      _keep(self._run, {**kept, "wandb": self._there.id})
    self._there.log({f"{kind}/{name}": value for name, value in numbers.items()} | {"step": step}, step=step)

  def close(self) -> None:
    if self._there is not None:
      self._there.finish()


class Mlflow:
  """A run of MLflow; it begins with the first numbers. Numbers that are not finite are left out: not every store keeps
  it."""

  def __init__(self, run: Run):
    _check_local(run, "mlflow")
    self._run, self._id = run, None
    place = pathlib.Path(str(run.folder.path)).absolute() / "mlflow.db"
    self._client = None
    self._module = _imported("mlflow")
    self._uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{place}"

  def _begin(self) -> None:
    self._client = self._module.MlflowClient(self._uri)
    kept = _kept(self._run)
    self._id = kept.get("mlflow")
    if self._id is None:
      name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "jaxgen")
      known = self._client.get_experiment_by_name(name)
      experiment = known.experiment_id if known else self._client.create_experiment(name)
      self._id = self._client.create_run(experiment, run_name=self._run.name).info.run_id
      for argument, value in {**self._run.config.to_json(self._run.arguments), "seed": self._run.seed}.items():
        self._client.log_param(self._id, argument, value)
      _keep(self._run, {**kept, "mlflow": self._id})

  def __call__(self, step: int, kind: str, numbers: dict[str, float]) -> None:
    if self._client is None:
      self._begin()
    entry, now = self._module.entities.Metric, int(time.time() * 1000)
    finite = {name: value for name, value in numbers.items() if math.isfinite(value)}
    metrics = [entry(f"{kind}/{name}", value, now, step) for name, value in finite.items()]
    self._client.log_batch(self._id, metrics=metrics)  # one by one each takes 40 ms in SQLite

  def close(self) -> None:
    if self._client is not None:
      self._client.set_terminated(self._id)


LOGGERS: dict[str, Callable[[Run], Any]] = {"wandb": Wandb, "mlflow": Mlflow}


def _imported(name: str) -> Any:
  try:
    return __import__(name)
  except ImportError as error:
    raise UserError(f"--log {name} needs the library {name} ({error}): pip install 'jaxgen[{name}]'") from None


def _check_local(run: Run, name: str) -> None:
  if files.is_remote(run.folder.path) and jax.process_index() == 0:
    raise UserError(f"--log {name} writes into a folder of a file system, and {run.folder.path} is none")


def _kept(run: Run) -> dict[str, str]:
  try:
    return json.loads((run.folder / KEPT).read_text())
  except (OSError, ValueError):
    return {}


def _keep(run: Run, kept: dict[str, str]) -> None:
  files.write(run.folder / KEPT, json.dumps(kept, indent=2) + "\n")
