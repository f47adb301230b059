"""jaxgen import FILE CONFIG and jaxgen export RUN FILE: reads and writes other libraries' weights, in one process.

FILE may be a folder if the config has an argument "pretrained", as stable_diffusion has.
"""

import pathlib

from jaxgen.cli.options import CHECKPOINT, RUNS, folder_of, load_run, option, parse
from jaxgen.core.errors import UserError
from jaxgen.engine.config import load_config
from jaxgen.engine.run import Run
from jaxgen.interop import runs

PRETRAINED = "pretrained"  # the argument of configs that read all networks of a model, from a folder or a file


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
  whole = PRETRAINED in config.parameters  # the config itself reads all networks of a model
  if whole:
    changed = config.settled({**changed, PRETRAINED: file})
  run = Run(folder, config, changed, options["seed"])
  if whole and (options["layout"] or options["fresh"]):
    raise UserError(f"--layout and --fresh are of one network, and {config.name} reads whole models: leave them out")
  count = runs.import_model(run, file) if whole else runs.import_weights(run, file, options["layout"], options["fresh"])
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
