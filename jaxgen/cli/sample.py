"""jaxgen sample RUN: draw samples from a run."""

import pathlib
import sys
import time

import jax
import numpy as np
from rich.progress import Progress

from jaxgen.cli import edits
from jaxgen.cli.options import CHECKPOINT, EMA, check_out, load_run, option
from jaxgen.core import files
from jaxgen.core.errors import UserError
from jaxgen.data.units import unit
from jaxgen.engine import shards

OPTIONS = {
  **CHECKPOINT,
  **EMA,
  **edits.OPTIONS,
  "prompt": option(str | None, "the text that conditions the samples, for text-conditional models", None),
  "negative": option(str | None, "the text that guidance leads away from, beside --prompt", None),
  "weight": option(float | None, "weight of guidance; 1 means no guidance; by default the config's", None),
  "n": option(int | None, "number of samples (64; with --prompt 1)", None),
  "seed": option(int, "sample i depends only on the seed and i", 0),
  "first": option(int, "number of the first sample", 0),
  "out": option(
    pathlib.Path | None,
    "file to write: .npz, or a format that shows the samples, such as .png (by default in RUN/samples); or a folder, "
    "which is filled in chunks, and which the same command continues after a kill",
    None,
  ),
  "format": option(shards.Kind, "the files in a folder: an .npz for each chunk, or a PNG file for each sample", "npz"),
  "chunk": option(
    int | None,
    "number of samples in a chunk of a folder (by default as many as in a batch); the samples do not depend on it",
    None,
  ),
  "batch": option(
    int | None,
    "number of samples that are computed at once (the config's); samples depend on it only by rounding",
    None,
  ),
}

TOLD = "prompt", "negative", "weight"  # as `Run.sample` takes them


class Clock:
  """Samples a second, without the first piece, whose time includes compiling."""

  def __init__(self):
    self.marks = []  # (seconds, samples drawn) after each piece

  def mark(self, drawn: int) -> None:
    self.marks.append((time.perf_counter(), drawn))

  def rate(self) -> float | None:
    """None if all samples came in one piece."""
    (began, first), (ended, last) = self.marks[0], self.marks[-1]
    return (last - first) / (ended - began) if last > first else None


def sample(subject: str, words: list[str]) -> None:
  run, options = load_run("sample", subject, words, OPTIONS, "Draw samples from a run.", yielding=TOLD)
  if options["n"] is None:
    options["n"] = 64 if options["prompt"] is None else 1
  for name in ("chunk", "batch"):
    if options[name] is not None and options[name] < 1:
      raise UserError(f"--{name} {options[name]}: it must be 1 or more")
  out = options["out"] and files.place(options["out"])
  is_folder = out is not None and (out.is_dir() or not out.suffix)
  if not is_folder and (options["chunk"] or options["format"] != "npz"):
    flag = f"--chunk {options['chunk']}" if options["chunk"] else f"--format {options['format']}"
    raise UserError(f"{flag} needs a folder: name one with --out FOLDER")
  told = {name: options[name] for name in TOLD if options[name] is not None}
  given = {**edits.given(run, options), **told}
  if is_folder and given:
    flags = " and ".join(f"--{name}" for name in (*edits.OPTIONS, *TOLD) if options[name] is not None)
    raise UserError(f"{flags} does not work with a folder: give --out FILE, or no --out")
  with Progress(disable=jax.process_index() != 0 or not sys.stdout.isatty()) as bar:
    task, clock = bar.add_task("sampling", total=options["n"]), Clock()

    def progress(kept: int, drawn: int) -> None:
      bar.update(task, completed=kept + drawn)
      if drawn:
        clock.mark(drawn)

    paths = to_folder(run, out, options, progress) if is_folder else to_file(run, out, options, progress, given)
  if jax.process_index() != 0:
    return
  if clock.marks and (rate := clock.rate()) is not None:
    what = unit(run.data)
    speed = f"{rate * what.each:,.4g} {what.name} a second"
    print(f"{clock.marks[-1][1]:,} samples drawn, {speed} after the first {clock.marks[0][1]:,}", file=sys.stderr)
  for path in paths:
    print(path)


def to_folder(run, out: files.Place, options, progress) -> list[files.Place]:
  """Draws samples, or those that are missing, into a folder."""
  wanted = {name: options[name] for name in ("seed", "first", "chunk", "batch")}
  done = shards.draw(run, out, options["n"], kind=options["format"], progress=progress, **wanted)
  if done.kept and jax.process_index() == 0:
    print(f"{done.kept:,} samples existed already, and their SHA-256 is right", file=sys.stderr)
  return [out]


def to_file(run, out: files.Place | None, options, progress, conditions) -> list[files.Place]:
  """Draws samples, with further arguments of `sample` [n, ...] by name, and writes them into one file."""
  n, seed, first, given = options["n"], options["seed"], options["first"], out is not None
  chosen = "" if options["checkpoint"] == "last" else f"_{options['checkpoint']}"
  chosen += "" if options["ema"] is None else f"_ema_{options['ema']:g}"
  out = out or run.folder / "samples" / f"seed_{seed}_{first}_{n}{chosen}"
  if given and out.suffix not in (suffixes := [".npz", *run.suffixes()]):
    raise UserError(f"--out {out}: these samples are written as {' or '.join(suffixes)}, or into a folder")
  check_out(out)
  wanted = dict(seed=seed, first=first, batch=options["batch"], **conditions)
  samples = run.sample(n, progress=lambda drawn: progress(0, drawn), **wanted)
  if jax.process_index() != 0:
    return []
  if given and out.suffix == ".npz":
    with files.written(out) as file:
      np.savez(file, samples=samples)
    return [out]
  paths = []
  for suffix, contents in run.render(samples, first).items():
    path = out if given else out.with_name(out.name + suffix)
    if path.suffix == suffix:
      files.write(path, contents)
      paths.append(path)
  return paths
