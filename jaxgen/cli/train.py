"""jaxgen train CONFIG: train a config, or continue its run."""

import pathlib
from typing import Annotated

import jax
import tyro

from jaxgen.cli.options import RUNS, cluster_options, folder_of, join, option, parse, print_numbers, workers_option
from jaxgen.engine import loggers, loop, profiling
from jaxgen.engine.config import load_config
from jaxgen.engine.loggers import Logger
from jaxgen.engine.run import Run
from jaxgen.interop import transfer
from jaxgen.show import report

FROM = "RUN or RUN:PATH: a new run starts from the weights of this one, for all arrays whose path and shape agree"


def train(subject: str, words: list[str]) -> None:
  config = load_config(subject)
  options, changed = parse(
    f"train {subject}",
    words,
    {
      "runs": option(pathlib.Path, "folder of runs, or its address on an object store: s3://... or gs://...", RUNS),
      "name": option(str | None, "the run's name (the config's by default); an existing run is continued", None),
      "seed": option(int, "seed of initialisation, data order and noise", 0),
      "profile": option(str | None, "profile the steps FIRST:LAST, such as 100:110, into RUN/profile", None),
      "log": option(
        tuple[Logger, ...], "also log to these: wandb, mlflow (their extras; offline without an account)", ()
      ),
      "origin": (Annotated[str | None, tyro.conf.arg(name="from", help=FROM)], None),
      "other_data": option(bool, "continue a run although the content of its data has changed", False),
      **workers_option(),
      **cluster_options(),
    },
    config.doc,
    config,
  )
  join(options)
  folder = folder_of(options["runs"], options["name"], config.name)
  where = {name: options[name] for name in ("fsdp", "tensor", "workers")}
  changed = config.settled(changed, folder.info()["arguments"] if folder.exists() else None)
  run = Run(folder, config, changed, options["seed"], **where)
  if options["profile"] is not None:
    run.hooks.append(profiling.Profile(folder, *profiling.parse(options["profile"]), run.experiment.steps))
  run.on_metrics += [loggers.LOGGERS[name](run) for name in options["log"]]
  if options["origin"] is not None and not transfer.is_from(run, options["origin"]):
    print(f"from {options['origin']}: {transfer.start_from(run, options['origin'])}")
  if jax.process_index() == 0:
    print_data(run)
  numbers = loop.train(run, report=report.write, other_data=options["other_data"])
  if jax.process_index() == 0:
    print_skipped(run)
    print_numbers(numbers)
    print(f"checkpoints  {folder / 'checkpoints'}")
    if run.experiment.method.sample is not None and run.experiment.samples:
      print(f"samples      {folder / 'samples'}")
    print(f"report       {folder / 'report.html'}")
    if options["profile"] is not None:
      print(f"profile      {folder / 'profile'}")


def print_data(run: Run) -> None:
  """Prints what was read and what was left out of the data for training and evaluation."""
  print(run.data.describe("train"))
  if run.experiment.evaluators and run.data.has("test"):
    print(run.data.describe("test"))


def print_skipped(run: Run) -> None:
  """Prints how many updates of the run were skipped, if any."""
  lines = [line for line in run.folder.metrics() if line["kind"] == "train"]
  skipped = [line for line in lines if line["skipped"]]
  if skipped:
    count, last = sum(line["skipped"] for line in skipped), lines[-1]["step"]
    print(
      f"skipped      {count:,.0f} of {last:,} updates, whose loss, gradient or change was not finite, the first by "
      f"step {skipped[0]['step']:,} (see metrics.jsonl): look at the data's values, or lower the learning rate"
    )
