"""Samples of digits in 1, 2, 4 and 8 network calls: students of few calls beside the solvers of their teachers.

    python benchmarks/few_steps.py runs/progressive_8 runs/progressive_4 runs/mean_flow_digits runs/distilled_digits \\
      --teachers runs/edm_digits runs/flow_matching_digits

Each run is sampled with as many calls as it takes: a flow map or consistency model with all of them, a student of
progressive distillation or DMD with its own number. Teachers are sampled by `SOLVERS`, with the most steps that the
calls allow. Numbers are of as many samples as there are training digits, by seed of the samples: the Fréchet distance
to the test digits over that of the training digits (its floor), precision and recall of samples among the test digits,
in the features of the judge that `jaxgen evaluate` takes; and the seconds of sampling, without the first chunk, which
compiles. The training's seconds and steps are those of run.json. Writes benchmarks/few_steps.json and
docs/few_steps.png, and prints the table.
"""

import argparse
import json
import pathlib
import time

import jax
import numpy as np

import jaxgen
from jaxgen import diffusion
from jaxgen.core import pictures
from jaxgen.core.environment import set_up_jax
from jaxgen.core.errors import UserError
from jaxgen.data import real
from jaxgen.diffusion.sampling import network_calls
from jaxgen.evaluation import judge, manifold
from jaxgen.evaluation.frechet import frechet_distance

HERE = pathlib.Path(__file__).parent
CALLS = (1, 2, 4, 8)
OWN_NUMBER = ("progressive", "dmd")  # methods of `few_steps_digits` whose runs have one number of calls
SOLVERS = {"ddim": "trailing", "heun": "karras", "dpmpp_2m": "log_snr"}  # with their grids
SCHEDULES = {"edm": diffusion.edm, "flow_matching": diffusion.rectified_flow}


def of_student(folder: str, calls: int):
  """The run, set to take so many calls; None where it does not."""
  run = jaxgen.load(folder)
  if run.arguments.get("method") not in OWN_NUMBER:
    try:
      run = jaxgen.load(folder, sampling_steps=calls)
    except UserError:  # such as three steps of a shortcut model
      return None
  return run if run.experiment.method.network_calls == calls else None


def of_teacher(folder: str, solver: str, calls: int):
  """The run, with the most steps of a solver that so many calls allow; None where no number of steps takes them all."""
  name = jaxgen.load(folder).config.name
  config = name.removesuffix("_digits")  # edm_digits is another name of edm
  if config not in SCHEDULES:
    raise UserError(f"{folder} is a run of {name}: --teachers are runs of {' and '.join(SCHEDULES)}")
  schedule, grid = SCHEDULES[config](), SOLVERS[solver]
  made = diffusion.SOLVERS[solver](schedule)
  for steps in range(max(made.order, 1), calls + 1):
    if network_calls(made, diffusion.GRIDS[grid](schedule, steps)) == calls:
      return jaxgen.load(folder, solver=solver, grid=grid, sampling_steps=steps)
  return None


def measured(run, calls: int, name: str, seeds: int, looks, test: np.ndarray, total: int, floor: float) -> dict:
  """One row of the table."""
  ratios, precisions, recalls, seconds = [], [], [], []
  for seed in range(seeds):
    marks = []
    samples = run.sample(total, seed=seed, progress=lambda done, marks=marks: marks.append((time.perf_counter(), done)))
    found = (float("nan"),) * 3
    if np.isfinite(samples).all():
      features = looks.features(pictures.quantize(samples, run.data.levels))
      shares = manifold.manifold(features, test)
      distance = frechet_distance(features, test) / floor
      found = distance, float(shares.precision.mean()), float(shares.recall.mean())
    for numbers, number in zip((ratios, precisions, recalls), found, strict=True):
      numbers.append(number)
    (began, first), (ended, last) = marks[0], marks[-1]
    seconds.append((ended - began) * total / (last - first) if last > first else float("nan"))
  info = run.folder.info()
  return {
    "name": name,
    "run": run.folder.path.name,
    "config": run.config.name,
    "method": run.arguments.get("method") or run.arguments.get("kind"),
    "calls": calls,
    "ratio": ratios,
    "precision": precisions,
    "recall": recalls,
    "seconds": seconds,
    "training_steps": run.step,
    "training_seconds": sum(session["seconds"] for session in info["sessions"]),
  }


