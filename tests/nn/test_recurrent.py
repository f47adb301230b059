"""Recurrent networks against torch.nn's on packed, ragged batches (tests/fixtures/make_sequences.py), and seq2seq."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from packed import expected_of, load
from rounding import assert_close, conditioning

from jaxgen.core.errors import UserError
from jaxgen.interop import layout
from jaxgen.interop.recurrent import torch
from jaxgen.nn.sequence import recurrent
from jaxgen.nn.sequence.recurrent import Recurrent
from jaxgen.nn.sequence.seq2seq import Additive, Multiplicative, Seq2Seq

SHAPES = {"stacked": dict(layers=3), "both": dict(layers=2, bidirectional=True)}
CASES = [f"{kind}, {shape}" for kind in ("rnn", "lstm", "gru") for shape in SHAPES] + ["rnn_relu, both"]


def network_of(case: str, dtype) -> Recurrent:
  kind, shape = case.split(", ")
  return Recurrent(4, kind, dtype=dtype, param_dtype=dtype, **SHAPES[shape])


def compiled(network: Recurrent, arrays: dict, dtype):
  """(function of the variables and the arguments that are no lengths, both)

  It returns what the fixture holds: {"output/NAME": array, "gradient/NAME": array, "argument_gradient/NAME": array}.
  """
  arguments = {k: jnp.asarray(a, dtype if a.dtype == np.float64 else None) for k, a in arrays["argument"].items()}
  lengths = arguments.pop("lengths")
  shapes = jax.eval_shape(network.init, jax.random.key(0), arguments["x"])
  variables = layout.read(torch(network), arrays["weight"], shapes)

  def loss(variables, arguments):
    initial = tuple(arguments[name] for name in sorted(arguments) if name != "x")
    output, final = network.apply(variables, arguments["x"], lengths, initial)
    outputs = {"output": output} | {f"state_{i}": s for i, s in enumerate(final)}
    return sum(jnp.sum(outputs[name] * c) for name, c in arrays["cotangent"].items()), outputs

  gradients = jax.jit(jax.grad(loss, (0, 1), has_aux=True))

  def results(variables, arguments):
    (of_weights, of_arguments), outputs = gradients(variables, arguments)
    groups = {
      "output": outputs,
      "gradient": layout.write(torch(network), of_weights),
      "argument_gradient": of_arguments,
    }
    return {f"{group}/{name}": np.asarray(a) for group, arrays in groups.items() for name, a in arrays.items()}

  return results, variables, arguments


@pytest.mark.parametrize("case", CASES)
def test_equals_torch_on_ragged_batches(case, x64):
  """Outputs, last states, and gradients of weights, inputs and first states; each as far as rounding may move it."""
  arrays = load("recurrent.npz", case)
  scales, expected = None, expected_of(arrays)
  for dtype in (jnp.float64, jnp.float32):
    run, *arguments = compiled(network_of(case, dtype), arrays, dtype)
    scales, ours = scales or conditioning(run, *arguments), run(*arguments)
    assert ours.keys() == expected.keys()
    for name, array in expected.items():
      assert ours[name].dtype == dtype
      assert_close(ours[name], array, scale=scales[name])


def other_gates(x, h, state):
  """Input and forget gate in the other order."""
  swap = lambda a: jnp.concatenate([*jnp.split(a, 4, axis=-1)[1::-1], *jnp.split(a, 4, axis=-1)[2:]], axis=-1)
  return recurrent.lstm(swap(x), swap(h), state)


def papers_update(x, h, state):
  """z and 1 - z as in Chung et al. 2014."""
  (x_r, x_z, x_n), (h_r, h_z, h_n) = jnp.split(x, 3, axis=-1), jnp.split(h, 3, axis=-1)
  r, z = jax.nn.sigmoid(x_r + h_r), jax.nn.sigmoid(x_z + h_z)
  return (z * jnp.tanh(x_n + r * h_n) + (1 - z) * state[0],)


MISTAKES = {
  "order of the gates": ("lstm, both", ("lstm", recurrent.Kind(4, 2, other_gates))),
  "update gate": ("gru, stacked", ("gru", recurrent.Kind(3, 1, papers_update))),
  "activation": ("rnn_relu, both", ("rnn_relu", recurrent.CELLS["rnn"])),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_fixture_tells_mistakes(mistake, x64, monkeypatch):
  case, (kind, wrong) = MISTAKES[mistake]
  monkeypatch.setitem(recurrent.CELLS, kind, wrong)
  arrays = load("recurrent.npz", case)
  run, *arguments = compiled(network_of(case, jnp.float64), arrays, jnp.float64)
  ours, expected = run(*arguments), expected_of(arrays)
  assert np.abs(ours["output/output"] - expected["output/output"]).max() > 1e-3


def test_weights_go_back_as_they_came():
  arrays = load("recurrent.npz", "lstm, both")["weight"]
  network = network_of("lstm, both", jnp.float32)
  shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 2, 3)))
  back = layout.write(torch(network), layout.read(torch(network), arrays, shapes))
  assert back.keys() == arrays.keys()
  for name, array in arrays.items():
    np.testing.assert_array_equal(back[name], array.astype(np.float32))


def test_lengths_beyond_the_times_there_are():
  network, x = Recurrent(3), jnp.ones((2, 4, 2))
  variables = network.init(jax.random.key(1), x)
  for lengths, said in (([5, 1], "1 to 5"), ([-1, 4], "-1 to 4")):
    with pytest.raises(UserError, match=f"sequences of lengths {said}, and the batch has room for 0 to 4"):
      network.apply(variables, x, jnp.array(lengths))
  compiled = jax.jit(network.apply)(variables, x, jnp.array([5, 4]))[0]
  np.testing.assert_array_equal(compiled, network.apply(variables, x)[0])


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_padding_does_not_matter_and_nothing_moves_on_it(kind):
  """A ragged batch is its examples one by one; what stands in the padding is not read, not even where it is NaN."""
  network = Recurrent(3, kind, layers=2, bidirectional=True)
  x, lengths = jax.random.normal(jax.random.key(0), (3, 6, 2)), jnp.array([2, 6, 0])
  variables = jax.jit(network.init)(jax.random.key(1), x)
  initial = tuple(jax.random.normal(jax.random.key(2), (3, 4, 3)) for _ in range(recurrent.CELLS[kind].states))
  padded = jnp.where(jnp.arange(6)[:, None] < lengths[:, None, None], x, jnp.nan)
  run = jax.jit(network.apply)
  output, final = run(variables, padded, lengths, initial)
  for b, length in enumerate([2, 6]):
    alone, state = run(variables, x[b : b + 1, :length], None, tuple(s[b : b + 1] for s in initial))
    assert_close(output[b, :length], alone[0])
    assert not output[b, length:].any()
    for s, t in zip(final, state, strict=True):
      assert_close(s[b], t[0])
  for s, t in zip(final, initial, strict=True):  # no valid time at all
    np.testing.assert_array_equal(s[2], t[2])


def test_each_direction_reads_from_its_own_end():
  """d output[t] / d x[s] of one bidirectional layer's halves: forward s <= t, backward s >= t, below the length."""
  network, length = Recurrent(1, "gru", bidirectional=True), 4
  x = jax.random.normal(jax.random.key(0), (1, 6, 1))
  variables = jax.jit(network.init)(jax.random.key(1), x)
  outputs = lambda x: network.apply(variables, x[None, :, None], jnp.array([length]))[0][0]
  reads = np.asarray(jax.jit(jax.jacobian(outputs))(x[0, :, 0]) != 0)
  valid = np.arange(6) < length
  inside = valid[:, None] & valid
  np.testing.assert_array_equal(reads[:, 0], inside & np.tri(6, dtype=bool))
  np.testing.assert_array_equal(reads[:, 1], inside & np.tri(6, dtype=bool).T)


