"""Tolerances with an argument: what rounding may come to, on any processor, and nothing that was seen on one.

A computation with numbers of eps relative error is as exact as one without whose arguments are off by a few eps. How
far its results move then is its conditioning, and is measured here, in float64; a processor's order of summation, its
vectors' width and its exponential are of that size and no larger.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest


def tolerance(dtype, terms: int = 1, scale=1.0):
  """What `terms` roundings in a row of numbers as large as `scale` come to, as a random walk: 8 of its deviations."""
  return 8 * float(jnp.finfo(dtype).eps) * terms**0.5 * scale


def assert_close(found, expected, terms: int = 100, scale=None, dtype=None):
  """Equal but for `terms` roundings in a row of numbers as large as `scale`, or as the largest that is expected.

  A hundred is a small network's: a few roundings in each of some ten layers, there and back. The dtype is `found`'s.
  """
  found, expected = np.asarray(found), np.asarray(expected)
  scale = np.abs(expected).max(initial=0) if scale is None else scale
  np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance(dtype or found.dtype, terms, scale))


def off(tree, by: float, seed: int = 0):
  """The tree with every floating-point number multiplied by 1 + by or 1 - by, at random."""
  rng = np.random.default_rng(seed)

  def wobble(v):
    v = np.asarray(v)
    return v * (1 + by * rng.choice([-1.0, 1.0], v.shape)) if np.issubdtype(v.dtype, np.floating) else v

  return jax.tree.map(wobble, tree)


def conditioning(function, *arguments, draws: int = 3, by: float = 1e-8):
  """For each array of what `function` returns: how far it moves for a relative error in the arguments, or its largest.

  In float64. The larger of the two, so that an array that happens not to move still has a scale.
  """
  results = function(*arguments)
  scales = jax.tree.map(lambda r: np.abs(r).max(), results)
  for seed in range(draws):
    moved = function(*off(arguments, by, seed))
    scales = jax.tree.map(lambda s, m, r: max(s, np.abs(m - r).max() / by), scales, moved, results)
  return scales


def needs(dtype) -> None:
  """Skips the test where XLA cannot convert to this dtype and back: on a processor without instructions for float16 it
  calls functions of a library that jaxlib has not."""
  try:
    jax.block_until_ready(jax.jit(lambda x: x.astype(dtype).astype(jnp.float32) + 1)(jnp.ones(3)))
    jax.block_until_ready(jax.jit(lambda x: 2 * x.astype(dtype))(jnp.ones(3)))
  except jax.errors.JaxRuntimeError as error:
    if "Failed to materialize symbols" not in str(error):
      raise
    pytest.skip(f"XLA compiles no {jnp.dtype(dtype)} for this processor: jaxlib lacks the functions that convert it")
