"""jaxgen probe RUN: evaluates a run's features."""

import json
import pathlib

import jax
import numpy as np

from jaxgen.cli.options import CHECKPOINT, check_out, load_run, option, workers_option
from jaxgen.core import files, pictures
from jaxgen.core.errors import UserError
from jaxgen.data import real
from jaxgen.engine.run import Run
from jaxgen.evaluation import features

SHOWN = 10  # queries in the figure, each with as many neighbours less one


def probe(subject: str, words: list[str]) -> None:
  run, options = load_run(
    "probe",
    subject,
    words,
    {
      **CHECKPOINT,
      **workers_option(),
      "layer": option(str, "features, or the path of one of the network's modules", features.FEATURES),
      "k": option(int, "number of neighbours that vote", 20),
      "tau": option(float, "temperature of the neighbours' weights", 0.07),
      "shots": option(tuple[int, ...], "numbers of labelled examples per class for ridge regression", features.SHOTS),
      "out": option(
        pathlib.Path | None, "the .json file to write; the figure gets the same name with .png (RUN/probe.json)", None
      ),
    },
    "Evaluate a run's features by nearest neighbours, a linear probe and few labels, beside random weights and pixels.",
  )
  out = files.place(options["out"]) if options["out"] else run.folder / "probe.json"
  check_out(out)
  if out.suffix == ".png":
    raise UserError(f"--out {out}: the file's name must end in .json; the figure gets the same name with .png")
  table = features.probe(run, options["layer"], k=options["k"], tau=options["tau"], shots=options["shots"])
  picture = run.data.batch_spec(1, train=False).get("image")
  shown = picture is not None and picture.ndim == 4 and picture.shape[-1] in (1, 3, 4)
  figure = neighbours_figure(run, options["layer"]) if shown else None
  if jax.process_index() == 0:
    print_table(table)
    document = {"step": run.step, "layer": options["layer"], "tau": options["tau"], **table}
    files.write(out, json.dumps(document, indent=2) + "\n")
    print(f"numbers  {out}")
    if figure is not None:
      files.write(out.with_suffix(".png"), figure)
      print(f"figure   {out.with_suffix('.png')}: test pictures, and in each row their nearest of train")


def print_table(table: dict) -> None:
  """A line for each number, a column for each network."""
  names, columns = list(next(iter(table.values()))), list(table)
  width = max(map(len, names))
  print(f"{'':<{width}}  " + "  ".join(f"{c:>14}" for c in columns))
  for name in names:
    print(f"{name:<{width}}  " + "  ".join(f"{table[c][name]:>14.4g}" for c in columns))


def neighbours_figure(run: Run, layer: str) -> bytes:
  """A PNG: in each row a test picture and the training pictures with the nearest features."""
  read = features.reader(run, layer)
  train, test = features.of_split(read, "train"), features.of_split(read, run.data.test)
  chosen = np.linspace(0, len(test.label) - 1, min(SHOWN, len(test.label))).astype(int)
  _, near = features.neighbours(train.features, test.features[chosen], min(SHOWN - 1, len(train.label)))
  shown = lambda split, indices: np.concatenate(list(real.images(run.data, split, np.asarray(indices))))
  queries = shown(run.data.test, chosen)
  order, back = np.unique(near.ravel(), return_inverse=True)
  found = shown("train", order)[back].reshape(*near.shape, *queries.shape[1:])
  tiles = np.concatenate([queries[:, None], found], axis=1)
  return pictures.png(pictures.grid(tiles.reshape(-1, *queries.shape[1:]), columns=tiles.shape[1]))
