import enumerated
import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from jaxgen import mcmc
from jaxgen.mcmc.rbm import kernel
from jaxgen.nn.energy.rbm import RBM


def test_a_step_has_detailed_balance_with_the_enumerated_machine(x64):
  machine = enumerated.random(3, 2, seed=3, scale=1.5)
  flow = machine.p[:, None] * machine.T
  np.testing.assert_allclose(flow, flow.T, rtol=1e-12)
  # The kernel's own transitions are those of T.
  n = 4_000
  states = jnp.asarray(np.repeat(machine.visible, n, axis=0))
  step = kernel(RBM(3, 2), enumerated.params(machine))
  keys = jax.random.split(jax.random.key(0), len(states))
  moved, accepted = jax.jit(lambda: step.step(step.init(states), keys))()
  counts = np.zeros((8, 8))
  np.add.at(counts, (machine.index(states), machine.index(moved.x)), 1)
  assert stats.chisquare(counts, n * machine.T, axis=1).pvalue.min() > 1e-3
  assert (accepted == 1).all()
  # A matrix of another machine is told from it.
  assert stats.chisquare(counts, n * enumerated.random(3, 2, seed=4).T, axis=1).pvalue.max() < 1e-3


def test_a_chain_draws_from_its_own_key(x64):
  machine = enumerated.random(4, 3)
  step = kernel(RBM(4, 3), enumerated.params(machine))
  x, keys = jnp.asarray(machine.visible), jax.random.split(jax.random.key(1), 16)
  order = np.random.default_rng(0).permutation(16)
  run = jax.jit(lambda x, keys: mcmc.run(step, x, keys, 7)[0])
  np.testing.assert_array_equal(run(x, keys)[order], run(x[order], keys[order]))
