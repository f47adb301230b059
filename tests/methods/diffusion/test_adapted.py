"""LoRA of a diffusion model: what learns, what stays, and what samples are of."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from diffusion_cases import SPEC, Perceptron

from jaxgen import diffusion
from jaxgen.core.errors import UserError
from jaxgen.core.method import Frozen
from jaxgen.core.wrappers import averaged
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.methods.diffusion.sampler import Sampler
from jaxgen.nn.lora import LoRA

ADAPTER = LoRA(2, alpha=4.0, where="kernel$")
BATCH = {
  "image": jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (8, 8, 8, 1)), jnp.float32),
  "index": jnp.arange(8),
}


def made(adapter=ADAPTER, base=None):
  options = dict(sampler=Sampler(steps=4), adapter=adapter, base=base)
  return gaussian_diffusion(Perceptron(jnp.float32), diffusion.cosine(1000), SPEC, optax.adam(1e-2), **options)


def test_the_adapter_learns_and_the_network_stays():
  method, plain = averaged(made(), 0.5), made(None)
  state, keys = method.init(jax.random.key(0), BATCH), jax.random.split(jax.random.key(1), 3)
  assert set(state.params) == {"network", "lora"}
  assert set(state.opt) == {"lora"}
  sample, unchanged = jax.jit(method.sample), plain.init(jax.random.key(0), BATCH)
  unchanged = unchanged.replace(params={"network": state.params["network"]})
  draw = jax.jit(plain.sample)
  np.testing.assert_allclose(sample(state, keys), draw(unchanged, keys), atol=1e-6)  # B = 0
  step = jax.jit(method.step)
  after, losses = state, []
  for _ in range(30):
    after, metrics = step(after.replace(key=state.key, step=state.step), BATCH)  # the same noise: its loss must fall
    losses.append(float(metrics["loss"]))
  assert losses[-1] < 0.9 * losses[0]
  jax.tree.map(np.testing.assert_array_equal, after.params["network"], state.params["network"])
  merged = ADAPTER.merged(state.params["network"], after.averaged("lora"))
  expected = draw(unchanged.replace(params={"network": merged}), keys)
  np.testing.assert_allclose(sample(after, keys), expected, atol=1e-5)
  assert np.abs(expected - draw(unchanged, keys)).max() > 1e-2


def test_a_base_is_named_and_wants_an_adapter():
  base = Frozen("a run", lambda: {"Dense_0": 1})
  ((name, frozen),) = made(base=base).frozen.items()
  assert (name, frozen.source, frozen.load()) == ("network", "a run", {"Dense_0": 1})
  with pytest.raises(UserError, match="a base is what an adapter changes"):
    made(adapter=None, base=base)