def test_one_step_is_the_scan_of_one():
  cell = recurrent.Cell(4, "lstm")
  x, state = jax.random.normal(jax.random.key(0), (2, 3)), cell.zeros(2)
  variables = cell.init(jax.random.key(1), x, state)
  step = cell.apply(variables, x, cell.apply(variables, x, state))
  x = jnp.stack([x, x], axis=1)
  _, scanned = cell.apply(variables, x, jnp.ones((2, 2), bool), state, method="scan")
  for a, b in zip(step, scanned, strict=True):
    assert_close(a, b)


def test_dropout_lies_between_layers_and_follows_the_index():
  network, x = Recurrent(8, "gru", layers=2, dropout=0.5), jax.random.normal(jax.random.key(0), (3, 4, 2))
  variables = jax.jit(network.init)(jax.random.key(1), x)
  rngs = {"dropout": jax.random.key(2)}
  run = jax.jit(lambda network, x, index: network.apply(variables, x, index=index, rngs=rngs)[0], static_argnums=0)
  index = jnp.arange(3)
  dropped = run(network, x, index)
  assert not np.allclose(dropped, run(network, x, None))
  assert_close(run(network, x[::-1], index[::-1]), dropped[::-1])
  one = Recurrent(8, "gru", dropout=0.5)
  np.testing.assert_array_equal(run(one, x, index), run(one, x, None))


# --- Sequence to sequence ---------------------------------------------------------------------------------------------

SOURCE = jax.random.randint(jax.random.key(0), (3, 5), 0, 7)
TARGET = jax.random.randint(jax.random.key(1), (3, 4), 0, 6)
LENGTHS = jnp.array([3, 5, 1])
MASK = jnp.arange(5) < LENGTHS[:, None]
DECODERS = {
  "additive, GRU": Seq2Seq(7, 6, 4, 3, "gru", decoder=Additive),
  "multiplicative, LSTM": Seq2Seq(7, 6, 4, 3, "lstm", 2, Multiplicative),
}


