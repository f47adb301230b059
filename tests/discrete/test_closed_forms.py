"""The bound and the solvers on data whose sequences are enumerated.

What they are compared with is computed here in numpy from transition matrices and sums over all sequences.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import xlogy

from jaxgen import discrete
from jaxgen.discrete import closed_form, logs, losses
from jaxgen.discrete.solvers import factorized

P = np.array([0.55, 0.3, 0.15])
IID = closed_form.independent(P, 3)
random = np.random.default_rng(0)
CHAIN = closed_form.markov(random.dirichlet(np.ones(4)).reshape(2, 2), random.dirichlet(np.ones(2), (2, 2)), 3)
VECTORS = np.array([[0.0], [1.0], [2.5]])


def processes(steps):
  return {
    "uniform": discrete.uniform(discrete.cosine(), 3, steps),
    "absorbing": discrete.absorbing(discrete.linear(), 3, steps),
    "absorbing, cosine": discrete.absorbing(discrete.cosine(), 3, steps),
    "marginal": discrete.marginal(discrete.polynomial(), np.array([0.2, 0.2, 0.6]), steps),
    "gaussian": discrete.discretized_gaussian(3, steps, 1.0, 60.0),
    "nearest neighbours": discrete.nearest_neighbour(VECTORS, 1, steps),
  }


def matrices(process):
  """Q_1 .. Q_T from the process's one-step likelihoods, checked to be stochastic."""
  T, K = process.steps, process.states
  x = jnp.arange(K)[None].repeat(T, 0)
  s = jnp.arange(T) / T
  Q = np.exp(process.backward(x, s, s + 1 / T)).swapaxes(1, 2)  # [T, from, to]
  np.testing.assert_allclose(Q.sum(-1), 1, atol=1e-9)
  return Q


def exact_bound(process, table, u_of):
  """(7) averaged over the data, by sums over x_0, x_t and x_s alone; u_of(x_t, count) -> [N, K]."""
  Q = matrices(process)
  K, N, T = process.states, table.p.ndim, process.steps
  Qbar = [np.eye(K)]
  for one in Q:
    Qbar.append(Qbar[-1] @ one)
  prior = np.exp(process.log_prior)
  bound = 0.0
  for x_0, p in zip(table.sequences, table.p.ravel(), strict=True):
    for token in x_0:
      q = Qbar[T][token]
      bound += p * (xlogy(q, q) - xlogy(q, np.where(q > 0, prior, 1))).sum()
    for count in range(1, T + 1):
      for x_t in itertools.product(range(K), repeat=N):
        weight = p * np.prod([Qbar[count][a, b] for a, b in zip(x_0, x_t, strict=True)])
        if weight == 0:
          continue
        u = u_of(x_t, count)
        for i in range(N):
          q = Qbar[count - 1][x_0[i]] * Q[count - 1][:, x_t[i]]
          r = (u[i] @ Qbar[count - 1]) * Q[count - 1][:, x_t[i]]
          q, r = q / q.sum(), r / r.sum()
          bound += weight * (xlogy(q, q) - xlogy(q, np.where(q > 0, r, 1))).sum()
  return bound


def code_bound(process, table):
  """The same by `losses`, each x_t weighted with its probability."""
  predict, K, N, T = table.predict(process), process.states, table.p.ndim, process.steps
  every = np.array(list(itertools.product(range(K), repeat=N)), np.int32)
  pairs = [(a, b, p) for a, p in zip(table.sequences, table.p.ravel(), strict=True) for b in every]
  x_0, x_t = jnp.asarray([a for a, _, _ in pairs]), jnp.asarray([b for _, b, _ in pairs])
  p = np.array([p for _, _, p in pairs])

  @jax.jit
  def at(t, s):
    t, s = jnp.full(len(x_0), t), jnp.full(len(x_0), s)
    weight = jnp.exp(logs.at(process.log_q(x_0, t), x_t).sum(-1))
    return weight, losses.term(process, predict(x_t, t), x_0, x_t, s, t)

  bound = float((p * losses.prior(process, x_0, jnp.float64)).sum() / len(every))
  for count in range(1, T + 1):
    weight, term = at(count / T, (count - 1) / T)
    bound += float((p * weight * jnp.where(weight > 0, term, 0)).sum())
  return bound


@pytest.mark.parametrize("name", processes(4))
def test_the_bound_of_independent_tokens_is_their_entropy(name, x64):
  """Under any schedule: the exact predictor loses nothing but the end of the noise, KL(q(x_1) || p(x_1))."""
  process = processes(4)[name]
  entropy = -3 * (P * np.log(P)).sum()
  q_end = P @ np.linalg.multi_dot(list(matrices(process)))[: len(P)]
  end = 3 * (xlogy(q_end, q_end) - q_end * np.where(q_end > 0, process.log_prior, 0)).sum()
  assert abs(code_bound(process, IID) - entropy - end) < 1e-9
  if "absorbing" in name or name == "uniform":
    assert abs(end) < 1e-12


