"""Reads fixtures that keep a network by its publisher's names: tests/fixtures/records.py."""

import jax.extend
import numpy as np
from packed import load  # noqa: F401 - for the tests that compare with published networks


def projected(name: str, gradient: np.ndarray) -> np.ndarray:
  """As in the scripts that made the fixtures."""
  return np.random.default_rng(list(name.encode())).standard_normal((4, gradient.size)) @ gradient.ravel()


def products(jaxpr):
  """The inputs of every product of matrices."""
  for equation in jaxpr.eqns:
    if equation.primitive.name == "dot_general":
      yield equation.invars
    for inner in jax.extend.core.jaxprs_in_params(equation.params):
      yield from products(inner)
