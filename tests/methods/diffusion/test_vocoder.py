"""A vocoder behind a generator of spectrograms, of two methods whose samples are known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxgen.core.method import Frozen, Player, compose
from jaxgen.data.mel import as_picture, of_picture
from jaxgen.methods.diffusion.vocoder import vocoded

BATCH = {"image": jnp.ones((2, 3, 4, 1)), "wave": jnp.zeros((2, 12, 1)), "index": jnp.arange(2)}


def known(value, draw):
  """A method with one parameter, whose samples are draw(parameter, keys, conditions)."""
  init = lambda key, batch: ({"network": {"w": jnp.asarray(value)}}, {})
  loss = lambda params, state, batch, key: (params["w"] * batch["image"].mean(), ({}, state.buffers))
  sample = lambda state, keys, **asked: draw(state.averaged()["w"], keys, asked)
  evaluate = lambda state, batch, key: {"nll": jnp.zeros(2)}
  return compose(init, [("network", Player(loss, optax.sgd(1.0)))], evaluate=evaluate, sample=sample)


def test_waves_are_the_vocoder_s_of_the_pictures_and_training_leaves_it_alone():
  pictures = known(3.0, lambda w, keys, asked: as_picture(jnp.full((len(keys), 3, 4), 0.1) * w) + asked["label"])
  vocoder = known(5.0, lambda w, keys, asked: jnp.repeat(w * asked["mel"].mean((1, 2))[:, None, None], 12, axis=1))
  frozen = Frozen("a run", lambda: {"params": {"w": np.float32(7)}})
  method = vocoded(pictures, vocoder, of_picture, frozen)
  assert method.frozen == {"vocoder": frozen}
  state = method.init(jax.random.key(0), BATCH)
  assert state.params == {"network": {"w": 3.0}, "vocoder": {"params": {"w": 5.0}}}
  keys = jax.random.split(jax.random.key(1), 2)
  np.testing.assert_allclose(method.sample(state, keys, label=0.0), np.full((2, 12, 1), 5 * 0.3), rtol=1e-6)
  np.testing.assert_allclose(method.sample(state, keys, label=0.2), np.full((2, 12, 1), 5 * 0.4), rtol=1e-6)
  after, metrics = method.step(state, BATCH)
  assert float(metrics["loss"]) == 3.0
  assert after.params == {"network": {"w": 2.0}, "vocoder": {"params": {"w": 5.0}}}
  np.testing.assert_allclose(method.sample(after, keys, label=0.0), np.full((2, 12, 1), 5 * 0.2), rtol=1e-6)
  assert method.evaluate(after, BATCH, keys[0]).keys() == {"nll"}
