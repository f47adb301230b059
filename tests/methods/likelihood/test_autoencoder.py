"""First stages: their losses against their definitions, the discriminator's start, and latents of mean 0 and std 1."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from likelihood_cases import TinyStage

from jaxgen import data
from jaxgen.core.errors import UserError
from jaxgen.core.spec import Spec
from jaxgen.core.wrappers import first_stage
from jaxgen.diffusion import PREDICTIONS, rectified_flow
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.methods.diffusion.objective import Objective
from jaxgen.methods.diffusion.sampler import Sampler
from jaxgen.methods.likelihood.autoencoder import (
  Adversary,
  Perceptual,
  adaptive_weight,
  autoencoder,
  codes,
  kl,
  latents,
  reconstruct,
  with_gradient,
)
from jaxgen.nn import ConvNet, UNet
from jaxgen.nn.adversarial.patchgan import PatchDiscriminator
from jaxgen.nn.autoencoders.ldm import VQAutoencoder

DIGITS = data.digits()
START = 20
NETWORK, BOTTLENECK = TinyStage(2), kl(1e-3)
FEATURES = Perceptual(ConvNet(10, (4, 8), 8))


def batch_of(size, start=0):
  images = DIGITS.source("train").arrays["image"][start : start + size].astype("float32") / 8 - 1
  return {"image": jnp.asarray(images), "index": jnp.arange(size, dtype=jnp.int32)}


@pytest.fixture(scope="module")
def trained():
  """(method, states after 0, START and 150 steps, the last step's metrics)."""
  adversary = Adversary(PatchDiscriminator(4, 1), optax.adam(1e-3), START)
  method = autoencoder(
    NETWORK,
    BOTTLENECK,
    spec=DIGITS.spec,
    optimizer=optax.adam(optax.linear_schedule(6e-3, 0, 150)),
    perceptual=FEATURES,
    adversary=adversary,
  )
  state = jax.jit(method.init)(jax.random.key(0), batch_of(2))
  step, states = jax.jit(method.step), [state]
  for i in range(150):
    state, metrics = step(state, batch_of(64, 64 * (i % 20)))
    if i + 1 == START:
      states.append(state)
  return method, [*states, state], metrics


def test_the_discriminator_comes_after_some_steps(trained):
  _, (first, started, last), metrics = trained
  changed = lambda a, b, name: any(
    np.any(x != y) for x, y in zip(jax.tree.leaves(a.params[name]), jax.tree.leaves(b.params[name]), strict=True)
  )
  assert not changed(first, started, "discriminator")
  assert changed(started, last, "discriminator")
  assert not changed(first, last, "perceptual")
  assert changed(first, started, "network")
  assert metrics["network/adaptive_weight"] > 0


def test_it_learns_pictures_and_its_latents_have_mean_0_and_std_1(trained):
  method, (first, _, last), _ = trained
  evaluate = jax.jit(method.evaluate)
  before, after = (evaluate(state, batch_of(512), jax.random.key(1)) for state in (first, last))
  assert after["squared_error"].mean() < before["squared_error"].mean() / 2
  assert abs(after["latent"].mean()) < 0.1
  assert after["latent_square"].mean() == pytest.approx(1, abs=0.1)


def test_a_diffusion_model_learns_what_the_run_has_measured(trained):
  """The stage is the run's, and its pictures come back from latents as the run's figures show them."""
  _, (_, _, state), _ = trained
  stage = latents(NETWORK, BOTTLENECK)
  tree = {"params": state.params["network"], **state.buffers}
  init, encode, decode = stage
  batch = batch_of(256)
  shapes = jax.eval_shape(init, jax.random.key(0), batch["image"])
  assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, tree)
  z = jax.jit(encode)(tree, batch["image"], jax.random.split(jax.random.key(3), 256))
  assert z.shape == (256, 4, 4, 2)
  np.testing.assert_allclose(z.mean((0, 1, 2)), 0, atol=0.15)
  np.testing.assert_allclose(z.std((0, 1, 2)), 1, atol=0.15)
  shown = jax.jit(reconstruct(NETWORK, BOTTLENECK))(state, batch["image"][:4])
  mean = encode(tree, batch["image"][:4], None)
  np.testing.assert_allclose(decode(tree, mean), shown, atol=1e-4)

  spec = Spec((4, 4, 2))
  network = UNet(4, (1,), 1, (), out_channels=2)
  flow = gaussian_diffusion(
    network,
    rectified_flow(),
    spec,
    optax.adam(1e-3),
    objective=Objective(PREDICTIONS["velocity"]),
    sampler=Sampler(steps=2, clip=False),
  )
  method = first_stage(flow, *stage)
  shapes = jax.eval_shape(method.init, jax.random.key(0), batch)
  samples = jax.eval_shape(method.sample, shapes, jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 3)))
  assert samples.shape == (3, 8, 8, 1)


