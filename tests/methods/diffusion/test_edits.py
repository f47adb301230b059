"""A method's samples that begin with a picture, of pixels and of latents."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from diffusion_cases import SPEC, Perceptron

from jaxgen import diffusion
from jaxgen.core.errors import UserError
from jaxgen.core.spec import Spec
from jaxgen.core.wrappers import first_stage
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.methods.diffusion.sampler import Sampler

N = 4
KEYS = jax.random.split(jax.random.key(5), N)
PICTURES = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (N, *SPEC.shape)), jnp.float32)
KEEP = jnp.broadcast_to(jnp.arange(8) < 4, (N, 8, 8))  # the left half
BATCH = {"image": PICTURES, "index": jnp.arange(N)}


def made(spec=SPEC, solver=diffusion.ddim, stage=None, **options):
  sampler = Sampler(solver, steps=6, clip=False, jump=2, resampling=2, **options)
  method = gaussian_diffusion(Perceptron(jnp.float32), diffusion.linear(1000), spec, optax.sgd(1e-3), sampler=sampler)
  method = method if stage is None else first_stage(method, *stage)
  return method, method.init(jax.random.key(0), BATCH)


def halved(params, x, keys):
  return x.reshape(len(x), 4, 2, 4, 2, 1).mean((2, 4))


HALVES = lambda key, x: {}, halved, lambda params, z: z.repeat(2, 1).repeat(2, 2)


@pytest.fixture(scope="module")
def pixels():
  method, state = made()
  return partial(jax.jit(method.sample), state, KEYS)


def test_a_weak_change_stays_near_and_a_full_one_comes_from_noise(pixels):
  strength = lambda s: jnp.full(N, s)
  weak, strong = (pixels(start=PICTURES, strength=strength(s)) for s in (0.1, 0.5))
  away = lambda x: float(jnp.abs(x - PICTURES).mean())
  assert 0 < away(weak) < away(strong)
  # Each sample by itself, as others.
  other = PICTURES.at[1:].set(0)
  np.testing.assert_allclose(pixels(start=other, strength=strength(0.5))[0], strong[0], atol=1e-5)


def test_what_is_known_comes_out_bit_for_bit(pixels):
  filled = pixels(start=PICTURES, keep=KEEP)
  np.testing.assert_array_equal(filled[:, :, :4], PICTURES[:, :, :4])
  assert np.abs(filled[:, :, 4:] - PICTURES[:, :, 4:]).min() > 0
  # What is not known is not looked at.
  hidden = jnp.where(KEEP[..., None], PICTURES, 7.0)
  np.testing.assert_array_equal(pixels(start=hidden, keep=KEEP), filled)


def test_latents_are_known_where_all_of_their_pixels_are():
  method, state = made(Spec((4, 4, 1)), stage=HALVES)
  sample = partial(jax.jit(method.sample), state, KEYS)
  keep = KEEP.at[:, 0, 0].set(False).at[:, 5, 7].set(True)
  filled = sample(start=PICTURES, keep=keep)
  np.testing.assert_array_equal(filled[keep], PICTURES[keep])
  latents = HALVES[2]({}, halved({}, PICTURES, KEYS))
  changed = np.abs(filled - latents)[0, ..., 0] > 1e-6
  assert changed[0, 0]  # its block has pixels that are not known
  assert not changed[2:, :4][~np.asarray(keep[0, 2:, :4])].any()
  assert changed[~np.asarray(keep[0])].mean() > 0.9
  weak, strong = (sample(start=PICTURES, strength=jnp.full(N, s)) for s in (0.17, 1.0))
  assert np.abs(weak - latents).mean() < np.abs(strong - latents).mean()


def test_says_what_does_not_fit(pixels):
  refused = lambda sentence: pytest.raises(UserError, match=sentence)
  method, state = made()
  sample = partial(method.sample, state, KEYS)
  for given in (dict(start=PICTURES), dict(strength=jnp.ones(N)), dict(keep=KEEP)):
    with refused("to change a picture, or with keep to fill a part of it, not " + "".join(given)):
      sample(**given)
  with refused("or with keep to fill a part of it, not start and strength and keep"):
    sample(start=PICTURES, strength=jnp.ones(N), keep=KEEP)
  with refused("the mask is 8 x 7 and the picture 8 x 8"):
    sample(start=PICTURES, keep=KEEP[:, :, 1:])
  with refused("strength is the share of the way"):
    sample(start=PICTURES, strength=jnp.full(N, 1.5))
  with refused(r"the picture to start from for one example is \(9, 8, 1\), not \(8, 8, 1\)"):
    sample(start=jnp.zeros((N, 9, 8, 1)), strength=jnp.ones(N))
  method, state = made(solver=diffusion.dpmpp_2m)
  with refused("choose a solver without a past"):
    method.sample(state, KEYS, start=PICTURES, keep=KEEP)
