"""A small restricted Boltzmann machine as the table of its joint probabilities, from its energy alone, in numpy."""

import itertools

import numpy as np


class Enumerated:
  """states of the visible and hidden units, [2^D, D] and [2^H, H]; joint [2^D, 2^H]; p of the visible ones, [2^D];
  T [2^D, 2^D], from each state to each by way of the hidden units; g, gradients of the free energy by each parameter,
  [2^D, ...]; log_z."""

  def __init__(self, W, b, c):
    self.W, self.b, self.c = W, b, c
    self.visible, self.hidden = (np.array(list(itertools.product([0.0, 1.0], repeat=n))) for n in W.shape)
    E = np.array([[-(b @ v + c @ h + v @ W @ h) for h in self.hidden] for v in self.visible])
    self.E, weights = E, np.exp(-E)
    self.log_z = np.log(weights.sum())
    self.joint = weights / weights.sum()
    self.p = self.joint.sum(1)
    self.of_hidden, of_visible = self.joint / self.p[:, None], self.joint / self.joint.sum(0)
    self.T = self.of_hidden @ of_visible.T
    mean_h = self.of_hidden @ self.hidden
    self.g = {"W": -self.visible[:, :, None] * mean_h[:, None], "b": -self.visible, "c": -mean_h}

  def gradient(self, r):
    """g(r): the mean gradient of the free energy where v has the probabilities r, [2^D]."""
    return {name: np.tensordot(r, each, 1) for name, each in self.g.items()}

  def index(self, v):
    """The number of each state [..., D]."""
    return np.asarray(v).astype(int) @ (2 ** np.arange(len(self.b))[::-1])


def random(visible, hidden, seed=0, scale=1.0):
  rng = np.random.default_rng(seed)
  return Enumerated(
    *(scale * rng.normal(size=s) for s in ((visible, hidden), visible, hidden)),
  )


def params(machine, **more):
  """As `jaxgen.nn.energy.rbm.RBM` has them."""
  import jax.numpy as jnp

  return {name: jnp.asarray(x) for name, x in dict(W=machine.W, b=machine.b, c=machine.c, **more).items()}