def test_the_adaptive_weight_is_that_of_the_whole_gradients():
  """(F3), the norms taken from gradients in all parameters."""
  x = batch_of(3)["image"]
  z = jax.random.normal(jax.random.key(1), (3, 4, 4, 2))
  decode = lambda p: NETWORK.apply({"params": p}, z, method="decode")
  rec, adv = lambda y: jnp.abs(x - y).sum(), lambda y: -jnp.sin(3 * y).mean()

  @jax.jit
  def both(params):
    y = decode(params)
    gradients = [jax.grad(lambda p, f=f: f(decode(p)))(params)["decoder"]["out"]["kernel"] for f in (rec, adv)]
    return adaptive_weight(decode, params, jax.grad(rec)(y), jax.grad(adv)(y)), gradients

  found, gradients = both(jax.jit(NETWORK.init)(jax.random.key(0), x)["params"])
  a, b = (np.linalg.norm(gradient) for gradient in gradients)
  assert found == pytest.approx(a / (b + 1e-4), rel=1e-3)


def test_a_step_goes_down_the_gradients_of_both_losses():
  """(F1) to (F4), written out: parameters before and after one step of gradient descent with a rate of 1."""
  exact = BOTTLENECK._replace(  # the latents' mean instead of a draw: which key draws them is another test's
    train=lambda encoded, buffers, keys, key: BOTTLENECK.train(encoded, buffers, keys, key)._replace(z=encoded[0]),
    latents=lambda encoded, keys: encoded[0],
  )
  patches = PatchDiscriminator(4, 1)
  method = autoencoder(
    NETWORK,
    exact,
    spec=DIGITS.spec,
    optimizer=optax.sgd(1.0),
    perceptual=FEATURES._replace(weight=0.7),
    adversary=Adversary(patches, optax.sgd(1.0), 0, weight=0.3),
  )
  batch = batch_of(4)
  x = batch["image"]
  before = jax.jit(method.init)(jax.random.key(0), batch)
  after, metrics = jax.jit(method.step)(before, batch)
  see = lambda d, x: patches.apply({"params": d}, x, mutable=["batch_stats"])[0]

  @jax.jit
  def gradients(params):
    def parts(p):
      mean, log_std = NETWORK.apply({"params": p}, x, method="encode")
      y = NETWORK.apply({"params": p}, mean, method="decode")
      rec = jnp.abs(x - y).sum() / x.size + 0.7 * FEATURES.distance(params["perceptual"], x, y).mean()
      nats = (mean**2 + jnp.exp(2 * log_std) - 1 - 2 * log_std).sum() / 2 / len(x)
      return rec, 1e-3 * nats / 64, -see(params["discriminator"], y).mean(), y

    def of(i):
      return jax.grad(lambda p: parts(p)[i])(params["network"])

    rec, latent, adv = of(0), of(1), of(2)
    norm = lambda tree: jnp.linalg.norm(tree["decoder"]["out"]["kernel"])
    w = 0.3 * norm(rec) / (norm(adv) + 1e-4)
    total = jax.tree.map(lambda a, b, c: a + b + w * c, rec, latent, adv)

    def hinge(d, y):
      return (jnp.maximum(0, 1 - see(d, x)).mean() + jnp.maximum(0, 1 + see(d, y)).mean()) / 2

    return total, jax.grad(hinge)(params["discriminator"], parts(params["network"])[3]), w

  # The discriminator sees what the network made before this step, or after it, by the order of the players.
  total, _, w = gradients(before.params)
  _, hinge, _ = gradients({**before.params, "network": after.params["network"]})
  assert metrics["network/adaptive_weight"] == pytest.approx(float(w), rel=1e-3)
  for name, expected in (("network", total), ("discriminator", hinge)):
    moved = jax.tree.map(lambda a, b: a - b, before.params[name], after.params[name])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-6), moved, expected)


