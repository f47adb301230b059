"""Every deterministic solver's order of convergence, on data whose probability-flow ODE is solved exactly.

    python benchmarks/order.py

Above in the figure, what tests/diffusion/test_order.py asserts: error against network calls on a grid uniform in
log-SNR between sigma / alpha = 150 and 0.04, multistep solvers from an exact past (`jaxgen.diffusion.convergence`).
Below, what is reported only: the same solvers as people run them, from noise to clean data, on VP over the usual grids,
with their own starts and the first-order step at the end. Writes docs/order.png and benchmarks/order.json.
"""

import json
import os
import pathlib

# Compiling is most of the work.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"

import jax
import jax.numpy as jnp
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import scipy.stats
from PIL import Image

from jaxgen import diffusion
from jaxgen.diffusion.convergence import HIGH, LOW, MIXTURE, ORDERS, errors, slope

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCHEDULES = {"VP": diffusion.vp(), "VE": diffusion.ve(), "rectified flow": diffusion.rectified_flow()}
CALLS = (24, 48, 96, 192, 384)
BUDGETS = (8, 16, 32, 64, 128)
GRIDS = {
  "uniform in t": "trailing",
  "quadratic in t": "quadratic",
  "uniform in log-SNR": "log_snr",
  "Karras": "karras",
}
PRACTICE = {
  "DDIM": "ddim",
  "Heun": "heun",
  "DPM-Solver-3": "dpm_solver_3",
  "DPM-Solver++ 2M": "dpmpp_2m",
  "DPM-Solver++ 3M": "dpmpp_3m",
  "PLMS": "plms",
  "LMS-4": "lms",
  "DEIS-3": "deis",
  "UniPC-3": "unipc",
}
# Of solvers that are one and the same, one is drawn.
DRAWN = {
  1: {
    "DDIM": "DDIM, Euler, DPM-Solver-1, UniP-1",
    "probability flow, Euler in t": "Euler in t (VE: the upper circles)",
  },
  2: {
    "Heun": "Heun",
    "DPM2": "DPM2, DPM-Solver-2",
    "DPM-Solver++ 2S": "DPM-Solver++ 2S",
    "UniPC-1": "UniPC-1",
    "DEIS-2": "DEIS-2",
    "DPM-Solver++ 2M": "DPM-Solver++ 2M, UniP-2",
    "PNDM": "PNDM, PLMS",
    "DPM-Solver++ 3M": "DPM-Solver++ 3M",
  },
  3: {
    "LMS-3": "LMS-3",
    "UniPC-2": "UniPC-2",
    "DPM-Solver-3": "DPM-Solver-3",
    "DPM-Solver++ 3M, exact D2": "DPM-Solver++ 3M, exact D2; UniP-3",
    "DEIS-3": "DEIS-3",
  },
  4: {"LMS-4": "LMS-4", "UniPC-3 in noise": "UniPC-3, noise form", "UniPC-3": "UniPC-3"},
}
BLUE, ORANGE, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"  # Okabe and Ito's, and a dark red:
SKY, AMBER, WINE = "#56B4E9", "#E69F00", "#882255"  # the colour-blind tell them apart
STYLES = {  # a colour for each family, in both rows
  "DDIM": (BLUE, "-"),
  "probability flow, Euler in t": (BLUE, ":"),
  "Heun": (ORANGE, "-"),
  "DPM2": (GREEN, "-"),
  "DPM-Solver-3": (GREEN, "-"),
  "DPM-Solver++ 2S": (PINK, "--"),
  "DPM-Solver++ 2M": (PINK, "-"),
  "DPM-Solver++ 3M": ("black", "-"),
  "DPM-Solver++ 3M, exact D2": ("black", "-"),
  "PNDM": (SKY, "-"),
  "PLMS": (SKY, "-"),
  "LMS-3": (AMBER, "-"),
  "LMS-4": (AMBER, "-"),
  "DEIS-2": ("0.5", "-"),
  "DEIS-3": ("0.5", "-"),
  "UniPC-1": (WINE, "-"),
  "UniPC-2": (WINE, "-"),
  "UniPC-3": (WINE, "-"),
  "UniPC-3 in noise": (WINE, "--"),
}


def proven() -> dict:
  """name -> order, slopes and errors from an exact past on each schedule, and slopes from the solver's own start."""
  rows = {}
  for name, (make, order) in ORDERS.items():
    rows[name] = {"order": order, "slope": {}, "errors": {}, "own start": {}}
    for of, schedule in SCHEDULES.items():
      error = errors(make, schedule, CALLS)
      rows[name]["slope"][of] = round(slope(error), 3)
      rows[name]["errors"][of] = {calls: float(f"{e:.4g}") for calls, e in error.items()}
    if make(schedule).order > 1:
      rows[name]["own start"]["VP"] = round(slope(errors(make, SCHEDULES["VP"], CALLS, exact_start=False)), 3)
    print(f"{name:30} {order}", *(f"{of} {value:.2f}" for of, value in rows[name]["slope"].items()), flush=True)
  return rows


