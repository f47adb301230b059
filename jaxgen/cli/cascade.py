"""jaxgen cascade RUN|CONFIG: train the stages of a cascade in turn, and draw samples that go through all of them."""

import io
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxgen.cli.options import RUNS, check_out, folder_of, option, parse, print_numbers, workers_option
from jaxgen.core import files
from jaxgen.core.errors import UserError
from jaxgen.core.keys import check_seed
from jaxgen.engine import cascade as stages_in_turn
from jaxgen.engine import loop
from jaxgen.engine.config import load_config
from jaxgen.engine.run import Run
from jaxgen.show import report

SAMPLES = {
  "n": option(int, "number of samples; 0: none", 64),
  "prompt": option(str | None, "the text that conditions the samples, for text-conditional stages", None),
  "samples_seed": option(int, "sample i depends only on this seed and i", 0),
  "first": option(int, "number of the first sample", 0),
  "out": option(
    pathlib.Path | None,
    "file to write: an .npz with the samples of every stage, or what shows those of the last one, a .png for one "
    "(in RUN/samples by default)",
    None,
  ),
}


def cascade(subject: str, words: list[str]) -> None:
  """A folder with a cascade is sampled; a config is trained first, or goes on."""
  folder = files.place(subject)
  if (folder / stages_in_turn.NAME).is_file():
    options, _ = parse(f"cascade {subject}", words, SAMPLES, "Draw samples that go through all stages of a cascade.")
    check_options(options)
    return draw(folder, options) if options["n"] else None
  config = load_config(subject)
  stages = stages_in_turn.stages_of(config)
  options, changed = parse(
    f"cascade {subject}",
    words,
    {
      "runs": option(pathlib.Path, "folder of runs, or its address on an object store: s3://... or gs://...", RUNS),
      "name": option(str | None, "the cascade's name (the config's by default); one that exists goes on", None),
      "seed": option(int, "seed of initialisation, data order and noise, of every stage", 0),
      **SAMPLES,
      **workers_option(),
    },
    config.doc,
    config,
  )
  if "stage" in changed:
    raise UserError(
      "--stage selects one stage, but a cascade trains all: use `jaxgen train`, with --name CASCADE/STAGE"
    )
  check_options(options)
  folder = folder_of(options["runs"], options["name"], config.name).path
  run_of = lambda stage: stages_in_turn.run_of(
    folder, config, stage, changed, options["seed"], workers=options["workers"]
  )
  runs = {stage: run_of(stage) for stage in stages}
  stages_in_turn.check(runs, stages)
  check_samples(runs, options)
  stages_in_turn.begin(folder, config)
  for stage, run in runs.items():
    if stages_in_turn.is_trained(run):
      print(f"{stage}: trained already, {run.folder.path}", flush=True)
      continue
    print(f"{stage}: {run.folder.path}", flush=True)
    print_numbers(loop.train(run, report=report.write))
    jax.clear_caches()  # the next stage has other programs
  if options["n"]:
    draw(folder, options)


def check_options(options: dict[str, Any]) -> None:
  """Raises a UserError for samples that cannot be drawn or written, before hours of work."""
  if options["n"] < 0:
    raise UserError(f"--n {options['n']}: it is a number of samples, 0 or more")
  if options["first"] < 0:
    raise UserError(f"--first {options['first']}: it is the number of a sample, 0 or more")
  check_seed(options["samples_seed"])
  if options["out"] is not None:
    check_out(files.place(options["out"]))


def check_samples(runs: Mapping[str, Run], options: dict[str, Any]) -> None:
  """Raises a UserError for a text that no stage is told, or a file of another kind than the last stage's samples."""
  stages_in_turn.readers(runs, options["prompt"])
  if (out := options["out"]) is None:
    return
  suffix, suffixes = files.place(out).suffix, [".npz", *list(runs.values())[-1].suffixes()]
  if suffix not in suffixes:
    raise UserError(f"--out {out}: these samples are written as {' or '.join(suffixes)}")


def draw(folder: files.Place, options: dict[str, Any]) -> None:
  """Draws samples and writes them."""
  n, seed, first = options["n"], options["samples_seed"], options["first"]
  stages, runs = stages_in_turn.read(folder)["stages"], stages_in_turn.runs_of(folder)
  last = list(runs.values())[-1]
  out = None if options["out"] is None else files.place(options["out"])
  check_samples(runs, options)
  tell = lambda stage, done: print(f"{stage}: {done} of {n} samples", flush=True) if done == n else None
  found = stages_in_turn.sample(runs, stages, n, seed=seed, first=first, prompt=options["prompt"], progress=tell)
  if out is not None and out.suffix == ".npz":
    buffer = io.BytesIO()
    np.savez(buffer, **found)
    files.write(out, buffer.getvalue())
    print(out)
    return
  for suffix, contents in last.render(found[list(found)[-1]], first).items():
    path = out or folder / "samples" / f"seed_{seed}_{first}_{n}{suffix}"
    if path.suffix == suffix:
      files.write(path, contents)
      print(path)
