"""Reads fixtures that keep a network by its publisher's names: tests/fixtures/records.py."""

import jax.extend
import numpy as np
from packed import load  # noqa: F401 - for the tests that compare with published networks


def projected(name: str, gradient: np.ndarray) -> np.ndarray:
  """As in the scripts that made the fixtures."""
  return np.random.default_rng(list(name.encode())).standard_normal((4, gradient.size)) @ gradient.ravel()


def assert_gradients(found: dict, wanted: dict, tolerance: float = 1e-8):
  """Gradients by their tensors' names, of which `wanted` has the products with random directions."""
  largest = max(np.abs(gradient).max() for gradient in wanted.values())
  for tensor, gradient in wanted.items():
    # A gradient that is nearly zero is a difference of ones that are not.
    scale = tolerance * max(np.abs(gradient).max(), 1e-2 * largest)
    np.testing.assert_allclose(projected(tensor, found[tensor]), gradient, rtol=0, atol=scale, err_msg=tensor)


def products(jaxpr):
  """The inputs of every product of matrices."""
  for equation in jaxpr.eqns:
    if equation.primitive.name == "dot_general":
      yield equation.invars
    for inner in jax.extend.core.jaxprs_in_params(equation.params):
      yield from products(inner)
