"""Which adversarial losses and penalties find all clouds of the ring and of the grid, and which do not.

    python benchmarks/gan_modes.py

Trains configs/adversarial/gan_rings.py with each of METHODS on each of POINTS; what is there is not trained again.
Writes, after each run, benchmarks/gan_modes.json, with the modes that every run hits, the share of its samples within
3 sigma of one and the least mode's share (`jaxgen.evaluation.modes`), and docs/gan_modes.png, samples of the first
seed.
"""

import argparse
import json
import pathlib

import jax
import numpy as np

from jaxgen.data.sources import modes
from jaxgen.engine.config import load_config
from jaxgen.engine.folder import Folder
from jaxgen.engine.loop import train
from jaxgen.engine.run import Run
from jaxgen.evaluation.modes import modes_covered

HERE = pathlib.Path(__file__).parent
SEEDS = (0, 1, 2)
POINTS = {"ring8": dict(steps=8_000, width=64), "grid25": dict(steps=20_000, width=128)}
# Wasserstein critics are updated four times for each update of the generator, so that those make fewer steps.
METHODS = {
  "non-saturating, R1": dict(loss="non_saturating", penalty="r1"),
  "minimax": dict(loss="minimax", penalty="none"),
  "non-saturating": dict(loss="non_saturating", penalty="none"),
  "least squares": dict(loss="least_squares", penalty="none"),
  "Wasserstein, clipped": dict(loss="wasserstein", penalty="clip", k=4),
  "Wasserstein, gradient penalty": dict(loss="wasserstein", penalty="gradient_penalty", k=4),
}
SUCCEEDS = "non-saturating, R1"
LIMITS = {"ring8": 1.5, "grid25": 5.5}


def flags(points: str, method: str) -> dict:
  how = {"points": points, **POINTS[points], **METHODS[method]}
  return how | {"steps": how["steps"] // 2} if "k" in how else how


def trained(runs: pathlib.Path, points: str, method: str, seed: int) -> Run:
  """The run, trained where it is not yet."""
  name = f"{points}_{method}_{seed}".replace(", ", "_").replace(" ", "_")
  run = Run(Folder(runs / name), load_config("gan_rings"), flags(points, method), seed)
  if not run.folder.evaluation(run.experiment.steps):
    train(run)
  return run


def jobs() -> list[tuple[str, str, int]]:
  """(points, method, seed). On the grid, which takes longest, only the method that is to succeed has all seeds."""
  every = [(points, method, seed) for seed in SEEDS for method in METHODS for points in POINTS]
  return [job for job in every if job[0] == "ring8" or job[1] == SUCCEEDS or job[2] == SEEDS[0]]


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs/gan_modes"))
  parser.add_argument("--out", type=pathlib.Path, default=HERE / "gan_modes.json")
  parser.add_argument("--figure", type=pathlib.Path, default=HERE.parent / "docs" / "gan_modes.png")
  arguments = parser.parse_args()

  rows, samples = [], {}
  for points, method, seed in jobs():
    run = trained(arguments.runs, points, method, seed)
    rows.append({"points": points, "method": method, "seed": seed, "modes": len(modes(points)), **modes_covered()(run)})
    samples.setdefault((points, method), run.sample(2_500))
    print(json.dumps(rows[-1]), flush=True)
    document = {
      "config": "gan_rings",
      "flags": {points: {method: flags(points, method) for method in METHODS} for points in POINTS},
      "device": str(jax.devices()[0].device_kind),
      "rows": rows,
    }
    arguments.out.write_text(json.dumps(document, indent=1) + "\n")
    figure(document, samples, arguments.figure)


def figure(document: dict, samples: dict[tuple[str, str], np.ndarray], path: pathlib.Path):
  """Samples, a row for each kind of points and a column for each method, above them the mean over the seeds."""
  import matplotlib

  matplotlib.use("Agg")
  import matplotlib.pyplot as plt

  every, methods = list(POINTS), list(METHODS)
  plot, axes = plt.subplots(
    len(every), len(methods), figsize=(2.7 * len(methods), 3.0 * len(every)), squeeze=False, layout="constrained"
  )
  for i, points in enumerate(every):
    for j, method in enumerate(methods):
      panel, limit = axes[i, j], LIMITS[points]
      panel.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=[], yticks=[])
      if (points, method) not in samples:
        panel.axis("off")
        continue
      panel.scatter(*modes(points).T, s=60, facecolors="none", edgecolors="tab:orange", linewidths=0.7)
      panel.scatter(*samples[points, method].T, s=1, color="tab:blue", alpha=0.5, linewidths=0)
      found = [row for row in document["rows"] if (row["points"], row["method"]) == (points, method)]
      hit = ", ".join(f"{row['modes_hit_2500']:.0f}" for row in found)
      near = np.mean([row["share_within_3_sigma_2500"] for row in found])
      panel.set_title(f"{method}\n{hit} of {found[0]['modes']} modes, {100 * near:.0f} %", fontsize=8)
  plot.savefig(path, dpi=110)
  plt.close(plot)


if __name__ == "__main__":
  main()