def practised() -> dict:
  """grid -> solver -> network calls -> root mean square error of the sample, on VP."""
  schedule = SCHEDULES["VP"]
  x = jnp.asarray(scipy.stats.norm.ppf((np.arange(64) + 0.5) / 64))[:, None]
  keys = jax.random.split(jax.random.key(0), 64)
  exact = MIXTURE.transport(schedule, x, schedule.T, 0.0)
  rows = {}
  for title, grid in GRIDS.items():
    rows[title] = {}
    for name, key in PRACTICE.items():
      solver = diffusion.SOLVERS[key](schedule)
      rows[title][name] = {}
      for budget in BUDGETS:
        times = next(
          times
          for times in (diffusion.GRIDS[grid](schedule, n) for n in range(budget, 0, -1))
          if diffusion.network_calls(solver, times) <= budget
        )
        draw = lambda x, solver=solver, times=times: diffusion.sample(
          solver, MIXTURE.denoiser(schedule), times, x, keys
        )
        error = jnp.sqrt(jnp.mean((jax.jit(draw)(x) - exact) ** 2))
        rows[title][name][diffusion.network_calls(solver, times)] = float(f"{error:.4g}")
    print(title, {name: f"{min(row.values()):.1e}" for name, row in rows[title].items()}, flush=True)
  return rows


def draw(proven: dict, practised: dict) -> plt.Figure:
  matplotlib.rcParams.update({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False})
  figure = plt.figure(figsize=(15, 10.5), layout="constrained", facecolor="white")
  above, below = figure.subfigures(2, 1, hspace=0.04)
  above.suptitle(
    f"Order of convergence: error of x / alpha at sigma / alpha = {LOW:g}, from {HIGH:g}, on grids uniform in log-SNR\n"
    "(lines: VP; circles: VE; crosses: rectified flow)"
  )
  below.suptitle(
    "From noise to clean data, on VP over the grids people use: error of the sample\n"
    "(the floor at 3e-4 is the first-order last step, which PLMS and LMS do not take)"
  )
  for (order, names), ax in zip(DRAWN.items(), panels(above, CALLS), strict=True):
    for name, label in names.items():
      color, line = STYLES[name]
      error = proven[name]["errors"]
      ax.plot(error["VP"].keys(), error["VP"].values(), line, color=color, label=label, linewidth=1.8)
      for of, marker in (("VE", "o"), ("rectified flow", "+")):
        ax.plot(error[of].keys(), error[of].values(), marker, color=color, markersize=6, markerfacecolor="none")
    calls = np.array([96.0, 384.0])
    reference = 0.3 * min(proven[name]["errors"]["VP"][CALLS[-1]] for name in names) * (calls / calls[-1]) ** -order
    ax.plot(calls, reference, color="0.6", linewidth=1, dashes=(6, 3))
    ax.annotate(f"slope {order}", (384, reference[-1]), (0, -3), textcoords="offset points", ha="right", va="top")
    ax.legend(loc="lower left", frameon=False, fontsize=9, handlelength=1.6, borderaxespad=0.1)
    ax.set_title(f"order {order}", fontweight="bold", fontsize=11)
    ax.set_ylim(3e-10, 1)
  for (title, rows), ax in zip(practised.items(), panels(below, BUDGETS), strict=True):
    for name, error in rows.items():
      color, line = STYLES[name]
      ax.plot(error.keys(), error.values(), line, marker="o", color=color, label=name, linewidth=1.8, markersize=4)
    ax.set_title(title, fontweight="bold", fontsize=11)
  below.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=len(PRACTICE), frameon=False)
  return figure


def panels(figure: plt.Figure, calls: tuple[int, ...]) -> np.ndarray:
  axes = figure.subplots(1, 4, sharey=True)
  for ax in axes:
    ax.set(xscale="log", yscale="log", xlabel="network calls")
    ax.set_xticks(calls, calls)
    ax.minorticks_off()
    ax.grid(color="0.92", linewidth=0.8)
    ax.set_axisbelow(True)
  axes[0].set_ylabel("root mean square error")
  return axes


if __name__ == "__main__":
  jax.config.update("jax_enable_x64", True)
  results = {"proven": proven(), "practice": practised()}
  (ROOT / "benchmarks/order.json").write_text(json.dumps(results, indent=1) + "\n")
  picture = ROOT / "docs/order.png"
  draw(results["proven"], results["practice"]).savefig(picture, dpi=110)
  Image.open(picture).convert("RGB").quantize(128).save(picture, optimize=True)  # a fifth of the bytes
