"""jaxgen evaluate RUN: compute a run's evaluation."""

import json
import pathlib

import jax

from jaxgen.cli.options import CHECKPOINT, EMA, check_out, load_run, option, print_numbers, workers_option
from jaxgen.core import files
from jaxgen.core.errors import UserError
from jaxgen.engine.provenance import note_on_test_data


def evaluate(subject: str, words: list[str]) -> None:
  run, options = load_run(
    "evaluate",
    subject,
    words,
    {
      **CHECKPOINT,
      **EMA,
      **workers_option(),
      "out": option(pathlib.Path | None, "also write the numbers to this .json file", None),
    },
    "Compute a run's evaluation, with some of its arguments changed.",
  )
  if not run.experiment.evaluators:
    raise UserError(f"config {run.config.name} has no evaluators")
  if options["out"]:
    check_out(files.place(options["out"]))
  if jax.process_index() == 0 and (note := note_on_test_data(run)):
    print(note)
  numbers = run.evaluate()
  if jax.process_index() == 0:
    print_numbers(numbers)
    if options["out"]:
      document = {"step": run.step, "arguments": run.config.to_json(run.arguments), "ema": options["ema"], **numbers}
      files.write(options["out"], json.dumps(document, indent=2) + "\n")
