"""jaxgen sample RUN: draw samples from a run."""

import pathlib
import sys

import jax
import numpy as np
from rich.progress import Progress

from jaxgen.cli.options import CHECKPOINT, check_out, load_run, option
from jaxgen.core import files
from jaxgen.core.errors import UserError


def sample(subject: str, words: list[str]) -> None:
  run, options = load_run(
    "sample",
    subject,
    words,
    {
      **CHECKPOINT,
      "n": option(int, "number of samples", 64),
      "seed": option(int, "sample i depends on the seed and on i alone", 0),
      "first": option(int, "number of the first sample", 0),
      "out": option(
        pathlib.Path | None,
        "file to write: .npz, or what shows samples, a .png for one (in RUN/samples by default)",
        None,
      ),
    },
    "Draw samples from a run.",
  )
  n, seed, first = (options[name] for name in ("n", "seed", "first"))
  chosen = "" if options["checkpoint"] == "last" else f"_{options['checkpoint']}"
  out = options["out"] or run.folder / "samples" / f"seed_{seed}_{first}_{n}{chosen}"
  if options["out"] and out.suffix not in (suffixes := [".npz", *run.suffixes()]):
    raise UserError(f"--out {out}: these samples are written as {' or '.join(suffixes)}")
  check_out(out)
  with Progress(disable=jax.process_index() != 0 or not sys.stdout.isatty()) as bar:
    task = bar.add_task("sampling", total=n)
    samples = run.sample(n, seed=seed, first=first, progress=lambda done: bar.update(task, completed=done))
  if jax.process_index() != 0:
    return
  if options["out"] and out.suffix == ".npz":
    np.savez(out, samples=samples)
    print(out)
    return
  for suffix, contents in run.render(samples, first).items():
    path = options["out"] or out.with_name(out.name + suffix)
    if path.suffix == suffix:
      files.write(path, contents)
      print(path)
