"""How compile time grows with depth: a training step of Transformers of 12 and of 48 blocks, which are one scan.

python benchmarks/depth.py
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp

from jaxgen.nn.sequence.transformer import SIZES, EncoderDecoder, LanguageModel


def compile_seconds(network, inputs: int) -> float:
  """Tracing and compiling the gradient of a sum of logits, dropout included."""
  jax.clear_caches()
  tokens, index = jax.ShapeDtypeStruct((8, 64), jnp.int32), jax.ShapeDtypeStruct((8,), jnp.int32)
  key = jax.eval_shape(lambda: jax.random.key(0))
  params = jax.eval_shape(network.init, key, *[tokens] * inputs)

  def loss(params, tokens, index, key):
    return network.apply(params, *[tokens] * inputs, index=index, rngs={"dropout": key}).sum()

  start = time.perf_counter()
  jax.jit(jax.grad(loss)).lower(params, tokens, index, key).compile()
  return time.perf_counter() - start


if __name__ == "__main__":
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--depths", nargs=2, type=int, default=(12, 48))
  parser.add_argument("--rounds", type=int, default=5)
  options = parser.parse_args()
  jax.config.update("jax_enable_compilation_cache", False)
  for kind, inputs in ((LanguageModel, 1), (EncoderDecoder, 2)):
    seconds = {depth: [] for depth in options.depths}
    for turn in range(options.rounds + 1):  # the first warms up
      for depth in options.depths:
        taken = compile_seconds(kind(1_000, SIZES["Transformer base"]._replace(depth=depth)), inputs)
        if turn:
          seconds[depth].append(taken)
    low, high = (statistics.median(seconds[depth]) for depth in options.depths)
    few, many = options.depths
    print(f"{kind.__name__}: {few} blocks {low:.2f} s, {many} blocks {high:.2f} s, ratio {high / low:.2f}", flush=True)
