from functools import partial

import enumerated
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.mcmc import Kernel
from jaxgen.mcmc.ais import ais, estimate, schedule
from jaxgen.mcmc.gibbs import Positions
from jaxgen.mcmc.langevin import mala
from jaxgen.mcmc.rbm import kernel
from jaxgen.nn.energy.rbm import RBM


def annealed(machine, base, betas, runs, key, dtype):
  network = RBM(*machine.W.shape, param_dtype=dtype)
  params = {name: x.astype(dtype) for name, x in enumerated.params(machine).items()}
  apply, base = partial(network.apply, {"params": params}), jnp.asarray(base, dtype)
  start, keys = jax.random.split(key, (2, runs))
  x = apply(start, base, method="draw_base")
  energy = lambda v, beta: apply(v, beta, base, method="free_energy")
  at = lambda beta: kernel(network, params, beta, base)
  return ais(at, energy, x, apply(base, method="log_partition_at_base"), betas, keys)


def test_the_exact_value_is_within_the_error_of_float32():
  machine = enumerated.random(9, 5, seed=5, scale=0.7)
  run = jax.jit(lambda key: annealed(machine, np.linspace(-1, 1, 9), schedule(300), 50, key, jnp.float32))
  found = run(jax.random.key(0))
  assert 0.001 < found.error < 0.2
  assert abs(found.log_z - machine.log_z) < 4 * found.error


def test_weights_are_unbiased_however_short_the_annealing_and_the_error_is_that_of_many_runs(x64):
  machine = enumerated.random(4, 3, seed=6)
  one = jax.jit(jax.vmap(lambda key: annealed(machine, np.zeros(4), np.array([0.0, 0.4, 1.0]), 200, key, jnp.float64)))
  found = one(jax.random.split(jax.random.key(0), 200))
  np.testing.assert_allclose(found.error.mean() / found.log_z.std(), 1, atol=0.25)
  start = np.log(2) * 7
  w = np.exp(np.asarray(found.log_w).ravel() + start - machine.log_z)
  assert abs(w.mean() - 1) < 4 * w.std() / np.sqrt(w.size)
  assert w.std() > 0.3


def test_a_density_of_real_numbers(x64):
  # From N(0, 1) to exp(-(x - 1)^2 / (2 0.3^2)), whose integral is known.
  energy = lambda x, beta: ((1 - beta) * x**2 / 2 + beta * (x - 1) ** 2 / 0.18)[:, 0]
  x, keys = jax.random.normal(jax.random.key(0), (200, 1)), jax.random.split(jax.random.key(1), 200)
  kernel = lambda beta: mala(lambda x: energy(x, beta), 0.05)
  found = jax.jit(lambda: ais(kernel, energy, x, np.log(2 * np.pi) / 2, np.linspace(0, 1, 300), keys))()
  assert found.error < 0.1
  assert abs(found.log_z - np.log(0.3 * np.sqrt(2 * np.pi))) < 4 * found.error


def test_the_schedule_is_the_papers():
  betas = schedule(14_500)
  assert len(betas) == 14_501
  assert (np.diff(betas) > 0).all()
  np.testing.assert_allclose(betas[[0, 500, 4_500, 14_500]], [0, 0.5, 0.9, 1])
  assert len(schedule(3)) == 4


def test_large_weights_do_not_overflow():
  log_w = jnp.asarray([500.0, 501.0, 499.0])
  found = estimate(log_w, 10.0)
  w = np.exp(np.array([0.0, 1.0, -1.0]))
  np.testing.assert_allclose(found.log_z, 510 + np.log(w.mean()), rtol=1e-6)
  np.testing.assert_allclose(found.error, w.std(ddof=1) / w.mean() / np.sqrt(3), rtol=1e-4)


def test_bad_input():
  energy, x = lambda x, beta: beta * x, jnp.zeros(4)
  keys, still = jax.random.split(jax.random.key(0), 4), lambda beta: Kernel(Positions, lambda carry, keys: carry)
  with pytest.raises(UserError, match="2 or more runs"):
    ais(still, energy, x[:1], 0.0, np.array([0.0, 1.0]), keys[:1])
  with pytest.raises(UserError, match="begins at the inverse temperature 0"):
    ais(still, energy, x, 0.0, np.array([0.1, 1.0]), keys)
  with pytest.raises(UserError, match="3 or more steps"):
    schedule(2)
