"""How long the compiler takes, against ceilings: training programs of configs, and depth.

    python benchmarks/compile.py                                  # exits with 1 where a ceiling is broken
    python benchmarks/compile.py --configs ddpm_digits ddpm_cifar10

Each program is what `jaxgen train CONFIG` compiles before its first step, from Python to machine code, without a cache;
a ceiling is about twice what 2 quiet cores take. The second table is the gradient of Transformers of 12 and of 48
blocks, which are one scan: the ratio has a ceiling, too.
"""

import argparse
import statistics
import sys
import time

from jaxgen.core import environment

# Seconds on 2 cores. 60 for the network of DDPM's CIFAR-10 experiment is a goal of the project.
CEILINGS = {"ddpm_digits": 15, "ddpm_cifar10": 60, "imagenet": 40, "gpt2": 20}
DEPTH = 1.3  # of 48 blocks against 12


def program_seconds(name: str) -> tuple[float, float]:
  """Of a config's training program: tracing, and compiling."""
  import jax

  from jaxgen.engine.config import load_config
  from jaxgen.engine.mesh import make_mesh
  from jaxgen.engine.program import Program

  jax.clear_caches()
  e = load_config(name).build()
  start = time.perf_counter()
  program = Program(
    e.method,
    e.data.raw_spec(e.batch_size),
    make_mesh(1, jax.devices()[:1]),
    prepare=e.data.transform,
    updates=e.updates_per_dispatch,
    microbatches=e.microbatches,
  )
  assert program.lowered is not None
  traced = time.perf_counter()
  assert program.loop is not None
  return traced - start, time.perf_counter() - traced


def depth_seconds(network, inputs: int) -> float:
  """Tracing and compiling the gradient of a sum of logits, dropout included."""
  import jax
  import jax.numpy as jnp

  jax.clear_caches()
  tokens, index = jax.ShapeDtypeStruct((8, 64), jnp.int32), jax.ShapeDtypeStruct((8,), jnp.int32)
  key = jax.eval_shape(lambda: jax.random.key(0))
  params = jax.eval_shape(network.init, key, *[tokens] * inputs)

  def loss(params, tokens, index, key):
    return network.apply(params, *[tokens] * inputs, index=index, rngs={"dropout": key}).sum()

  start = time.perf_counter()
  jax.jit(jax.grad(loss)).lower(params, tokens, index, key).compile()
  return time.perf_counter() - start


def depth_ratio(kind, inputs: int, rounds: int, depths: tuple[int, int] = (12, 48)) -> tuple[float, float]:
  """Median seconds at the two depths, which take turns."""
  from jaxgen.nn.sequence.transformer import SIZES

  seconds = {depth: [] for depth in depths}
  for turn in range(rounds + 1):  # the first warms up
    for depth in depths:
      taken = depth_seconds(kind(1_000, SIZES["Transformer base"]._replace(depth=depth)), inputs)
      if turn:
        seconds[depth].append(taken)
  return statistics.median(seconds[depths[0]]), statistics.median(seconds[depths[1]])


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--configs", nargs="*", default=list(CEILINGS), help="names, or files; [] leaves them out")
  parser.add_argument("--rounds", type=int, default=3, help="of the comparison of depths; 0 leaves it out")
  options = parser.parse_args()
  environment.use_huge_pages()
  environment.say_changes()

  import jax

  from jaxgen.nn.sequence.transformer import EncoderDecoder, LanguageModel

  jax.config.update("jax_enable_compilation_cache", False)
  broken = []
  for name in options.configs:
    traced, compiled = program_seconds(name)
    ceiling = CEILINGS.get(name)
    said = "" if ceiling is None else f", ceiling {ceiling} s"
    print(
      f"{name}: traced {traced:.1f} s, compiled {compiled:.1f} s, in all {traced + compiled:.1f} s{said}", flush=True
    )
    if ceiling is not None and traced + compiled > ceiling:
      broken.append(name)
  for kind, inputs in ((LanguageModel, 1), (EncoderDecoder, 2)) if options.rounds else ():
    low, high = depth_ratio(kind, inputs, options.rounds)
    print(f"{kind.__name__}: 12 blocks {low:.2f} s, 48 blocks {high:.2f} s, ratio {high / low:.2f}, ceiling {DEPTH}")
    if high / low > DEPTH:
      broken.append(kind.__name__)
  if broken:
    print(f"above their ceilings: {', '.join(broken)}", file=sys.stderr)
  return 1 if broken else 0


if __name__ == "__main__":
  sys.exit(main())
