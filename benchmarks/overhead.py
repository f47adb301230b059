"""What a solver costs beside the network: seconds of one step outside it, in percent of one network call.

    python benchmarks/overhead.py

Each solver is run with a denoiser that costs next to nothing, and the network, a U-Net of 6.5 M parameters at 32 x 32,
is timed alone; all take turns, and medians count. Writes benchmarks/overhead.json.
"""

import argparse
import json
import pathlib
import statistics
import time

import jax
import jax.numpy as jnp

from jaxgen import diffusion
from jaxgen.core.environment import set_up_jax
from jaxgen.diffusion.sampling import network_calls
from jaxgen.nn import UNet

HERE = pathlib.Path(__file__).parent
STEPS = 20


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--batch", type=int, default=16)
  parser.add_argument("--rounds", type=int, default=9)
  parser.add_argument("--out", type=pathlib.Path, default=HERE / "overhead.json")
  arguments = parser.parse_args()

  schedule = diffusion.vp()
  keys = jax.random.split(jax.random.key(0), arguments.batch)
  x = jax.random.normal(jax.random.key(1), (arguments.batch, 32, 32, 3))
  network = UNet(channels=64, multipliers=(1, 2, 2), blocks=2, attention=(16,))
  t = jnp.full(arguments.batch, 500.0)
  params = jax.jit(network.init)(jax.random.key(2), x, t)
  contenders = {"network": (jax.jit(lambda x: network.apply(params, x, t)), 1)}

  def denoise(x, t):
    """x_0 = alpha x, the answer for data N(0, I)."""
    return schedule.alpha(t) * x, schedule.sigma(t) * x

  for name, make in diffusion.SOLVERS.items():
    solver = make(schedule)
    if solver.solve is None:
      times = diffusion.trailing(schedule, STEPS)
      run = jax.jit(lambda x, solver=solver, times=times: diffusion.sample(solver, denoise, times, x, keys))
      contenders[name] = (run, network_calls(solver, times))
  seconds = {name: [] for name in contenders}
  for run, _ in contenders.values():
    jax.block_until_ready(run(x))
  for _ in range(arguments.rounds):
    for name, (run, calls) in contenders.items():
      start = time.perf_counter()
      jax.block_until_ready(run(x))
      seconds[name].append((time.perf_counter() - start) / calls)
  medians = {name: statistics.median(values) for name, values in seconds.items()}
  percent = {name: 100 * value / medians["network"] for name, value in medians.items() if name != "network"}
  print(f"network: {1e3 * medians['network']:.1f} ms a call, batch {arguments.batch}, {jax.devices()[0].device_kind}")
  for name, value in sorted(percent.items(), key=lambda item: -item[1]):
    print(f"{name:22s} {1e3 * medians[name]:7.3f} ms for each call   {value:5.2f} %")
  document = {"device": jax.devices()[0].device_kind, "jax": jax.__version__, "batch": arguments.batch}
  document |= {"network_ms": 1e3 * medians["network"], "percent_of_a_call": percent}
  arguments.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
  set_up_jax()
  main()
