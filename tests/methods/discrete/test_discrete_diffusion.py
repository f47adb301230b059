"""What discrete diffusion as a method promises: prompts, lengths, guidance, and one sentence for what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from discrete_cases import Perceptron
from flax import linen as nn

from jaxgen import discrete
from jaxgen.core.condition import labels
from jaxgen.core.errors import UserError
from jaxgen.core.spec import Spec
from jaxgen.methods.discrete.diffusion import Objective, Sampler, discrete_diffusion, guided
from jaxgen.nn.transformers.ddit import DDiT

SPEC = Spec((6,), levels=4, feature="tokens", dtype=np.int32)
MASKS = discrete.absorbing(discrete.linear(), 4)


class Known(nn.Module):
  """Logits that are parameters of each place."""

  @nn.compact
  def __call__(self, x, t, told=None, index=None):
    table = self.param("table", nn.initializers.normal(1.0), (6, 4))
    return jnp.broadcast_to(table, (*x.shape, 4))


def made(solver, length=None, spec=SPEC):
  sampler = Sampler(solver, steps=5, length=length)
  method = discrete_diffusion(Known(), MASKS, spec, optax.sgd(0.1), sampler=sampler)
  batch = {"tokens": jnp.zeros((2, 6), jnp.int32), "index": jnp.arange(2)}
  return method, method.init(jax.random.key(0), batch)


@pytest.mark.parametrize("solver", ["ancestral", "remasking", "confidence", "first_hitting", "euler"])
def test_a_prompt_stays_and_longer_text_goes_on(solver):
  chosen = (lambda p: discrete.remasking(p, 0.9)) if solver == "remasking" else discrete.SOLVERS[solver]
  method, state = made(chosen, length=11)
  keys, prompt = jax.random.split(jax.random.key(1), 300), jnp.tile(jnp.array([3, 1]), (300, 1))
  x = np.asarray(jax.jit(method.sample)(state, keys, prompt))
  assert x.shape == (300, 11)
  assert (x[:, :2] == [3, 1]).all()
  assert x.min() >= 0
  assert x.max() < 4
  if solver != "confidence":  # each place has the table's law; in the second window 3 tokens are the first's last ones
    law = np.asarray(jax.nn.softmax(state.params["network"]["table"], -1))
    for place, of in ((2, 2), (5, 5), (6, 3), (8, 5), (9, 3)):
      counts = np.bincount(x[:, place], minlength=4) / 300
      assert np.abs(counts - law[of]).max() < 0.13, (place, counts, law[of])


def test_guidance_mixes_logarithms(x64):
  """Weight 1 and 0 are the two predictions, others are proportional to u_0 (u_1 / u_0)^w."""
  rng = np.random.default_rng(0)
  x, t = jnp.full((3, 2), 4), jnp.full(3, 0.5)
  tables = [jnp.asarray(rng.normal(size=(3, 2, 4))) for _ in range(2)]
  better, worse = (lambda x, t, a=a: discrete.PREDICTIONS["x_0"](MASKS, a, x, t) for a in tables)
  found = np.exp(guided(MASKS, better, worse, jnp.array([1.0, 0.0, 2.5]))(x, t).log_u)[..., :4]
  u_1, u_0 = (np.exp(a) / np.exp(a).sum(-1, keepdims=True) for a in map(np.asarray, tables))
  mixed = u_0 * (u_1 / u_0) ** np.array([1, 0, 2.5])[:, None, None]
  np.testing.assert_allclose(found, mixed / mixed.sum(-1, keepdims=True), atol=1e-12)


def test_wrong_choices_are_one_sentence():
  uniform, matrices = discrete.uniform(discrete.linear(), 4), discrete.discretized_gaussian(4, 10)
  make = lambda process=MASKS, spec=SPEC, network=None, **more: discrete_diffusion(
    network or DDiT(4, 8, 1, 2), process, spec, optax.sgd(0.1), **more
  )
  batch = {"tokens": np.zeros((2, 6), np.int32), "index": np.arange(2)}
  unconditional, state = make(uniform, network=Perceptron(4, "float32")), None
  state = unconditional.init(jax.random.key(0), batch)
  keys = jax.random.split(jax.random.key(0), 2)
  told = Spec((6,), 4, 3, "tokens", np.int32)
  for do, words in [
    (lambda: make(spec=SPEC._replace(levels=5)), "4 data states and the data 5 levels"),
    (lambda: make(spec=SPEC._replace(levels=None)), "real numbers"),
    (lambda: make(objective=Objective(bound=0.0)), "not both 0: they are 0 and 0"),
    (lambda: make(objective=Objective(bound=float("nan"))), "they are nan and 0"),
    (lambda: discrete.absorbing(discrete.linear(), -1), "2 or more values, not -1"),
    (lambda: discrete.uniform(discrete.linear(), -1), "2 or more values, not -1"),
    (lambda: make(matrices, objective=Objective(discrete.PREDICTIONS["score"])), "an interpolating one"),
    (lambda: make(matrices, sampler=Sampler(steps=3)), "its own 10 steps"),
    (lambda: make(uniform, sampler=Sampler(length=9)), "a vocabulary with a mask token"),
    (lambda: make(sampler=Sampler(steps=0)), "at least 1 step"),
    (lambda: make().check({"tokens": np.full((1, 6), 4)}), "data states are 0 to 3"),
    (lambda: make(network=DDiT(3, 8, 1, 2, states=5)).init(jax.random.key(0), batch), "predicts 3 values"),
    (lambda: unconditional.sample(state, keys, jnp.zeros((2, 1), jnp.int32)), "a vocabulary with a mask token"),
    (lambda: unconditional.sample(state, keys, weight=jnp.ones(2)), "train it with some dropped"),
    (
      lambda: made(discrete.ancestral)[0].sample(made(discrete.ancestral)[1], keys, jnp.zeros((2, 6), int)),
      "shorten it",
    ),
    (lambda: make(spec=told, condition=labels(told)), "for None classes"),
  ]:
    with pytest.raises(UserError, match=words) as found:
      do()
    assert "\n" not in str(found.value)