def leave_one_out(process, table):
  """u by its definition, from the joint distribution of x_0^i and x_t's other tokens."""
  Q = matrices(process)
  Qbar = [np.eye(process.states)]
  for one in Q:
    Qbar.append(Qbar[-1] @ one)

  def u_of(x_t, count):
    u = np.zeros((len(x_t), process.states))
    for x_0, p in zip(table.sequences, table.p.ravel(), strict=True):
      for i in range(len(x_t)):
        u[i, x_0[i]] += p * np.prod([Qbar[count][x_0[j], x_t[j]] for j in range(len(x_t)) if j != i])
    return u / u.sum(1, keepdims=True)

  return u_of


@pytest.mark.parametrize("kind", ["absorbing", "uniform"])
def test_the_floor_on_a_chain_of_the_second_order(kind, x64):
  """In finitely many steps the bound's floor is the enumerated one, above the entropy, and falls to it as 1 / T."""
  make = getattr(discrete, kind)
  process = make(discrete.linear(), 2, 4)
  assert abs(code_bound(process, CHAIN) - exact_bound(process, CHAIN, leave_one_out(process, CHAIN))) < 1e-10
  gaps = [code_bound(make(discrete.linear(), 2, T), CHAIN) - CHAIN.entropy() for T in (16, 32, 64)]
  assert gaps[2] > 0
  slopes = -np.diff(np.log2(gaps))
  assert (abs(slopes - 1) < 0.15).all(), (gaps, slopes)


@pytest.mark.parametrize("kind", ["absorbing", "uniform"])
def test_the_bound_in_continuous_time_is_the_entropy(kind, x64):
  """(8) with the exact predictor, by quadrature in t and sums over all x_t; the step to 0 adds what t_min leaves."""
  process = getattr(discrete, kind)(discrete.linear(), 2)
  predict, first = CHAIN.predict(process), losses.FIRST
  every = np.array(list(itertools.product(range(process.states), repeat=3)), np.int32)
  x_0 = jnp.asarray(np.repeat(CHAIN.sequences, len(every), 0))
  x_t = jnp.asarray(np.tile(every, (len(CHAIN.sequences), 1)))
  p = jnp.asarray(np.repeat(CHAIN.p.ravel(), len(every)))

  @jax.jit
  def mean(t, of_step):
    t = jnp.full(len(x_0), t)
    weight = jnp.exp(logs.at(process.log_q(x_0, t), x_t).sum(-1))
    predicted = predict(x_t, t)
    value = jnp.where(
      of_step,
      losses.term(process, predicted, x_0, x_t, jnp.zeros_like(t), t),
      losses.integrand(process, predicted, x_0, x_t, t),
    )
    return jnp.sum(p * weight * jnp.where(weight > 0, value, 0))

  points, weights = np.polynomial.legendre.leggauss(40)
  # In log t, where the integrand varies evenly near t = 0.
  low, high = np.log(first), 0.0
  v = low + (high - low) * (points + 1) / 2
  integral = sum(
    w * (high - low) / 2 * np.exp(at) * float(mean(np.exp(at), False)) for at, w in zip(v, weights, strict=True)
  )
  assert abs(integral + float(mean(first, True)) - CHAIN.entropy()) < 2e-4


def laws(process):
  every = {"ancestral": factorized.ancestral_law, "euler": factorized.euler_law}
  return every | {"tau_leaping": factorized.tau_leaping_law}


def total_variation(process, law, table, n):
  """Between the data and what n steps make of p(x_1), by the kernel on all sequences: nothing is drawn."""
  N = table.p.ndim
  every = np.array(list(itertools.product(range(process.states), repeat=N)), np.int32)
  predict, x = table.predict(process), jnp.asarray(every)

  @jax.jit
  def move(p, t, s):
    t, s = jnp.full(len(x), t), jnp.full(len(x), s)
    log_p = law(predict(x, t), x, t, s)  # [S, N, K]
    kernel = sum(log_p[:, i, every[:, i]] for i in range(N))  # [S from, S to]
    return p @ jnp.exp(kernel)

  p = jnp.exp(jnp.asarray(process.log_prior)[every].sum(-1))
  times = discrete.uniform_grid(n)
  for t, s in itertools.pairwise(times):
    p = move(p, t, s)
  assert abs(float(p.sum()) - 1) < 1e-9
  data = np.zeros(len(every))
  index = {tuple(row): i for i, row in enumerate(every.tolist())}
  for row, value in zip(table.sequences.tolist(), table.p.ravel(), strict=True):
    data[index[tuple(row)]] = value
  return 0.5 * np.abs(np.asarray(p) - data).sum()


@pytest.mark.parametrize("kind", ["absorbing", "uniform"])
def test_solvers_converge_with_the_order_of_theory(kind, x64):
  """In total variation to the chain's own law, at the rate 1 / n."""
  process = getattr(discrete, kind)(discrete.cosine(), 2)
  makers = {name: lambda n, law=law: law(process) for name, law in laws(process).items()}
  if process.mask is not None:  # as often in all, however many steps
    makers["remasking"] = lambda n: factorized.remasking_law(process, 4 / n)
  for name, law in makers.items():
    errors = [total_variation(process, law(n), CHAIN, n) for n in (32, 64, 128)]
    slopes = -np.diff(np.log2(errors))
    assert abs(slopes[-1] - 1) < 0.15, (name, errors, slopes)
    assert errors[-1] < 0.02, (name, errors)
