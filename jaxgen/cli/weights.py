"""jaxgen import FILE CONFIG and jaxgen export RUN FILE: reads and writes other libraries' weights, in one process."""

import pathlib

from jaxgen.cli.options import CHECKPOINT, RUNS, folder_of, load_run, option, parse
from jaxgen.engine.config import load_config
from jaxgen.engine.run import Run
from jaxgen.interop import runs


def import_weights(file: str, subject: str, words: list[str]) -> None:
  config = load_config(subject)
  options, changed = parse(
    f"import {file} {subject}",
    words,
    {
      "runs": option(pathlib.Path, "folder of runs, or its address on an object store: s3://... or gs://...", RUNS),
      "name": option(str | None, "the run's name (the config's by default)", None),
      "seed": option(int, "seed of the parameters that are not read, and of further training", 0),
      "layout": option(str | None, "the layout of the file (by default the one whose names fit)", None),
      "fresh": option(tuple[str, ...], "parameters to initialise instead of reading them, such as params/head", ()),
    },
    config.doc,
    config,
  )
  folder = folder_of(options["runs"], options["name"], config.name)
  run = Run(folder, config, changed, options["seed"])
  count = runs.import_weights(run, file, options["layout"], options["fresh"])
  print(f"{folder.path}  step 0, {count:,} values read")


def export_weights(subject: str, file: str, words: list[str]) -> None:
  run, options = load_run(
    f"export {file}",
    subject,
    words,
    {
      **CHECKPOINT,
      "layout": option(str | None, "the layout to write; needed if the config has several", None),
      "average": option(bool, "write the averaged parameters, if the method has them", True),
    },
    "Write a run's weights in another library's layout, as .safetensors or .npz.",
    cluster=False,
  )
  count = runs.export_weights(run, file, options["layout"], options["average"])
  print(f"{file}  {count:,} values")
