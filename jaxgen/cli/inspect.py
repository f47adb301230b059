"""jaxgen inspect RUN|CONFIG: parameters, bytes, FLOPs; for a run also its step and the SHA-256 of its state.

With --target, it compiles for machines that you do not have, and shows what their compiler says the program costs.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from jaxgen import inspection
from jaxgen.cli.options import CHECKPOINT, cluster_options, join, load_run, option, parse
from jaxgen.core import files
from jaxgen.core.errors import UserError
from jaxgen.engine.config import load_config
from jaxgen.engine.folder import Folder
from jaxgen.engine.run import Run
from jaxgen.inspection import plan
from jaxgen.inspection.targets import target

TARGET = "plan for machines that you do not have: tpu:v5e:16x16 or gpu:h100:8 compiles for them, cpu:64 simulates"


def inspect(subject: str, words: list[str]) -> None:
  is_run = Folder(subject).exists()
  own = {
    "compile": option(bool, "also compile the training loop, for its temporary memory (takes minutes)", False),
    "target": option(str | None, TARGET, None),
    "quick": option(
      bool, "for --target: compile with the least effort, in an eighth of the time; the program is slower", False
    ),
  }
  if is_run and not any(word == "--target" or word.startswith("--target=") for word in words):
    run, options = load_run(
      "inspect", subject, words, own | CHECKPOINT, "Show a run's parameters, bytes, FLOPs, step and SHA-256."
    )
    _check_quick(options)
    inspection.show(run, is_run, options["compile"])
    return
  if files.is_remote(subject) or pathlib.Path(subject).is_dir():
    Folder(subject).info()  # says why it is not a run
    raise UserError(f"--target needs a config, but {subject} is a run: give its config")
  config = load_config(subject)
  options, changed = parse(f"inspect {subject}", words, {**own, **cluster_options()}, config.doc, config)
  _check_quick(options)
  if options["target"] is None:
    join(options)
    asked, devices = options["fsdp"] * options["tensor"], None
    if asked > 1 and jax.device_count() % asked:
      devices = asked  # simulated devices, as many as are asked for
    run = Run(Folder(""), config, changed, 0, fsdp=options["fsdp"], tensor=options["tensor"], devices=devices)
    if devices and options["compile"]:
      raise UserError(
        f"--compile True needs {asked} devices, and {jax.device_count()} are here: use --target cpu:{asked}"
      )
    inspection.show(run, is_run, options["compile"])
    return
  planned = target(options["target"])
  run = Run(Folder(""), config, changed, 0, fsdp=options["fsdp"], tensor=options["tensor"], devices=planned.devices)
  experiment = run.experiment
  found = plan.cost(run.program, planned, experiment.batch_size, options["quick"])
  inspection.print_rows(plan.table(run.program, planned, found, experiment.steps, experiment.batch_size))


def _check_quick(options: Mapping[str, Any]) -> None:
  if options["quick"] and options["target"] is None:
    raise UserError("--quick True needs --target: name the machines, such as --target tpu:v5e:4x4")
