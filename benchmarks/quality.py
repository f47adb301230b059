"""Quality of samples against network calls, and their seconds, for every solver.

    jaxgen train ddpm_digits
    python benchmarks/quality.py runs/ddpm_digits

Two denoisers, so that a network's errors and a solver's can be told apart: the trained network of the run, and the
exact one of a mixture of Gaussians that sits on the training digits, one narrow Gaussian each. Each solver takes the
grid that goes with it (GRIDS). What is measured is the Fréchet distance of as many samples as there are training digits
to the test digits, in the features of the judge that `jaxgen evaluate` takes, and the seconds that these samples take:
the median of the chunks' times, the first chunk, which compiles, left out, times the number of chunks. Solvers of as
many calls take turns chunk by chunk, so that whatever else the machine does falls on all of them alike. Writes
benchmarks/quality.json and docs/quality.png.

`--update` measures some solvers, of both denoisers or of one (`--of`), and keeps the other rows of the file:

    python benchmarks/quality.py runs/ddpm_digits --seeds 1 --budgets 8 16 32 --solvers pndm plms --update

It measures YARDSTICK with them. The yardstick's distances must be those of the file, so that the denoiser is the same
one, and the new seconds are divided by the ratio of the yardstick's seconds now and then.
"""

import argparse
import json
import pathlib
import statistics
import time
from functools import partial

import jax
import numpy as np

import jaxgen
from jaxgen import diffusion
from jaxgen.core import pictures
from jaxgen.core.environment import set_up_jax
from jaxgen.core.errors import UserError
from jaxgen.data import real
from jaxgen.diffusion.closed_form import Mixture
from jaxgen.diffusion.sampling import network_calls
from jaxgen.evaluation import judge
from jaxgen.evaluation.frechet import frechet_distance

HERE = pathlib.Path(__file__).parent
# The grids that go with the solvers in their papers; the others take DDIM's.
GRIDS = {
  **dict.fromkeys(["heun", "euler", "euler_ancestral", "dpm2", "lms"], "karras"),
  **dict.fromkeys(["dpm_solver_2", "dpm_solver_3", "dpmpp_2s", "dpmpp_2m", "dpmpp_3m", "dpmpp_sde_2m"], "log_snr"),
  **dict.fromkeys(["unipc", "deis"], "log_snr"),
  **dict.fromkeys(["euler_maruyama", "reverse_diffusion", "predictor_corrector", "probability_flow"], "linspace"),
}
YARDSTICK = "ddim"  # the solver that `--update` measures again
DENOISERS = ["network", "closed form"]
WIDTH = 0.1  # standard deviation of each Gaussian of the mixture


def grid_of(name: str, grid: str | None) -> str:
  return grid or GRIDS.get(name, "trailing")


def steps_within(name: str, schedule: diffusion.Schedule, grid: str, budget: int) -> int | None:
  """The most steps that a solver takes in so many network calls, None where it takes none."""
  solver = diffusion.SOLVERS[name](schedule)
  calls = lambda n: network_calls(solver, diffusion.GRIDS[grid](schedule, n))
  return max((n for n in range(solver.order, budget + 1) if calls(n) <= budget), default=None)


class Contender:
  """A solver at a number of steps: draws samples chunk by chunk and keeps the times."""

  def __init__(self, name: str, grid: str, steps: int, calls: int | None, draw, chunk: int):
    self.name, self.grid, self.steps, self.calls, self.draw, self.chunk = name, grid, steps, calls, draw, chunk
    start = time.perf_counter()
    self.turn(0, 0)
    self.compile_seconds, self.seconds, self.images = time.perf_counter() - start, [], {}

  def turn(self, seed: int, i: int):
    index = np.arange(i * self.chunk, (i + 1) * self.chunk)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), index)
    return np.asarray(self.draw(keys))

  def take(self, seed: int, i: int):
    start = time.perf_counter()
    images = self.turn(seed, i)
    self.seconds.append(time.perf_counter() - start)
    self.images.setdefault(seed, []).append(images)


