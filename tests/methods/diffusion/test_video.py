"""Clips of diffusion models: prediction, infilling and extension of a Gaussian process with its exact denoiser, whose
conditionals are known; joint training on images."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxgen.core.errors import UserError
from jaxgen.core.spec import Spec
from jaxgen.diffusion import dpmpp_2m, linear
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.methods.diffusion.sampler import Sampler
from jaxgen.methods.diffusion.video import extended, joint

RHO, FRAMES = 0.8, 3
COVARIANCE = RHO ** np.abs(np.subtract.outer(np.arange(FRAMES), np.arange(FRAMES)))  # of a Markov process
SCHEDULE = linear(1000)
SPEC = Spec((FRAMES, 1, 1, 1), feature="clip")
KEYS = jax.random.split(jax.random.key(0), 8_000)


def left(t, place):
  """The variance of frame `place` given x_t."""
  alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
  inner = jnp.linalg.inv(alpha**2 * COVARIANCE + sigma**2 * jnp.eye(FRAMES))
  return 1 - alpha**2 * (COVARIANCE @ inner @ COVARIANCE)[place, place]


class Exact(nn.Module):
  """E[eps | x_t] of the process."""

  @nn.compact
  def __call__(self, x, time, told=None, index=None):
    self.param("none", nn.initializers.zeros, ())
    t = time[0] + 1  # all samples are at one time
    inner = jnp.linalg.inv(SCHEDULE.alpha(t) ** 2 * COVARIANCE + SCHEDULE.sigma(t) ** 2 * jnp.eye(FRAMES))
    return SCHEDULE.sigma(t) * jnp.einsum("ij,njhwc->nihwc", inner, x)


def sampler(place):
  """The method's sample, by the weight that is exact where frame `place` is known."""
  weight = lambda t: (SCHEDULE.sigma(t) / SCHEDULE.alpha(t)) ** 2 / left(t, place)
  options = Sampler(dpmpp_2m, steps=60, clip=False, reconstruction=weight)
  method = gaussian_diffusion(Exact(), SCHEDULE, SPEC, optax.sgd(0.1), sampler=options)
  batch = {"clip": jnp.zeros((2, *SPEC.shape)), "index": jnp.arange(2)}
  state = method.init(jax.random.key(0), batch)
  return jax.jit(lambda keys, **given: method.sample(state, keys, **given))


def test_a_frame_between_others_is_filled_in_as_the_process_says(x64):
  """Given the middle frame, the others are normal, of mean rho x and variance 1 - rho^2, and independent."""
  start = jnp.broadcast_to(jnp.asarray([9.0, 1.5, 9.0]).reshape(SPEC.shape), (len(KEYS), *SPEC.shape))
  keep = jnp.broadcast_to(jnp.asarray([False, True, False]), (len(KEYS), FRAMES))
  clips = np.asarray(sampler(1)(KEYS, start=start, keep=keep)).reshape(-1, FRAMES)
  np.testing.assert_array_equal(clips[:, 1], 1.5)
  np.testing.assert_allclose(clips.mean(0), [RHO * 1.5, 1.5, RHO * 1.5], atol=0.04)
  np.testing.assert_allclose(np.cov(clips.T), (1 - RHO**2) * np.diag([1.0, 0, 1]), atol=0.04)


def test_a_clip_that_is_extended_has_the_law_of_the_process(x64):
  """By one frame of overlap, which is all that a Markov process knows of its past."""
  clips = extended(sampler(0), KEYS, 8, 1)
  assert clips.shape == (len(KEYS), 8, 1, 1, 1)
  wanted = RHO ** np.abs(np.subtract.outer(np.arange(8), np.arange(8)))
  np.testing.assert_allclose(np.cov(np.asarray(clips).reshape(-1, 8).T), wanted, atol=0.06)
  first = jnp.full((len(KEYS), 2, 1, 1, 1), 2.0)
  more = np.asarray(extended(sampler(0), KEYS, 3, 1, first)).reshape(-1, 3)
  np.testing.assert_array_equal(more[:, :2], 2)
  np.testing.assert_allclose(more[:, 2].mean(), RHO * 2, atol=0.04)
  for overlap, known in ((0, None), (3, None), (2, first[:, :1])):
    with pytest.raises(UserError, match=f"not by {overlap}"):
      extended(sampler(0), KEYS, 8, overlap, known)


class Scaled(nn.Module):
  """One factor of all frames."""

  @nn.compact
  def __call__(self, x, time, told=None, index=None):
    return self.param("factor", nn.initializers.ones, ()) * x


def test_joint_training_sees_images_behind_the_clips(x64):
  """Its step is that of longer clips; its examples and samples have the clip's length."""
  method = gaussian_diffusion(Scaled(), SCHEDULE, SPEC, optax.sgd(0.1), sampler=Sampler(steps=2))
  longer = gaussian_diffusion(Scaled(), SCHEDULE, SPEC._replace(shape=(5, 1, 1, 1)), optax.sgd(0.1))
  clips = jax.random.normal(jax.random.key(1), (4, 5, 1, 1, 1))
  batch = {"clip": clips[:, :3], "stills": clips[:, 3:], "index": jnp.arange(4)}
  state = jax.jit(joint(method).init)(jax.random.key(0), batch)
  seen, metrics = jax.jit(joint(method).step)(state, batch)
  same, wanted = jax.jit(longer.step)(state, {"clip": clips, "index": jnp.arange(4)})
  np.testing.assert_allclose(seen.params["network"]["factor"], same.params["network"]["factor"], rtol=1e-12)
  assert metrics.keys() == wanted.keys()
  for name in metrics:
    np.testing.assert_allclose(metrics[name], wanted[name], rtol=1e-12)
  assert jax.eval_shape(joint(method).sample, state, KEYS[:2]).shape == (2, 3, 1, 1, 1)