def test_a_number_with_a_gradient():
  f = lambda x: with_gradient(jnp.float32(3), x, jnp.full((1, 1, 2, 1), 5.0))
  value, gradient = jax.value_and_grad(f)(jnp.ones((1, 1, 2, 1)))
  assert value == 3
  np.testing.assert_array_equal(gradient, np.full((1, 1, 2, 1), 5.0))


def test_the_perceptual_distance_is_its_definition():
  x, y = batch_of(2)["image"], batch_of(2, 2)["image"]
  variables = FEATURES.network.init(jax.random.key(0), x)
  expected = np.zeros(2)
  for a, b in zip(*(FEATURES.network.apply(variables, v, method="maps") for v in (x, y)), strict=True):
    a, b = (np.asarray(v, float) for v in (a, b))
    a, b = (v / np.sqrt((v**2).sum(-1, keepdims=True) + 1e-10) for v in (a, b))
    expected += ((a - b) ** 2).sum(-1).mean((1, 2))
  np.testing.assert_allclose(FEATURES.distance(variables, x, y), expected, rtol=1e-4)
  np.testing.assert_allclose(FEATURES.distance(variables, x, x), 0, atol=1e-6)


def test_codes_replace_latents_by_the_nearest():
  bottleneck = codes(3)
  e = jnp.asarray([[0.0, 0], [1, 0], [0, 2]])
  buffers = {"codebook": {"count": jnp.full(3, 2.0), "sum": 2 * e}}
  z = jnp.asarray([0.9, 0.2, 0.1, 1.2]).reshape(1, 1, 2, 2)
  train = lambda z: bottleneck.train(z, buffers, jax.random.split(jax.random.key(0), 1), jax.random.key(1))
  made = train(z)
  np.testing.assert_allclose(made.z.reshape(2, 2), e[jnp.asarray([1, 2])], atol=1e-6)
  np.testing.assert_allclose(made.loss, [0.25 * (0.1**2 + 0.2**2 + 0.1**2 + 0.8**2)], rtol=1e-5)
  np.testing.assert_allclose(bottleneck.finish(z, buffers), made.z, atol=1e-6)
  np.testing.assert_array_equal(jax.grad(lambda z: train(z).z.sum())(z), np.ones(z.shape))


def test_patches_of_a_picture():
  count = lambda network, side, channels: sum(
    s.size
    for s in jax.tree.leaves(
      jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, side, side, channels)))["params"]
    )
  )
  # pix2pix's discriminator of 3 channels: convolutions, and a gain and a bias of each normalised channel
  channels = [3, 64, 128, 256, 512, 1]
  kernels = sum(16 * a * b for a, b in zip(channels, channels[1:], strict=False))
  assert count(PatchDiscriminator(), 256, 3) == kernels + 64 + 2 * (128 + 256 + 512) + 1
  network = PatchDiscriminator()
  out = lambda side: jax.eval_shape(network.init_with_output, jax.random.key(0), jnp.zeros((1, side, side, 3)))[0].shape
  assert out(256) == (1, 30, 30)
  with pytest.raises(UserError, match="8 x 8 are too small for a discriminator of patches with 3 layers"):
    out(8)


def test_says_what_does_not_fit():
  make = lambda network, **options: autoencoder(
    network, options.pop("bottleneck", kl()), spec=DIGITS.spec, optimizer=optax.adam(1e-3), **options
  )
  with pytest.raises(UserError, match="the start of a first stage is 0 or more, and this is -1"):
    make(NETWORK, adversary=Adversary(PatchDiscriminator(4, 1), optax.adam(1e-3), -1))
  with pytest.raises(UserError, match="codebook has codes=1"):
    codes(1)
  method = make(VQAutoencoder(2, 3, 4, (1, 2), blocks=1, groups=2), bottleneck=codes(4))
  with pytest.raises(UserError, match=r"the network's output for one example is \(8, 8, 3\), not \(8, 8, 1\)"):
    jax.eval_shape(method.init, jax.random.key(0), batch_of(2))