def network_contenders(folder: str, only: str | None, budget: int, names, chunk: int):
  """Of a trained run, each with a solver of its own."""
  schedule = diffusion.cosine(1000)
  for name in names:
    grid = grid_of(name, only)
    n = steps_within(name, schedule, grid, budget)
    if n is not None:
      run = jaxgen.load(folder, solver=name, grid=grid, sampling_steps=n)
      draw = lambda keys, run=run: run.program.sample(run.state, keys, {})
      calls = network_calls(diffusion.SOLVERS[name](schedule), diffusion.GRIDS[grid](schedule, n))
      yield Contender(name, grid, n, calls, draw, chunk)


def exact_contenders(images: np.ndarray, only: str | None, budget: int, names, chunk: int):
  """Of the mixture on these images, with its exact denoiser."""
  schedule = diffusion.cosine(1000)
  mixture = Mixture(np.full(len(images), 1 / len(images)), images, np.full_like(images, WIDTH))
  denoise = mixture.denoiser(schedule)

  def sampler(solver, times):
    @jax.jit
    def draw(keys):
      x = jax.vmap(lambda key: jax.random.normal(key, images.shape[1:]))(keys)
      return diffusion.sample(solver, denoise, times, x, keys)

    return draw

  for name in names:
    grid = grid_of(name, only)
    n = steps_within(name, schedule, grid, budget)
    if n is not None:
      solver, times = diffusion.SOLVERS[name](schedule), diffusion.GRIDS[grid](schedule, n)
      yield Contender(name, grid, n, network_calls(solver, times), sampler(solver, times), chunk)
  yield Contender("exact samples", "", 0, 0, jax.jit(mixture.sample), chunk)


