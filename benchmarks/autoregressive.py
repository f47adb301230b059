"""What autoregressive models cost: NADE against the number of dimensions, and sampling against the naive loop.

    python benchmarks/autoregressive.py            # prints two tables, writes autoregressive.json beside this file

NADE's log-likelihood and its gradient are O(HD): seconds per dimension stay the same. A sample of K draws costs K
evaluations of the network by the naive loop (`nn.autoregressive.made.rerun`), and about one by each network's own
stepper, which computes nothing twice; the ratio grows with the image. Both draw the same samples, which is checked.
"""

import argparse
import json
import pathlib
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxgen.core.spec import Spec
from jaxgen.methods.likelihood.autoregressive import autoregressive
from jaxgen.nn.autoregressive.made import MADE, NADE, rerun
from jaxgen.nn.autoregressive.pixelcnn import GatedPixelCNN, PixelCNN
from jaxgen.nn.autoregressive.pixelcnnpp import PixelCNNpp
from jaxgen.probability.distributions import bernoulli, categorical, logistic_mixture


class Naive:
  """A network whose stepper is the naive loop."""

  def __init__(self, network):
    self.network = network
    self.init_with_output, self.apply = network.init_with_output, network.apply
    self.stepper = partial(rerun, network)


def seconds(f, *arguments, turns: int, clock=time.perf_counter) -> float:
  """The fastest of some turns, after one that compiles."""
  jax.block_until_ready(f(*arguments))
  found = []
  for _ in range(turns):
    start = clock()
    jax.block_until_ready(f(*arguments))
    found.append(clock() - start)
  return min(found)


def nade(dimensions: list[int], batch: int, hidden: int, turns: int) -> list[dict]:
  # On a CPU the processor's time, which other work on the machine does not lengthen.
  clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
  rows = []
  for D in dimensions:
    network, x = NADE(hidden), jnp.asarray(np.random.default_rng(0).choice([-1.0, 1.0], (batch, D)), jnp.float32)
    params = network.init(jax.random.key(0), x)["params"]
    log_p = lambda params, network=network, x=x: bernoulli().log_prob(
      network.apply({"params": params}, x), x[..., None]
    )
    f = jax.jit(jax.value_and_grad(lambda params, log_p=log_p: log_p(params).sum()))
    s = seconds(f, params, turns=turns, clock=clock)
    rows.append({"D": D, "seconds": s, "microseconds_per_dimension": 1e6 * s / D})
    print(f"NADE  D {D:5}  {1e3 * s:8.1f} ms  {1e6 * s / D:6.1f} us a dimension", flush=True)
  return rows


def sampling(sides: list[int], n: int, turns: int) -> list[dict]:
  rows, mixture = [], logistic_mixture(5, 256)
  for side in sides:
    shape = (side, side, 1)
    models = {
      "NADE": (NADE(100), bernoulli(), 2),
      "MADE": (MADE(1, (200,)), bernoulli(), 2),
      "PixelCNN": (PixelCNN(1, 16, 5), bernoulli(), 2),
      "gated PixelCNN": (GatedPixelCNN(16, 16, 5, 32), categorical(16), 16),
      "PixelCNN++": (PixelCNNpp(mixture.parameters, 16, 2, dropout=0.0), mixture, 256),
    }
    for name, (network, distribution, levels) in models.items():
      make = lambda network, d=distribution, levels=levels, shape=shape: autoregressive(
        network, d, spec=Spec(shape, levels), optimizer=optax.sgd(0.0)
      )
      own, naive = make(network), make(Naive(network))
      state = own.init(jax.random.key(0), {"image": jnp.zeros((1, *shape)), "index": jnp.arange(1)})
      keys = jax.random.split(jax.random.key(1), n)
      fast, slow = jax.jit(own.sample), jax.jit(naive.sample)
      same = float(jnp.mean(jnp.abs(fast(state, keys) - slow(state, keys)) < 1e-6))
      a, b = (seconds(f, state, keys, turns=turns) for f in (fast, slow))
      rows.append({"model": name, "side": side, "samples": n, "own": a, "naive": b, "ratio": b / a, "same": same})
      print(
        f"{name:15} {side:3}x{side:<3} own {1e3 * a:9.1f} ms  naive {1e3 * b:9.1f} ms  ratio {b / a:6.1f}  "
        f"the same {same:.1%}",
        flush=True,
      )
  return rows


if __name__ == "__main__":
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--dimensions", type=int, nargs="+", default=[98, 196, 392, 784, 1568])
  parser.add_argument("--sides", type=int, nargs="+", default=[8, 16, 28])
  parser.add_argument("--samples", type=int, default=4)
  parser.add_argument("--batch", type=int, default=100)
  parser.add_argument("--hidden", type=int, default=500)
  parser.add_argument("--turns", type=int, default=5)
  o = parser.parse_args()
  found = {
    "device": jax.devices()[0].device_kind,
    "jax": jax.__version__,
    "nade": nade(o.dimensions, o.batch, o.hidden, o.turns),
    "sampling": sampling(o.sides, o.samples, o.turns),
  }
  pathlib.Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
