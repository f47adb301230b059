"""What a token costs to sample with a cache and without one, against the length of the sequence.

    python benchmarks/cached_sampling.py

Without a cache a network reads the whole sequence, T tokens, for every token that it says. A cached WaveNet reads one,
whatever T is; a cached Transformer reads one, which attends to T. By count of the multiplications in matrix products
the cache saves a factor of T for both: of a Transformer's costs without a cache, a T + b T^2, and with one, a + b T,
the ratio is T, too. The factor in time is that times a constant, since products of few rows make less of a machine than
products of many.

Both samplers draw the same tokens from the same keys, which is checked. Time is the process's CPU time, all threads
together, the least of several rounds. Writes benchmarks/cached_sampling.json and docs/cached_sampling.png.
"""

import argparse
import json
import pathlib
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import decoding
from jaxgen.engine.flops import flops
from jaxgen.nn.sequence.transformer import LanguageModel, gpt
from jaxgen.nn.sequence.wavenet import WaveNet, stacks

HERE = pathlib.Path(__file__).parent
VOCABULARY, SAID = 64, 8  # tokens there are; tokens said in a measurement


def networks(length: int) -> dict:
  return {
    "WaveNet": WaveNet(VOCABULARY, stacks(2, 8), features=64, hidden=64, skip=64),
    "Transformer": LanguageModel(VOCABULARY, gpt(128, 4, 4, length)),
  }


def naive(network, params, batch: int, length: int):
  """(step, carry) of `jaxgen.decoding` that keeps nothing but the tokens."""

  def step(carry, tokens):
    t = carry["t"][0]
    said = carry["said"].at[:, t].set(tokens)
    return network.apply({"params": params}, said)[:, t], {"t": carry["t"] + 1, "said": said}

  return step, {"t": jnp.zeros(batch, jnp.int32), "said": jnp.zeros((batch, length), jnp.int32)}


def cached(network, params, batch: int, length: int):
  return network.stepper(params, jnp.zeros((batch, 0), jnp.int32), length)


def sampler(stepper, network, batch: int, length: int, said: int):
  def sample(params, keys):
    step, carry = stepper(network, params, batch, length)
    return decoding.ancestral(step, carry, jnp.zeros(batch, jnp.int32), keys, length=said)[0]

  return sample


def seconds(function, *arguments, rounds: int) -> float:
  """CPU seconds, the least of several rounds."""
  jax.block_until_ready(function(*arguments))
  times = []
  for _ in range(rounds):
    begin = time.process_time()
    jax.block_until_ready(function(*arguments))
    times.append(time.process_time() - begin)
  return min(times)


def measure(name: str, batch: int, length: int, rounds: int) -> dict:
  """One row: FLOPs and microseconds of a token of one sequence of this length."""
  network = networks(length)[name]
  params = network.init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
  keys = jax.random.split(jax.random.key(1), batch)
  row = {"network": name, "length": length}
  for kind, stepper in (("naive", naive), ("cached", cached)):
    sample = sampler(stepper, network, batch, length, SAID)
    row[f"{kind}_flops"] = flops(jax.make_jaxpr(sample)(params, keys).jaxpr) / (SAID * batch)
    row[f"{kind}_us"] = seconds(jax.jit(sample), params, keys, rounds=rounds) * 1e6 / (SAID * batch)
  row["factor_by_count"] = row["naive_flops"] / row["cached_flops"]
  row["factor_in_time"] = row["naive_us"] / row["cached_us"]
  return row


def check(name: str, batch: int = 2, length: int = 16) -> None:
  """The two samplers say the same."""
  network = networks(length)[name]
  params = network.init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
  keys = jax.random.split(jax.random.key(1), batch)
  a, b = (jax.jit(sampler(s, network, batch, length, length))(params, keys) for s in (naive, cached))
  np.testing.assert_array_equal(a, b)


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--lengths", type=int, nargs="+", default=[16, 32, 64, 128, 256, 512, 1024])
  parser.add_argument("--batch", type=int, default=8)
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--out", type=pathlib.Path, default=HERE / "cached_sampling.json")
  parser.add_argument("--figure", type=pathlib.Path, default=HERE.parent / "docs" / "cached_sampling.png")
  arguments = parser.parse_args()

  rows = []
  for name in networks(1):
    check(name)
    for length in arguments.lengths:
      rows.append(measure(name, arguments.batch, length, arguments.rounds))
      print(json.dumps(rows[-1]), flush=True)
  document = {"batch": arguments.batch, "device": str(jax.devices()[0].device_kind), "rows": rows}
  arguments.out.write_text(json.dumps(document, indent=1) + "\n")
  figure(document, arguments.figure)


def figure(document: dict, path: pathlib.Path) -> None:
  import matplotlib

  matplotlib.use("Agg")
  import matplotlib.pyplot as plt

  plot, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
  for name, color in (("WaveNet", "#1f6feb"), ("Transformer", "#d9730d")):
    rows = [row for row in document["rows"] if row["network"] == name]
    lengths = [row["length"] for row in rows]
    column = partial(lambda rows, key: [row[key] for row in rows], rows)
    left.loglog(lengths, column("naive_us"), "o--", color=color, label=f"{name}, naive")
    left.loglog(lengths, column("cached_us"), "o-", color=color, label=f"{name}, cached")
    right.loglog(lengths, column("factor_in_time"), "o-", color=color, label=f"{name}, in time")
    right.loglog(lengths, column("factor_by_count"), "x", color=color, label=f"{name}, by count")
  right.loglog(lengths, lengths, color="grey", linewidth=0.8, label="the length")
  left.set(xlabel="length of the sequence", ylabel="CPU time of a token, µs", title="What a token costs")
  right.set(xlabel="length of the sequence", ylabel="naive / cached", title="What the cache saves")
  for ax in (left, right):
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)
  plot.savefig(path, dpi=110)


if __name__ == "__main__":
  main()