def measure(contenders, features, reference, total: int, chunk: int, levels: int | None, seeds: int) -> list[dict]:
  ready = []
  for contender in contenders:
    ready.append(contender)
    print(f"\r{len(ready)} compiled", end="", flush=True)
  chunks = -(-total // chunk)
  for seed in range(seeds):
    for i in range(chunks):
      for contender in ready:
        contender.take(seed, i)
      print(f"\rseed {seed}, chunk {i + 1} of {chunks}", end="", flush=True)
  print()
  rows = []
  for c in ready:
    distances = []
    for seed in range(seeds):
      images = np.concatenate(c.images[seed])[:total]
      stored = images if levels is None else pictures.quantize(images, levels)
      finite = np.isfinite(images).all()
      distances.append(frechet_distance(features(stored), reference) if finite else float("nan"))
    rows.append(
      {
        "solver": c.name,
        "grid": c.grid,
        "steps": c.steps,
        "network_calls": c.calls,
        "frechet": distances,
        "seconds": statistics.median(c.seconds) * chunks,
        "compile_seconds": c.compile_seconds,
      }
    )
  return rows


def merged(old: list[dict], new: list[dict]) -> list[dict]:
  """The old rows, in which the new ones of all solvers but the yardstick take the place of those before.

  Raises:
    UserError: the yardstick's distances have changed.
  """
  before = {(row["solver"], row["steps"]): row for row in old}
  ratios = []
  for row in new:
    if row["solver"] == YARDSTICK:
      kept = before[row["solver"], row["steps"]]
      if not np.allclose(kept["frechet"], row["frechet"], rtol=1e-3):
        raise UserError(f"{YARDSTICK} has the distances {row['frechet']}, not {kept['frechet']}: measure all solvers")
      ratios.append(row["seconds"] / kept["seconds"])
  again = {row["solver"] for row in new} - {YARDSTICK, "exact samples"}
  slower = statistics.median(ratios)
  rows = [{**row, "seconds": row["seconds"] / slower} for row in new if row["solver"] in again]
  return [row for row in old if row["solver"] not in again] + rows


def table(title: str, rows: list[dict]) -> str:
  lines = [
    f"### {title}",
    "",
    "| solver | grid | steps | network calls | Fréchet distance by seed | seconds |",
    "|---|---|---|---|---|---|",
  ]
  for row in rows:
    distances = " and ".join(f"{d:.2f}" for d in row["frechet"])
    head = f"| {row['solver']} | {row['grid']} | {row['steps']} | {row['network_calls']} |"
    lines.append(f"{head} {distances} | {row['seconds']:.2f} |")
  return "\n".join(lines)


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("run", help="a trained run of ddpm_digits")
  parser.add_argument("--budgets", type=int, nargs="+", default=[8, 16, 32, 64])
  parser.add_argument("--seeds", type=int, default=2, help="of the samples; their spread is the distance's own")
  parser.add_argument("--grid", choices=list(diffusion.GRIDS), help="for all; default: each solver's own")
  parser.add_argument("--solvers", nargs="+", choices=list(diffusion.SOLVERS), help="default: all of fixed steps")
  parser.add_argument("--update", action="store_true", help="keep the other rows that --out has")
  parser.add_argument("--of", nargs="+", choices=DENOISERS, default=DENOISERS, help="denoisers; default: both")
  parser.add_argument("--out", type=pathlib.Path, default=HERE / "quality.json")
  parser.add_argument("--figure", type=pathlib.Path, default=HERE.parent / "docs" / "quality.png")
  arguments = parser.parse_args()

  schedule = diffusion.cosine(1000)
  fixed = [name for name, make in diffusion.SOLVERS.items() if make(schedule).solve is None]
  names = arguments.solvers or fixed
  old = json.loads(arguments.out.read_text()) if arguments.update else None
  if old is None and len(arguments.of) < len(DENOISERS):
    parser.error("--of takes the other denoiser's rows from --out: give --update")
  yardstick = old is not None and YARDSTICK not in names
  names = [*names, YARDSTICK] if yardstick else names
  run = jaxgen.load(arguments.run)
  if run.config.name != "ddpm_digits" or run.arguments["schedule"] != "cosine":
    raise UserError(f"{arguments.run} is not a run of ddpm_digits with the cosine schedule")
  data, chunk = run.data, run.experiment.sample_chunk
  looks = judge.trained_on(data)
  whole = lambda split: np.concatenate(list(real.images(data, split, None)))
  train, test = whole("train"), whole("test")
  reference = looks.features(pictures.quantize(test, data.levels))
  floor = frechet_distance(looks.features(pictures.quantize(train, data.levels)), reference)

  results = {}
  for title, contenders in (
    ("network", partial(network_contenders, arguments.run)),
    ("closed form", partial(exact_contenders, train.astype(np.float32))),
  ):
    if title not in arguments.of:
      results[title] = old["results"][title]
      continue
    rows = []
    for budget in arguments.budgets:
      print(f"{title}, at most {budget} calls")
      made = contenders(arguments.grid, budget, names, chunk)
      rows += measure(made, looks.features, reference, len(train), chunk, data.levels, arguments.seeds)
      jax.clear_caches()  # or dozens of programs stay in memory
    if yardstick:
      rows = merged(old["results"][title], rows)
    results[title] = sorted(rows, key=lambda row: (row["solver"], row["steps"]))
    print(table(title, results[title]), flush=True)
  document = {
    "run": run.config.name,
    "step": run.step,
    "samples": len(train),
    "width": WIDTH,
    "floor": floor,
    "device": str(jax.devices()[0].device_kind),
    "jax": jax.__version__,
    "results": results,
  }
  arguments.out.write_text(json.dumps(document, indent=1) + "\n")
  figure(document, arguments.figure)


STOCHASTIC = ("ancestral", "euler_ancestral", "euler_maruyama", "reverse_diffusion", "dpmpp_sde_2m")
STOCHASTIC += ("predictor_corrector", "annealed_langevin")


def group_of(name: str) -> str:
  """What kind of solver it is, in words."""
  if name in STOCHASTIC:
    return "other stochastic solvers"
  solver = diffusion.SOLVERS[name](diffusion.cosine(1000))
  return "other solvers, one call a step" if solver.calls == 1 else "other solvers, more calls a step"


def at_the_front(document: dict, places: int = 2) -> list[str]:
  """The solvers that are among the first ones at any number of calls that was allowed, in either of the results."""
  found = {}
  for rows in document["results"].values():
    rows = [row for row in rows if row["steps"] > 1 and np.isfinite(row["frechet"]).all()]
    most = max(row["network_calls"] for row in rows)
    for budget in (most // 2**i for i in range(10)):
      rivals = [row for row in rows if budget / 2 < row["network_calls"] <= budget]
      for row in sorted(rivals, key=lambda row: np.mean(row["frechet"]))[:places]:
        found[row["solver"]] = None
  return sorted(found)


def figure(document: dict, path: pathlib.Path):
  """Distance against calls, for the network and for the closed form; seconds are in proportion to calls.

  The solvers at the front have a colour each; the others have one for each group.
  """
  import matplotlib

  matplotlib.use("Agg")
  import matplotlib.pyplot as plt

  names = list(dict.fromkeys(row["solver"] for rows in document["results"].values() for row in rows if row["steps"]))
  front = at_the_front(document)
  groups = sorted({group_of(name) for name in names if name not in front})
  greys = dict(zip(groups, (("0.62", "-"), ("0.62", (0, (4, 2))), ("0.62", (0, (1, 1.5)))), strict=False))
  palette = [*plt.get_cmap("Dark2").colors, *plt.get_cmap("Set1").colors]
  colors = dict(zip(front, palette, strict=False))
  fig, axes = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
  handles = {}
  for axis, (title, rows) in zip(axes, document["results"].items(), strict=True):
    floor = document["floor"] if title == "network" else np.mean([r["frechet"] for r in rows if not r["steps"]])
    for name in sorted(names, key=lambda name: name in front):
      mine = [r for r in rows if r["solver"] == name and r["steps"] > 1 and np.isfinite(r["frechet"]).all()]
      x, y = [row["network_calls"] for row in mine], [np.mean(row["frechet"]) for row in mine]
      if name in front:
        style = dict(color=colors[name], linewidth=2, marker="o", markersize=5, zorder=3)
      else:
        color, dash = greys[group_of(name)]
        style = dict(color=color, linestyle=dash, linewidth=1)
      label_of = name if name in front else group_of(name)
      handles.setdefault(label_of, axis.plot(x, y, **style)[0])
    axis.axhline(floor, color="black", linewidth=1)
    axis.set(xscale="log", yscale="log", xlabel="network calls", title=f"{title}: Fréchet distance")
    axis.set_xticks([8, 16, 32], ["8", "16", "32"])
    axis.minorticks_off()
    axis.set_yticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
    axis.grid(alpha=0.25, linewidth=0.5)
    axis.spines[["top", "right"]].set_visible(False)
    floor_of = "the training digits" if title == "network" else "exact samples"
    note = dict(xycoords=("axes fraction", "data"), xytext=(4, -4), textcoords="offset points", va="top")
    axis.annotate(f"floor: {floor_of}", (0, floor), **note)
    axis.set_ylim(bottom=0.8)
  order = [*front, *groups]
  fig.legend([handles[name] for name in order], order, loc="outside right upper", frameon=False)
  fig.suptitle(f"{document['samples']:,} samples, {document['run']}, {document['device']}")
  path.parent.mkdir(exist_ok=True)
  fig.savefig(path, dpi=110)


if __name__ == "__main__":
  set_up_jax()
  try:
    main()
  except UserError as error:
    raise SystemExit(f"quality: {error}") from None
