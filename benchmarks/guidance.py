"""What guidance does to class-conditional samples: their accuracy and their distance, against the weight.

    jaxgen train guided_digits
    python benchmarks/guidance.py runs/guided_digits

Accuracy is the share of samples that a classifier takes for the digit they were asked to be: a support vector machine
of scikit-learn's on the training digits, which has nothing to do with the network, nor with the judge whose features
the Fréchet distance is measured in. Writes benchmarks/guidance.json and docs/guidance.png.
"""

import argparse
import json
import pathlib

import jax
import numpy as np
from sklearn.svm import SVC

import jaxgen
from jaxgen import diffusion
from jaxgen.core import pictures
from jaxgen.core.environment import set_up_jax
from jaxgen.data import real
from jaxgen.evaluation import judge
from jaxgen.evaluation.frechet import frechet_distance

HERE = pathlib.Path(__file__).parent
SEEDS = (0, 1)


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("run", help="a trained run of guided_digits")
  parser.add_argument("--weights", type=float, nargs="+", default=[0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0])
  parser.add_argument("--solver", default="dpmpp_2m", choices=list(diffusion.SOLVERS))
  parser.add_argument("--grid", default="log_snr", choices=list(diffusion.GRIDS))
  parser.add_argument("--sampling-steps", type=int, default=25)
  parser.add_argument("--out", type=pathlib.Path, default=HERE / "guidance.json")
  parser.add_argument("--figure", type=pathlib.Path, default=HERE.parent / "docs" / "guidance.png")
  arguments = parser.parse_args()

  how = {"solver": arguments.solver, "grid": arguments.grid, "sampling_steps": arguments.sampling_steps}
  run = jaxgen.load(arguments.run, **how)
  data = run.data
  batches = {split: list(real.batches(data, split)) for split in ("train", "test")}
  column = lambda split, name: np.concatenate([batch[name] for batch in batches[split]])
  flat = lambda images: pictures.quantize(images, data.levels).reshape(len(images), -1)
  classifier = SVC(gamma="scale", C=10.0).fit(flat(column("train", "image")), column("train", "label"))
  real_accuracy = float(np.mean(classifier.predict(flat(column("test", "image"))) == column("test", "label")))
  looks = judge.trained_on(data)
  features = lambda images: looks.features(pictures.quantize(images, data.levels))
  reference = features(column("test", "image"))
  total = len(column("train", "image"))
  floor = frechet_distance(features(column("train", "image")), reference)

  rows, grids = [], []
  for weight in arguments.weights:
    label = np.arange(total) % 10
    samples = [run.sample(total, seed=s, label=label, weight=np.full(total, weight, np.float32)) for s in SEEDS]
    rows.append(
      {
        "weight": weight,
        "accuracy": [float(np.mean(classifier.predict(flat(x)) == label)) for x in samples],
        "frechet": [frechet_distance(features(x), reference) for x in samples],
      }
    )
    grids.append(samples[0][:10])
    print(json.dumps(rows[-1]), flush=True)
  document = {
    "run": run.config.name,
    "step": run.step,
    "sampling": how,
    "samples": total,
    "floor": floor,
    "real_accuracy": real_accuracy,
    "device": str(jax.devices()[0].device_kind),
    "rows": rows,
  }
  arguments.out.write_text(json.dumps(document, indent=1) + "\n")
  figure(document, grids, arguments.figure)


def figure(document: dict, grids: list[np.ndarray], path: pathlib.Path):
  import matplotlib

  matplotlib.use("Agg")
  import matplotlib.pyplot as plt

  rows = document["rows"]
  weights = [row["weight"] for row in rows]
  fig, (left, right, shown) = plt.subplots(1, 3, figsize=(13, 3.9), layout="constrained", width_ratios=(1, 1, 1.25))
  for axis, name, label, level, what in (
    (left, "accuracy", "accuracy of the samples", document["real_accuracy"], "test digits"),
    (right, "frechet", "Fréchet distance", document["floor"], "training digits"),
  ):
    values = np.array([row[name] for row in rows])
    axis.plot(weights, values.mean(1), marker="o", color="#3b82c4")
    axis.fill_between(weights, values.min(1), values.max(1), color="#3b82c4", alpha=0.2, linewidth=0)
    axis.axhline(level, color="0.4", linewidth=1, linestyle=(0, (6, 4)))
    axis.annotate(what, (1, level), xycoords=("axes fraction", "data"), xytext=(-4, 4), textcoords="offset points",
                  ha="right", color="0.35")  # fmt: skip
    axis.set(xlabel="guidance weight (1: conditional, no guidance)", ylabel=label)
    axis.grid(alpha=0.25, linewidth=0.5)
    axis.spines[["top", "right"]].set_visible(False)
  gap = 1
  rows_of_pixels = [np.concatenate([np.pad(x[..., 0], gap, constant_values=1) for x in grid], axis=1) for grid in grids]
  shown.imshow(np.concatenate(rows_of_pixels), cmap="gray", vmin=-1, vmax=1)
  height = rows_of_pixels[0].shape[0]
  shown.set_yticks([height * (i + 0.5) for i in range(len(weights))], [f"{w:g}" for w in weights])
  shown.set(xticks=[], ylabel="weight")
  path.parent.mkdir(exist_ok=True)
  fig.savefig(path, dpi=110)


if __name__ == "__main__":
  set_up_jax()
  main()
