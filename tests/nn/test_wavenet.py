from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.nn.sequence.wavenet import WaveNet, stacks

DTYPES = dict(dtype=jnp.float64, param_dtype=jnp.float64)
NETWORKS = {
  "two taps, two stacks": dict(kernel=2, dilations=(1, 2, 4, 1, 2)),
  "three taps": dict(kernel=3, dilations=(1, 3)),
  "one layer": dict(kernel=2, dilations=(5,)),
}
LABEL = jnp.array([0, 2])


def build(name, **options):
  """(network, random parameters, none of them at its initial value)."""
  network = WaveNet(5, features=4, hidden=3, skip=24, conditions=(("label", 3),), **NETWORKS[name], **DTYPES, **options)
  tokens = jnp.zeros((1, 2), jnp.int32)
  shapes = jax.eval_shape(network.init, jax.random.key(0), tokens, label=LABEL[:1])["params"]
  rng = np.random.default_rng(0)
  return network, jax.tree.map(lambda p: 0.6 * rng.normal(size=p.shape), shapes)


def convolve(x, kernel, dilation):
  """[B, T, C] by [k, C, D], causal, by the compiler's own convolution."""
  k = kernel.shape[0]
  pads, layout = [((k - 1) * dilation, 0)], ("NWC", "WIO", "NWC")
  return jax.lax.conv_general_dilated(x, kernel, (1,), pads, rhs_dilation=(dilation,), dimension_numbers=layout)


@pytest.mark.parametrize("name", NETWORKS)
def test_is_made_of_dilated_convolutions(name, x64):
  network, params = build(name)
  tokens = jnp.asarray(np.random.default_rng(2).integers(0, 5, (2, 12)))
  ours = jax.jit(lambda p: network.apply({"params": p}, tokens, label=LABEL))(params)
  np.testing.assert_allclose(ours, jax.jit(partial(by_convolutions, network, tokens))(params), atol=1e-12)


def by_convolutions(network, tokens, p):
  k, label = network.kernel, np.eye(3)[LABEL]
  x = jnp.asarray(np.eye(5)[tokens])
  taps = lambda dense: dense["kernel"].reshape(k, -1, dense["kernel"].shape[-1])
  x = convolve(x, taps(p["first"]), 1) + p["first"]["bias"]
  skips = 0
  for i, d in enumerate(network.dilations):
    layer = jax.tree.map(lambda a, i=i: a[i], p["layers"])
    a = convolve(x, taps(layer["gates"]), d) + layer["gates"]["bias"] + (label @ p["condition"][i])[:, None]
    z = jnp.tanh(a[..., :3]) / (1 + jnp.exp(-a[..., 3:]))
    out = z @ layer["out"]["kernel"] + layer["out"]["bias"]
    x, skips = x + out[..., :4], skips + out[..., 4:]
  for dense in (p["head_0"], p["head_1"]):
    skips = jnp.maximum(skips, 0) @ dense["kernel"] + dense["bias"]
  return skips


@pytest.mark.parametrize("name", NETWORKS)
def test_sees_its_receptive_field_and_nothing_else(name, x64):
  """Exactly zero in the future and beyond the receptive field; elsewhere zero nowhere."""
  network, params = build(name)
  field = 1 + sum((network.kernel - 1) * d for d in (1, *network.dilations))
  assert network.receptive_field == field
  count = field + 3
  x = np.random.default_rng(3).normal(size=(1, count, 5))
  run = lambda x: network.apply({"params": params}, x, label=LABEL[:1], method="from_one_hot")[0]
  jacobian = np.abs(jax.jit(jax.jacobian(run))(x)[:, :, 0]).max(axis=(1, 3))  # [what is said, what was read]
  offsets = {0}
  for d in (1, *network.dilations):
    offsets = {offset + j * d for offset in offsets for j in range(network.kernel)}
  assert max(offsets) == field - 1
  for t in range(count):
    for s in range(count):
      assert (jacobian[t, s] > 0) == (t - s in offsets), (t, s)
  if name != "one layer":
    assert len(offsets) == field  # no hole


def test_the_papers_receptive_fields():
  assert WaveNet(dilations=stacks(1, 10)).receptive_field == 1024 + 1  # section 2.1, and the convolution before them
  assert stacks(2, 3) == (1, 2, 4, 1, 2, 4)


@pytest.mark.parametrize(("name", "read"), [(name, read) for name in NETWORKS for read in (0, 6)] + [("one layer", 13)])
def test_token_by_token_equals_all_at_once(name, read, x64):
  network, params = build(name)
  tokens = jnp.asarray(np.random.default_rng(4).integers(0, 5, (2, 20)))

  @jax.jit
  def run(params):
    step, carry = network.stepper(params, tokens[:, :read], 20, label=LABEL)
    _, logits = jax.lax.scan(lambda c, t: step(c, t)[::-1], carry, tokens[:, read:].T)
    return jnp.swapaxes(logits, 0, 1), network.apply({"params": params}, tokens, label=LABEL)[:, read:]

  one_by_one, at_once = run(params)
  np.testing.assert_allclose(one_by_one, at_once, atol=1e-12)
  assert np.abs(at_once).max() > 0.1


def test_what_is_kept_does_not_grow(x64):
  network, params = build("two taps, two stacks")
  kept = lambda read: jax.eval_shape(
    lambda t: network.stepper(params, t, 10**6, label=LABEL)[1], jnp.zeros((2, read), int)
  )
  sizes = lambda carry: {name: leaf.shape for name, leaf in carry.items()}
  assert sizes(kept(0)) == sizes(kept(50)) == {"position": (2,), "tokens": (2, 1, 5), "rings": (2, 10, 4)}


def test_conditions_matter_and_are_checked(x64):
  network, params = build("three taps")
  tokens = jnp.ones((2, 4), jnp.int32)
  run = lambda *words, **conditions: network.apply({"params": params}, *words, **conditions)
  logits = jax.jit(run)(tokens, label=LABEL)
  assert np.abs(logits[0] - logits[1]).min() > 1e-4
  for wrong in (5, -1):
    with pytest.raises(UserError, match="tokens from .* 0 to 4"):
      run(tokens.at[0, 1].set(wrong), label=LABEL)
    assert np.isnan(jax.jit(run)(tokens.at[0, 1].set(wrong), label=LABEL)[0, 1:]).all()
  with pytest.raises(UserError, match="label from 0 to 3"):
    run(tokens, label=jnp.array([0, 3]))
  with pytest.raises(UserError, match="is conditioned on label of each example, and was given nothing"):
    run(tokens)
  with pytest.raises(UserError, match="was given label, speaker"):
    run(tokens, label=LABEL, speaker=LABEL)
