"""DiffWave and WaveGrad against tests/fixtures/make_audio_networks.py, and what they see of a wave."""

import math

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from published import assert_gradients, load

from jaxgen.core.errors import UserError
from jaxgen.interop import diffwave as diffwave_layout
from jaxgen.interop import layout
from jaxgen.interop import wavegrad as wavegrad_layout
from jaxgen.nn.audio.diffwave import DiffWave
from jaxgen.nn.audio.wavegrad import WaveGrad

DOUBLE = dict(dtype="float64", param_dtype="float64")
SMALL = DiffWave(channels=6, layers=5, cycle=3, embedding=8, hidden=10, **DOUBLE)
GRAD = WaveGrad(5, (5, 3, 2), (8, 6, 4), (4, 6, 8), 7, ((1, 2, 1, 2), (1, 2, 4, 8), (1, 2, 4, 8)), 50.0, **DOUBLE)
NETWORKS = {
  "diffwave": SMALL,
  "diffwave_mel": SMALL.clone(factors=(4, 2)),
  "diffwave_labels": SMALL.clone(labels=(("label", 3), ("speaker", 4)), label_features=7),
  "wavegrad": GRAD,
}


def entries(network):
  if isinstance(network, WaveGrad):
    return wavegrad_layout.lmnt(network)
  tables = [layout.same(f"label_embedding.{name}.weight", f"params/{name}/embedding") for name, _ in network.labels]
  blocks = range(network.layers if network.labels else 0)
  labels = [diffwave_layout.taps(f"residual_layers.{i}.label_projection", "params/blocks/label") for i in blocks]
  return diffwave_layout.lmnt(network) + tables + layout.stacked(labels)


def read(name):
  """(network, variables, arguments, arrays)"""
  network, arrays = NETWORKS[name], load("audio_networks.npz", name)
  given = {k: jnp.asarray(v) for k, v in arrays["argument"].items()}
  arguments = given.pop("x"), given.pop("level" if name == "wavegrad" else "t"), given or None
  shapes = jax.eval_shape(network.init, jax.random.key(0), *arguments)
  return network, layout.read(entries(network), arrays["weight"], shapes), arguments, arrays


@pytest.mark.parametrize("name", NETWORKS)
def test_output_and_gradients_equal_pytorch(name, x64):
  network, variables, arguments, arrays = read(name)

  def loss(variables):
    output = network.apply(variables, *arguments)
    return jnp.sum(output * arrays["cotangent"][""]), output

  (_, output), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables)
  np.testing.assert_allclose(output, arrays["output"][""], rtol=0, atol=1e-9)
  assert np.abs(output).max() > 0.1
  back = layout.write(entries(network), variables)
  assert all((back[tensor] == value).all() for tensor, value in arrays["weight"].items())
  found = layout.write(entries(network), gradients)
  assert found.keys() == arrays["gradient"].keys()
  assert_gradients(found, arrays["gradient"])


def test_parameters_at_full_size_are_those_of_the_definitions():
  """The numbers that PyTorch's modules have; DiffWave's are stated by the issue of its authors' definition."""
  told = lambda bands, frames: {"mel": jax.ShapeDtypeStruct((1, frames, bands), np.float32)}
  x = lambda length: jax.ShapeDtypeStruct((1, length, 1), np.float32)
  t = jax.ShapeDtypeStruct((1,), np.float32)
  wanted = {k: int(v) for k, v in load("audio_networks.npz", "parameters").items() for v in v.values()}
  base = DiffWave(factors=(16, 16))
  cases = {
    "base": (base, x(512), told(80, 2), 2_619_971),
    "large": (base.clone(channels=128), x(512), told(80, 2), 6_885_315),
    "wavegrad": (WaveGrad(), x(600), told(128, 2), 15_920_993),
  }
  for name, (network, wave, mel, number) in cases.items():
    shapes = jax.eval_shape(network.init, jax.random.key(0), wave, t, mel)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == number == wanted[name]
  assert base.receptive_field == 6_139  # the paper's, of 30 layers and a cycle of 10