def randomised(network) -> dict:
  variables = jax.jit(network.init)(jax.random.key(2), SOURCE, TARGET)
  leaves, tree = jax.tree.flatten(variables)
  noise = [0.5 * jax.random.normal(jax.random.key(i), x.shape, x.dtype) for i, x in enumerate(leaves)]
  return jax.tree.unflatten(tree, jax.tree.map(jnp.add, leaves, noise))


@pytest.mark.parametrize("name", DECODERS)
def test_attention_is_on_the_source_alone_and_padding_is_not_read(name):
  network = DECODERS[name]
  variables = randomised(network)
  run = jax.jit(partial(network.apply, method="attend"))
  logits, weights = run(variables, SOURCE, TARGET, MASK)
  assert weights.shape == (3, 4, 5)
  assert_close(weights.sum(-1), 1, terms=5)
  assert not weights[jnp.broadcast_to(~MASK[:, None], weights.shape)].any()
  other, _ = run(variables, jnp.where(MASK, SOURCE, (SOURCE + 3) % 7), TARGET, MASK)
  np.testing.assert_array_equal(logits, other)
  alone, _ = run(variables, SOURCE[:1, :3], TARGET[:1], None)
  assert_close(logits[0], alone[0])


@pytest.mark.parametrize("name", DECODERS)
def test_step_by_step_equals_teacher_forcing_and_sees_no_future(name):
  network = DECODERS[name]
  variables = randomised(network)
  expected = jax.jit(network.apply)(variables, SOURCE, TARGET, MASK)
  step, carry = network.stepper(variables["params"], SOURCE, MASK, 4)
  assert all(leaf.shape[0] == 3 for leaf in jax.tree.leaves(carry))
  step = jax.jit(step)
  for t in range(4):
    logits, carry = step(carry, TARGET[:, t])
    assert_close(logits, expected[:, t])


def numpy_additive(p, state, y, memory):
  """Bahdanau et al.'s Appendix A, for one example, by numpy; the cell is torch's GRU."""
  sigmoid = lambda x: 1 / (1 + np.exp(-x))
  scores = [np.tanh(state @ p["w"]["kernel"] + h @ p["u"]["kernel"]) @ p["v"]["kernel"][:, 0] for h in memory]
  alpha = np.exp(scores) / np.sum(np.exp(scores))
  context = sum(a * h for a, h in zip(alpha, memory, strict=True))
  cell, x = p["cells_0"], np.concatenate([y, context])
  (xr, xz, xn), (hr, hz, hn) = (
    np.split(v @ cell[name] + cell[f"{name}_bias"], 3) for v, name in ((x, "input"), (state, "hidden"))
  )
  r, z = sigmoid(xr + hr), sigmoid(xz + hz)
  state = (1 - z) * np.tanh(xn + r * hn) + z * state
  out = np.concatenate([state, y, context]) @ p["out"]["kernel"] + p["out"]["bias"]
  return np.array([max(out[2 * i], out[2 * i + 1]) for i in range(len(state))]), alpha


def numpy_multiplicative(p, state, y, memory):
  """Luong et al.'s eqs. 5 and 8 behind one tanh cell, for one example and a first step, by numpy."""
  cell, x = p["cells_0"], np.concatenate([y, np.zeros_like(state)])
  state = np.tanh(x @ cell["input"] + cell["input_bias"] + state @ cell["hidden"] + cell["hidden_bias"])
  scores = [state @ (h @ p["w"]["kernel"]) for h in memory]
  alpha = np.exp(scores) / np.sum(np.exp(scores))
  context = sum(a * h for a, h in zip(alpha, memory, strict=True))
  return np.tanh(np.concatenate([context, state]) @ p["out"]["kernel"]), alpha


@pytest.mark.parametrize(
  ("decoder", "kind", "formula"), [(Additive, "gru", numpy_additive), (Multiplicative, "rnn", numpy_multiplicative)]
)
def test_one_step_is_the_papers_formula(decoder, kind, formula, x64):
  rng = np.random.default_rng(0)
  memory, y, state = rng.normal(size=(1, 3, 5)), rng.normal(size=(1, 2)), rng.normal(size=(1, 4))
  module = decoder(4, kind, 1, dtype=jnp.float64, param_dtype=jnp.float64)
  carry, mask = (((jnp.asarray(state),),), jnp.zeros((1, 4))), jnp.ones((1, 3), bool)

  def step(module, memory):
    return module(carry, jnp.asarray(y), module.keys(memory), memory, mask)

  variables = module.init(jax.random.key(0), jnp.asarray(memory), method=step)
  variables = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), variables)
  _, (out, weights) = module.apply(variables, jnp.asarray(memory), method=step)
  expected, alpha = formula(jax.tree.map(np.asarray, variables["params"]), state[0], y[0], memory[0])
  assert_close(out[0], expected)
  assert_close(weights[0], alpha)
