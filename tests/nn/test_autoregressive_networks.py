"""Networks of vectors: against their definitions, and who sees whom."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rounding import assert_close

from jaxgen.nn.autoregressive.made import FVSBN, MADE, NADE, RNADE, recurrence, rerun

D, N = 7, 3
NETWORKS = {
  "FVSBN": FVSBN(param_dtype=jnp.float64, dtype=jnp.float64),
  "NADE": NADE(5, param_dtype=jnp.float64, dtype=jnp.float64),
  "tied NADE": NADE(5, tied=True, param_dtype=jnp.float64, dtype=jnp.float64),
  "RNADE": RNADE(6, 64, param_dtype=jnp.float64, dtype=jnp.float64),
  "MADE": MADE(1, (64,), param_dtype=jnp.float64, dtype=jnp.float64),
  "deep MADE in 3 orders": MADE(2, (64, 96), members=3, shuffle=True, param_dtype=jnp.float64, dtype=jnp.float64),
}


def binary(rng, n=N):
  return jnp.asarray(2.0 * rng.integers(0, 2, (n, D)) - 1)


def random(network, x, seed=0):
  """Random parameters, biases included."""
  rng = np.random.default_rng(seed)
  shapes = jax.eval_shape(network.init, jax.random.key(0), x)["params"]
  return {name: jnp.asarray(rng.normal(size=p.shape) * p.shape[-1] ** -0.25) for name, p in sorted(shapes.items())}


def softplus(z):
  return np.log1p(np.exp(z))


def sigma(z):
  return 1 / (1 + np.exp(-z))


@pytest.mark.parametrize("tied", [False, True])
def test_nade_is_its_definition(tied, x64):
  """Each bit's hidden units summed anew, O(H D^2), in the paper's symbols."""
  network = NETWORKS["tied NADE" if tied else "NADE"]
  x = binary(np.random.default_rng(1))
  params = random(network, x)
  W, b, c, V = (np.asarray(params[k]) for k in ("W", "b", "c", "W" if tied else "V"))
  v = (np.asarray(x) + 1) / 2
  naive = [[b[d] + V[d] @ sigma(c + sum(W[e] * v[n, e] for e in range(d))) for d in range(D)] for n in range(N)]
  np.testing.assert_allclose(network.apply({"params": params}, x)[..., 0], naive, rtol=1e-12)


def test_rnade_is_its_definition(x64):
  network = NETWORKS["RNADE"]
  x = jnp.asarray(np.random.default_rng(1).normal(size=(N, D)))
  params = random(network, x)
  p = {k: np.asarray(v) for k, v in params.items()}
  naive = np.zeros((N, D, 6))
  for n in range(N):
    for d in range(D):
      a = p["c"] + sum(p["W"][e] * x[n, e] for e in range(d))
      naive[n, d] = p["V"][d] @ np.maximum(0, p["rho"][d] * a) + p["b"][d]
  np.testing.assert_allclose(network.apply({"params": params}, x), naive, rtol=1e-10, atol=1e-12)


def test_fvsbn_is_its_definition(x64):
  network, x = NETWORKS["FVSBN"], binary(np.random.default_rng(1))
  params = random(network, x)
  W, b, v = np.asarray(params["W"]), np.asarray(params["b"]), (np.asarray(x) + 1) / 2
  naive = [[b[d] + sum(W[e, d] * v[n, e] for e in range(d)) for d in range(D)] for n in range(N)]
  np.testing.assert_allclose(network.apply({"params": params}, x)[..., 0], naive, rtol=1e-12)


@pytest.mark.parametrize("activation", [jax.nn.sigmoid, jax.nn.relu])
def test_the_gradient_that_runs_backwards_is_jaxs(activation, x64):
  rng = np.random.default_rng(0)
  H, P = 5, 2
  shapes = dict(a=(N, H), v=(N, D), W=(D, H), V=(D, P, H), b=(D, P), scale=(D,))
  arrays = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}
  target = jnp.asarray(rng.normal(size=(N, D, P)))

  def plain(a, v, W, V, b, scale):
    before = jnp.einsum("ne,eh,de->ndh", v, W, jnp.tril(jnp.ones((D, D)), -1)) + a[:, None]
    return jnp.einsum("ndh,dph->ndp", activation(before * scale[:, None]), V) + b

  @partial(jax.jit, static_argnums=0)
  def everything(f, arrays, ways):
    loss = lambda arrays: jnp.sum((f(**arrays) - target) ** 2)
    tangent = lambda arrays: jax.jvp(lambda arrays: f(**arrays), (arrays,), (ways,))[1]
    many = jax.vmap(jax.grad(loss))(jax.tree.map(lambda a, d: jnp.stack([a, d]), arrays, ways))
    v = arrays["v"]
    over = jax.grad(lambda W: jax.vmap(lambda v: loss(arrays | dict(v=v, W=W)))(jnp.stack([v, 2 * v])).sum())(
      arrays["W"]
    )
    return (
      jax.jvp(jax.value_and_grad(loss), (arrays,), (ways,)),
      jax.value_and_grad(lambda arrays: jnp.sum(tangent(arrays) ** 2))(arrays),
      (many, over),
    )

  ways = jax.tree.map(jnp.cos, arrays)
  ours, expected = everything(partial(recurrence, activation), arrays, ways), everything(plain, arrays, ways)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), ours, expected)


def sees(network, params, x, **options):
  """[D, D]: whether any parameter of value d has a derivative by value e, for any of the examples."""
  jacobian = jax.jit(jax.vmap(jax.jacrev(lambda v: network.apply({"params": params}, v[None], **options)[0])))(x)
  return np.asarray((jacobian != 0).any(axis=(0, 2)))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_value_sees_all_values_before_it_and_no_other(name, x64):
  network, x = NETWORKS[name], jnp.asarray(np.random.default_rng(1).normal(size=(8, D)))
  params = random(network, x)
  for member in range(getattr(network, "members", 1)):
    options = {"member": member} if isinstance(network, MADE) else {}
    order = np.asarray(network.order(jnp.asarray([member]), D))[0] if isinstance(network, MADE) else np.arange(D)
    place = np.argsort(order)
    np.testing.assert_array_equal(sees(network, params, x, **options), place[:, None] > place)
  if name == "deep MADE in 3 orders":
    assert len({tuple(o) for o in np.asarray(network.order(jnp.arange(3), D))}) == 3


def test_made_draws_degrees_anew_for_each_member_and_orders_only_where_it_shuffles():
  made = MADE(1, (20,), members=4, seed=3)
  inputs, hidden = made.degrees(D)
  np.testing.assert_array_equal(inputs, np.tile(np.arange(1, D + 1), (4, 1)))
  assert len({tuple(m) for m in hidden}) == 4
  assert (hidden.min(), hidden.max()) == (1, D - 1)


@pytest.mark.parametrize("name", NETWORKS)
def test_one_step_at_a_time_gives_the_same(name, x64):
  network, x = NETWORKS[name], binary(np.random.default_rng(1))
  params = random(network, x)
  members = jnp.arange(N) % getattr(network, "members", 1)
  if isinstance(network, MADE):
    whole = jnp.concatenate([network.apply({"params": params}, x[i : i + 1], member=members[i]) for i in range(N)])
    order, options = network.order(members, D), {"member": members}
    whole = jnp.take_along_axis(whole, order[..., None], axis=1)
  else:
    whole, order, options = network.apply({"params": params}, x), jnp.tile(jnp.arange(D), (N, 1)), {}
  step, carry = network.stepper(params, jnp.zeros_like(x), **options)
  step = jax.jit(step)
  seen = jnp.full_like(x, jnp.nan)  # what has not been drawn must not matter
  for k in range(D):
    parameters, carry = step(carry, seen, jnp.asarray(k))
    np.testing.assert_allclose(parameters, whole[:, k], rtol=1e-10, atol=1e-12)
    seen = seen.at[jnp.arange(N), order[:, k]].set(x[jnp.arange(N), order[:, k]])


def test_rerun_gives_the_whole_networks_parameters(x64):
  network, x = NETWORKS["NADE"], binary(np.random.default_rng(1))
  params = random(network, x)
  step, carry = rerun(network, params, jnp.zeros_like(x))
  np.testing.assert_array_equal(step(carry, x, jnp.asarray(4))[0], network.apply({"params": params}, x)[:, 4])


def test_nade_sums_in_32_bits_and_knows_forward_mode():
  x = jnp.asarray(np.random.default_rng(0).choice([-1.0, 1.0], (8, 300)))
  half, full = NADE(40, dtype=jnp.bfloat16), NADE(40)
  params = jax.tree.map(lambda p: p + 0.05, jax.jit(full.init)(jax.random.key(0), x))
  # Weights are rounded, so they are compared with the same rounded weights; what is left is that of the outputs.
  rounded = jax.tree.map(lambda p: p.astype(jnp.bfloat16).astype(jnp.float32), params)
  np.testing.assert_allclose(half.apply(params, x), full.apply(rounded, x), atol=1e-4)
  gradient = jax.jit(jax.grad(lambda p: half.apply(p, x).sum()))(params)
  assert jax.tree.map(lambda g: g.dtype, gradient) == jax.tree.map(lambda p: p.dtype, params)
  few, small = x[:2, :6], jax.jit(NADE(5).init)(jax.random.key(0), x[:2, :6])
  outputs = lambda x: NADE(5).apply(small, x)[0, :, 0]
  assert_close(jax.jit(jax.jacfwd(outputs))(few), jax.jit(jax.jacrev(outputs))(few), terms=10)