def test_the_receptive_field_by_the_jacobian(x64):
  network, variables, (x, t, _), _ = read("diffwave")
  half = network.receptive_field // 2
  assert network.receptive_field == 1 + 2 * (1 + 2 + 4 + 1 + 2)
  middle = x.shape[1] // 2
  seen = lambda wave: network.apply(variables, wave[None, :, None], t[:1])[0, middle, 0]
  gradient = np.asarray(jax.jit(jax.grad(seen))(x[0, :, 0]))
  (where,) = np.nonzero(gradient)
  assert (where.min(), where.max()) == (middle - half, middle + half)


def test_a_shifted_wave_has_a_shifted_output(x64):
  """Away from the ends; with a spectrogram, by whole frames."""
  network, variables, (x, t, told), _ = read("diffwave_mel")
  hop, apply = 8, jax.jit(network.apply)
  x, mel = jnp.tile(x, (1, 4, 1)), jnp.tile(told["mel"], (1, 4, 1))
  a = apply(variables, x, t, {"mel": mel})
  b = apply(variables, jnp.roll(x, hop, axis=1), t, {"mel": jnp.roll(mel, 1, axis=1)})
  inner = slice(48, 80)
  np.testing.assert_allclose(b[:, inner], jnp.roll(a, hop, axis=1)[:, inner], rtol=0, atol=1e-12)


def test_each_label_matters(x64):
  network, variables, (x, t, told), _ = read("diffwave_labels")
  apply = jax.jit(network.apply)
  output = apply(variables, x, t, told)
  for name in told:
    other = apply(variables, x, t, told | {name: jnp.roll(told[name], 1)})
    assert np.abs(other - output).max() > 1e-3
  assert np.isnan(apply(variables, x, t, told | {"label": jnp.array([0, 3])})[1]).all()


def test_wrong_conditions_are_one_sentence(x64):
  x, t, key = jnp.zeros((1, 16, 1)), jnp.zeros(1), jax.random.key(0)
  mel, label = {"mel": jnp.zeros((1, 2, 5))}, {"label": jnp.zeros(1, jnp.int32)}
  tiny = dict(channels=2, layers=2, embedding=4, hidden=4)
  cases = [
    (DiffWave(**tiny), label, "is conditioned on nothing, and was given label"),
    (DiffWave(**tiny, labels=(("label", 3),)), None, "is conditioned on label, and was given nothing"),
    (DiffWave(**tiny, factors=(4,)), mel, "2 frames is 8 samples at 4 a frame, and the wave has 16"),
    (DiffWave(**tiny, kernel=2), None, "must be odd"),
    (DiffWave(**tiny | {"layers": 0}), None, "layers=0"),
    (GRAD, mel, "2 frames is 60 samples at 30 a frame"),
    (GRAD, label, "told a mel spectrogram"),
    (GRAD.clone(down=(4, 6)), mel, "one of each"),
    (GRAD.clone(bands=6, factors=(2, 2, 2)), mel, "5 bands and the network's 6"),
  ]
  for network, told, words in cases:
    with pytest.raises(UserError, match=words):
      jax.eval_shape(network.init, key, x, t, told)


def equations(jaxpr):
  inner = [sub for equation in jaxpr.eqns for sub in jax.extend.core.jaxprs_in_params(equation.params)]
  return len(jaxpr.eqns) + sum(map(equations, inner))


def test_more_layers_and_longer_clips_are_no_longer_program():
  def program(layers, length):
    network = DiffWave(channels=4, layers=layers, cycle=5, embedding=4, hidden=4)
    x, t = jax.ShapeDtypeStruct((2, length, 1), np.float32), jax.ShapeDtypeStruct((2,), np.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), x, t)
    return equations(jax.make_jaxpr(network.apply)(variables, x, t).jaxpr)

  assert program(5, 100) == program(30, 100) == program(30, 100_000)