def table(rows: list[dict]) -> str:
  head = "| model | calls | Fréchet distance over its floor | precision | recall | seconds | training |"
  mean = lambda v, digits: f"{np.mean(v):.{digits}f}"
  spread = lambda v, digits: mean(v, digits) + (f" ± {np.std(v, ddof=1):.{digits}f}" if len(v) > 1 else "")
  lines = [head, "|---|---|---|---|---|---|---|"]
  for row in rows:
    training = f"{row['training_steps']:,} steps, {row['training_seconds'] / 60:.1f} min"
    cells = (
      spread(row["ratio"], 2),
      spread(row["precision"], 2),
      spread(row["recall"], 2),
      f"{np.mean(row['seconds']):.2f}",
    )
    lines.append(f"| {row['name']} | {row['calls']} | {' | '.join(cells)} | {training} |")
  return "\n".join(lines)


def figure(rows: list[dict], path: pathlib.Path) -> None:
  """Distance against calls, students with lines in colour, teachers' solvers in grey."""
  import matplotlib

  matplotlib.use("Agg")
  import matplotlib.pyplot as plt

  fig, axes = plt.subplots(figsize=(8, 5), layout="constrained")
  lines = {}
  for row in rows:
    # Students of one number of calls each, progressive_8 and progressive_4, are one line.
    label = f"{row['config']}: {row['method']}" if row["method"] in OWN_NUMBER else row["name"]
    lines.setdefault(label, []).append((row["calls"], np.mean(row["ratio"]), np.std(row["ratio"]), row["teacher"]))
  for label, points in lines.items():
    calls, mean, std, teacher = (np.array(v) for v in zip(*sorted(points), strict=True))
    style = dict(color="0.6", linestyle="--") if teacher[0] else {}
    axes.errorbar(calls, mean, std, marker="o", markersize=4, linewidth=1.3, capsize=2, label=label, **style)
  axes.axhline(1, color="black", linewidth=1)
  axes.set(xscale="log", yscale="log", xlabel="network calls", ylabel="Fréchet distance over its floor")
  axes.set_xticks(CALLS, [str(n) for n in CALLS])
  axes.minorticks_off()
  axes.grid(alpha=0.25, linewidth=0.5)
  fig.legend(loc="outside right upper", frameon=False, fontsize=8)
  path.parent.mkdir(exist_ok=True)
  fig.savefig(path, dpi=110)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("runs", nargs="+", help="trained runs of few_steps_digits and consistency_digits")
  parser.add_argument("--teachers", nargs="*", default=[], help="runs of edm on digits and of flow_matching")
  parser.add_argument("--calls", type=int, nargs="+", default=list(CALLS))
  parser.add_argument("--seeds", type=int, default=3, help="of the samples")
  parser.add_argument("--out", type=pathlib.Path, default=HERE / "few_steps.json")
  parser.add_argument("--figure", type=pathlib.Path, default=HERE.parent / "docs" / "few_steps.png")
  arguments = parser.parse_args()

  data = jaxgen.load(arguments.runs[0]).data
  looks = judge.trained_on(data)
  features = lambda split: looks.features(
    pictures.quantize(np.concatenate(list(real.images(data, split, None))), data.levels)
  )
  train, test = features("train"), features("test")
  floor, rows = frechet_distance(train, test), []
  for calls in arguments.calls:
    asked = [(folder, None, of_student(folder, calls)) for folder in arguments.runs]
    asked += [(f, solver, of_teacher(f, solver, calls)) for f in arguments.teachers for solver in SOLVERS]
    for folder, solver, run in asked:
      if run is None:
        continue
      name = pathlib.Path(folder).name + (f", {solver}" if solver else "")
      row = measured(run, calls, name, arguments.seeds, looks, test, len(train), floor)
      rows.append({**row, "teacher": solver is not None})
      print(f"{name}, {calls} calls: {np.mean(row['ratio']):.2f}", flush=True)
    jax.clear_caches()
  rows.sort(key=lambda row: (row["teacher"], row["name"], row["calls"]))
  document = {
    "samples": len(train),
    "floor": floor,
    "device": str(jax.devices()[0].device_kind),
    "jax": jax.__version__,
    "rows": rows,
  }
  arguments.out.write_text(json.dumps(document, indent=1) + "\n")
  figure(rows, arguments.figure)
  print(table(rows))


if __name__ == "__main__":
  set_up_jax()
  try:
    main()
  except UserError as error:
    raise SystemExit(f"few_steps: {error}") from None
