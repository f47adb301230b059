"""What every method must satisfy, driven by one dict. A new method adds an entry and gets all of it for free."""

import functools
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import conftest
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxgen import data, diffusion
from jaxgen.core.method import Method, rollback
from jaxgen.data import pipeline
from jaxgen.data.transforms import dequantize
from jaxgen.diffusion import predictions, weightings
from jaxgen.diffusion.likelihood import continuous_bound, ode_nll, rk4
from jaxgen.diffusion.losses import bound_nll
from jaxgen.diffusion.times import by_loss, c_noise, log_normal, low_discrepancy
from jaxgen.engine.catalogue import config_summary, configs_in, find_config, shipped_folder
from jaxgen.engine.checkpoint import Checkpoints
from jaxgen.engine.hashing import state_hash
from jaxgen.engine.mesh import make_mesh
from jaxgen.engine.pmap import pmap_step, shard_batch, stack_state, unstack_state
from jaxgen.engine.program import PREPARE_STREAM, Program
from jaxgen.mcmc.langevin import langevin, mala
from jaxgen.mcmc.resampling import Chains
from jaxgen.methods.adversarial.gan import LOSSES, gan, r1, uniform
from jaxgen.methods.diffusion.gaussian import Guide, gaussian_diffusion
from jaxgen.methods.diffusion.vdm import vdm
from jaxgen.methods.energy.ebm import Replay, diverged, ebm
from jaxgen.methods.energy.multigrid import multigrid
from jaxgen.methods.energy.nce import flow_contrastive, nce
from jaxgen.methods.energy.rbm import cd, persistent, rbm, tempered
from jaxgen.methods.energy.score_matching import score_matching, sliced
from jaxgen.methods.likelihood.autoregressive import autoregressive
from jaxgen.methods.likelihood.flow import flow
from jaxgen.methods.likelihood.vae import vae
from jaxgen.methods.likelihood.vqvae import vqvae
from jaxgen.methods.sequence.language import language, pixels
from jaxgen.methods.sequence.seq2seq import seq2seq
from jaxgen.methods.supervised.classifier import classifier
from jaxgen.nn import ConvNet, UNet
from jaxgen.nn.adversarial.gan import DCGANDiscriminator, DCGANGenerator, MLPDiscriminator, MLPGenerator
from jaxgen.nn.autoencoders.vae import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder
from jaxgen.nn.autoencoders.vqvae import Decoder as VQDecoder
from jaxgen.nn.autoencoders.vqvae import Encoder as VQEncoder
from jaxgen.nn.autoregressive.made import MADE, NADE
from jaxgen.nn.autoregressive.pixelcnn import GatedPixelCNN
from jaxgen.nn.autoregressive.pixelcnnpp import PixelCNNpp
from jaxgen.nn.blocks.layers import BatchNorm, Dropout
from jaxgen.nn.energy.ebm import EnergyConvNet, EnergyMLP
from jaxgen.nn.energy.rbm import RBM
from jaxgen.nn.flows import bijections
from jaxgen.nn.flows.bijections import Chain, CheckerboardCoupling, Logit
from jaxgen.nn.flows.glow import glow
from jaxgen.nn.flows.nice import nice
from jaxgen.nn.flows.realnvp import ResNet
from jaxgen.nn.sequence.seq2seq import Seq2Seq
from jaxgen.nn.sequence.transformer import EncoderDecoder, LanguageModel, Options, gpt
from jaxgen.nn.sequence.wavenet import WaveNet
from jaxgen.nn.unets.vdm import LinearGamma, ScoreNetwork
from jaxgen.probability.distributions import bernoulli, categorical, logistic, logistic_mixture
from jaxgen.probability.noise import of_method

BATCH = 16


class Case(NamedTuple):
  """A method to be tested.

  build: (param and compute dtype, **options of compose) -> the method at a size for tests.
  data: what it learns.
  conditions: (number of samples) -> what each is asked for.
  whole: a word of the reason for which it takes its batch whole, no microbatches and no pmap; None where it takes them.
  falls: the end of the name of a metric that falls when it learns; None where none does.
  """

  build: Callable[..., Method]
  data: data.Dataset
  whole: str | None = None
  conditions: Callable[[int], dict[str, np.ndarray]] = lambda n: {}
  falls: str | None = "loss"


class Perceptron(nn.Module):
  """A network for diffusion that compiles in a second, with labels and dropout."""

  dtype: Any

  @nn.compact
  def __call__(self, x, t, label=None, index=None):
    dtypes = dict(dtype=self.dtype, param_dtype=self.dtype)
    h = nn.Dense(32, **dtypes)(jnp.concatenate([x.reshape(len(x), -1), t[:, None] / 20], axis=-1))
    h = nn.silu(h + nn.Embed(10, 32, **dtypes)(label))
    return nn.Dense(x[0].size, **dtypes)(Dropout(0.1)(h, index)).reshape(x.shape)


def small_ddpm(network, *, prediction="eps", **options):
  process = diffusion.cosine(20)
  return gaussian_diffusion(
    network,
    process,
    shape=(8, 8, 1),
    levels=17,
    optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adam(2e-3)),
    solver=partial(diffusion.ddim, eta=0.5),
    sampling_steps=4,
    ema=0.9,
    prediction=diffusion.PREDICTIONS[prediction],
    likelihoods={"nll_nats": partial(bound_nll, levels=17, terms=3)},
    **options,
  )


def unet_ddpm(dtype, **options):
  network = UNet(channels=8, multipliers=(1,), blocks=1, attention=(), out_channels=1, dtype=dtype, param_dtype=dtype)
  return small_ddpm(network, **options)


def conditional_ddpm(dtype, **options):
  return small_ddpm(Perceptron(dtype), classes=10, weighting=None, vlb=1.0, prediction="v", **options)


class Logits(nn.Module):
  """A classifier of noisy images."""

  dtype: Any

  @nn.compact
  def __call__(self, x, t, label=None, index=None):
    dtypes = dict(dtype=self.dtype, param_dtype=self.dtype)
    h = nn.Dense(32, **dtypes)(jnp.concatenate([x.reshape(len(x), -1), t[:, None] / 1000], axis=-1))
    return nn.Dense(10, **dtypes)(nn.silu(h))


def edm_with_a_guide(dtype, **options):
  process = diffusion.edm()
  return gaussian_diffusion(
    Perceptron(dtype),
    process,
    shape=(8, 8, 1),
    optimizer=optax.adam(2e-3),
    prediction=predictions.edm(0.75),
    weighting=weightings.edm(0.75),
    times=log_normal(process),
    time_input=c_noise,
    solver=partial(diffusion.heun, churn=0.2),
    grid=diffusion.karras,
    sampling_steps=3,
    likelihoods={"nll_nats": partial(continuous_bound, levels=17, terms=2, t_min=0.05)},
    classes=10,
    guide=Guide(Perceptron(dtype), optax.adam(1e-3)),
    ema=0.9,
    **options,
  )


def flow_with_a_classifier(dtype, **options):
  process = diffusion.rectified_flow()
  return gaussian_diffusion(
    UNet(channels=8, multipliers=(1,), blocks=1, attention=(), out_channels=1, dtype=dtype, param_dtype=dtype),
    process,
    shape=(8, 8, 1),
    optimizer=optax.adam(2e-3),
    prediction=diffusion.PREDICTIONS["velocity"],
    times=low_discrepancy(process, BATCH),
    solver=diffusion.dpmpp_2m,
    sampling_steps=4,
    likelihoods={"nll_nats_dequantized": partial(ode_nll, levels=17, integrator=rk4(2))},
    classes=10,
    classifier=Guide(Logits(dtype), optax.adam(1e-3)),
    **options,
  )


def improved_ddpm(dtype, **options):
  process = diffusion.cosine(20)
  return gaussian_diffusion(
    UNet(channels=8, multipliers=(1,), blocks=1, attention=(), out_channels=2, dtype=dtype, param_dtype=dtype),
    process,
    shape=(8, 8, 1),
    optimizer=optax.adam(2e-3),
    weighting=None,
    vlb=1.0,
    times=by_loss(process),
    variance="learned",
    levels=17,
    solver=partial(diffusion.ancestral, variance="learned"),
    sampling_steps=4,
    likelihoods={"nll_nats": partial(bound_nll, levels=17, variance="learned", terms=2)},
    **options,
  )


def small_vdm(dtype, **options):
  return vdm(
    ScoreNetwork(-5.0, 5.0, channels=8, depth=1, fourier=(3,), dropout=0.1, dtype=dtype, param_dtype=dtype),
    LinearGamma(-5.0, 5.0, dtype),
    shape=(8, 8, 1),
    levels=17,
    optimizer=optax.adam(2e-3),
    batch_size=BATCH,
    sampling_steps=4,
    terms=2,
    ema=0.9,
    **options,
  )


def small_vae(dtype, **options):
  dtypes = dict(dtype=dtype, param_dtype=dtype)
  return vae(
    ConvEncoder(4, (4, 4), 16, **dtypes),
    ConvDecoder((8, 8, 1), (4, 4), 16, outputs=2, shared=1, **dtypes),
    logistic(17),
    shape=(8, 8, 1),
    levels=17,
    latent=4,
    optimizer=optax.adam(5e-3),
    importance_samples=5,
    chunk=2,
    ema=0.9,
    **options,
  )


def small_iwae(dtype, **options):
  dtypes = dict(dtype=dtype, param_dtype=dtype)
  return vae(
    MLPEncoder(4, (16,), **dtypes),
    MLPDecoder((8, 8, 1), (16,), **dtypes),
    bernoulli(),
    shape=(8, 8, 1),
    levels=2,
    latent=4,
    optimizer=optax.adam(2e-3),
    k=3,
    importance_weighted=True,
    importance_samples=5,
    **options,
  )


def small_nice(dtype, **options):
  bijection = nice((32,), kernel_init=nn.initializers.lecun_normal(), dtype=dtype, param_dtype=dtype)
  return flow(bijection, shape=(8, 8, 1), levels=17, optimizer=optax.adam(5e-3), ema=0.9, **options)


def small_realnvp(dtype, **options):
  """One coupling layer of it. Not Adam, as for the other method with batch statistics below."""
  coupling = CheckerboardCoupling(ResNet(4, 1, 0.5, dtype, dtype))
  bijection = Chain((Logit(), coupling, bijections.BatchNorm(param_dtype=dtype)))
  return flow(bijection, shape=(8, 8, 1), levels=17, optimizer=optax.sgd(0.1, 0.9), **options)


def small_glow(dtype, **options):
  bijection = glow(2, 2, 8, dtype=dtype, param_dtype=dtype)
  return flow(bijection, shape=(8, 8, 1), levels=17, optimizer=optax.adam(2e-3), ema=0.9, **options)


def small_vqvae(dtype, **options):
  dtypes = dict(dtype=dtype, param_dtype=dtype)
  return vqvae(
    VQEncoder(4, 8, halvings=1, blocks=1, **dtypes),
    VQDecoder(1, 8, halvings=1, blocks=1, outputs=2, **dtypes),
    LanguageModel(9, gpt(8, 2, 1, context=16, dropout=0.1, dtype=dtype)),
    logistic(17),
    shape=(8, 8, 1),
    levels=17,
    codes=8,
    optimizer=optax.adam(5e-3),
    prior_optimizer=optax.adam(5e-3),
    **options,
  )


def small_classifier(dtype, **options):
  network = ConvNet(10, (8, 16), 16, dtype=dtype, param_dtype=dtype)
  return classifier(network, optimizer=optax.adam(2e-3), classes=10, label_smoothing=0.1, ema=0.9, **options)


class Normed(nn.Module):
  """A network with batch statistics."""

  dtype: Any

  @nn.compact
  def __call__(self, x, index=None):
    dtypes = dict(dtype=self.dtype, param_dtype=self.dtype)
    h = nn.Dense(32, **dtypes)(x.reshape(len(x), -1))
    h = nn.relu(BatchNorm(**dtypes)(h, index is not None))
    return nn.Dense(10, **dtypes)(Dropout(0.1)(h, index))


def normed_classifier(dtype, **options):
  # Not Adam: what comes before the statistics has gradients of exactly 0 (a bias, a pixel that is the same in the whole
  # batch), of which Adam makes full steps out of rounding.
  return classifier(Normed(dtype), optimizer=optax.sgd(0.02, 0.9), classes=10, ema=0.9, **options)


def small_seq2seq(dtype, **options):
  network = EncoderDecoder(8, Options(8, 2, 16, 1, norm="pre", dtype=dtype, param_dtype=dtype))
  return seq2seq(network, optimizer=optax.adam(5e-3), vocabulary=8, length=6, label_smoothing=0.1, ema=0.9, **options)


def recurrent_seq2seq(dtype, **options):
  network = Seq2Seq(8, 8, 16, 8, dropout=0.1, dtype=dtype, param_dtype=dtype)
  return seq2seq(network, optimizer=optax.adam(5e-3), vocabulary=8, length=6, **options)


def pixel_transformer(dtype, **options):
  network = LanguageModel(18, gpt(8, 2, 1, 64, dropout=0.1, dtype=dtype))
  how = dict(vocabulary=17, length=64, start=17, code=pixels((8, 8, 1), 17), optimizer=optax.adam(5e-3))
  return language(network, ema=0.9, **how, **options)


def pixel_wavenet(dtype, **options):
  dtypes = dict(dtype=dtype, param_dtype=dtype)
  network = WaveNet(17, (1, 2, 4), features=8, hidden=8, skip=16, conditions=(("label", 10),), **dtypes)
  how = dict(vocabulary=17, length=64, start=0, code=pixels((8, 8, 1), 17), optimizer=optax.adam(5e-3))
  return language(network, conditions=("label",), top_k=5, **how, **options)


def small_ebm(dtype, **options):
  # Adjusted chains: a rejection is a choice that rounding does not change. SGD, which makes nothing of rounding.
  network = EnergyMLP((16,), 1.0, dtype=dtype, param_dtype=dtype)
  how = dict(replay=Replay(48), alpha=0.1, data_noise=0.03, optimizer=optax.sgd(0.01, 0.9), ema=0.9)
  return rollback(ebm(network, partial(mala, step=0.02), 3, shape=(8, 8, 1), **how, **options), diverged(50.0), every=3)


def short_run_ebm(dtype, **options):
  network = EnergyConvNet(((4, 3, 2),), reference=1.0, dtype=dtype, param_dtype=dtype)
  how = dict(shape=(8, 8, 1), optimizer=optax.sgd(0.01, 0.9))
  return ebm(network, partial(langevin, step=0.02), 3, **how, **options)


def small_multigrid(dtype, **options):
  dtypes = dict(dtype=dtype, param_dtype=dtype)
  networks = {4: EnergyMLP((8,), 1.0, **dtypes), 8: EnergyConvNet(((4, 3, 2),), reference=1.0, **dtypes)}
  sampler = partial(langevin, step=0.02)
  return multigrid(networks, sampler, 2, shape=(8, 8, 1), means=24, optimizer=optax.sgd(0.01, 0.9), ema=0.9, **options)


def small_gan(dtype, **options):
  dtypes = dict(dtype=dtype, param_dtype=dtype)
  return gan(
    MLPGenerator((8, 8, 1), (16,), output=jnp.tanh, **dtypes),
    MLPDiscriminator((16,), dropout=(0.1, 0.1), **dtypes),
    shape=(8, 8, 1),
    latent=4,
    penalty=r1(0.1),
    k=2,
    generator_optimizer=optax.adam(1e-3),
    discriminator_optimizer=optax.adam(2e-3),
    ema=0.9,
    **options,
  )


def small_dcgan(dtype, **options):
  """Not Adam, as for the other methods with batch statistics."""
  dtypes = dict(dtype=dtype, param_dtype=dtype)
  return gan(
    DCGANGenerator((8, 8, 1), 4, classes=10, **dtypes),
    DCGANDiscriminator(4, spectral=True, classes=10, **dtypes),
    shape=(8, 8, 1),
    latent=4,
    loss=LOSSES["hinge"],
    draw=uniform,
    generator_optimizer=optax.sgd(0.02, 0.9),
    discriminator_optimizer=optax.sgd(0.02, 0.9),
    classes=10,
    ema=0.9,
    **options,
  )


def small_nce(dtype, **options):
  network = EnergyMLP((16,), 1.0, dtype=dtype, param_dtype=dtype)
  how = dict(optimizer=optax.adam(5e-3), noise_optimizer=optax.adam(1e-3), nu=2, levels=17, ema=0.9)
  return nce(network, chains=Chains(5, partial(mala, step=0.01), 2), **how, **options)


def small_flow_contrastive(dtype, **options):
  dtypes = dict(dtype=dtype, param_dtype=dtype)
  bijection = nice((16,), couplings=2, kernel_init=nn.initializers.lecun_normal(), **dtypes)
  learned = flow(bijection, shape=(8, 8, 1), optimizer=optax.identity())
  how = dict(optimizer=optax.sgd(1e-3), flow_optimizer=optax.sgd(1e-4), energy_steps=2, levels=17, ema=0.9)
  return flow_contrastive(EnergyMLP((16,), 1.0, **dtypes), of_method(learned), **how, **options)


def small_score_matching(dtype, **options):
  network = EnergyConvNet(((4, 3, 2),), reference=1.0, dtype=dtype, param_dtype=dtype)
  how = dict(energy=True, optimizer=optax.adam(2e-3), levels=17, ema=0.9)
  chains = Chains(1, partial(langevin, step=0.01), 2)
  return score_matching(network, sliced(), chains=chains, **how, **options)


def small_rbm(dtype, negative, **options):
  how = dict(shape=(8, 8, 1), levels=2, optimizer=optax.sgd(0.1, 0.9), negative=negative, sampling_steps=5, ema=0.9)
  return rbm(RBM(64, 24, param_dtype=dtype), **how, **options)


TOKENS = jax.ShapeDtypeStruct((6,), np.int32)
STRINGS = data.Dataset("reversed:5", {"source": TOKENS, "target": TOKENS}, train="1-5-1", test="3-5-1")
some_strings = lambda n: {"source": STRINGS.source("test").arrays["source"][:n]}

DEQUANTIZED = data.digits(transforms=(dequantize(17),))


def of_pixels(network, distribution, **options):
  """An autoregressive model of digits; `network` takes the dtypes."""

  def build(dtype, **more):
    own = {"shape": (8, 8, 1), "optimizer": optax.adam(5e-3), "ema": 0.9, **options}
    levels = distribution.levels
    return autoregressive(network(dtype=dtype, param_dtype=dtype), distribution, levels=levels, **own, **more)

  return build


BITS = data.binarized(data.digits())
some_labels = lambda n: {"label": np.arange(n) % 10}

METHODS = {
  "ddpm": Case(unet_ddpm, data.digits()),
  "ddpm, class-conditional, v, variational bound": Case(conditional_ddpm, data.digits()),
  "EDM with a guide": Case(edm_with_a_guide, data.digits()),
  "rectified flow with a classifier": Case(flow_with_a_classifier, data.digits()),
  "improved DDPM, importance-sampled": Case(improved_ddpm, data.digits()),
  "VDM": Case(small_vdm, data.digits()),
  "VAE, discretized logistic": Case(small_vae, data.digits()),
  "IWAE, Bernoulli": Case(small_iwae, data.binarized(data.digits())),
  "VQ-VAE": Case(small_vqvae, data.digits(), whole="buffers"),
  "NICE": Case(small_nice, DEQUANTIZED),
  "RealNVP": Case(small_realnvp, DEQUANTIZED, whole="buffers"),
  "Glow": Case(small_glow, DEQUANTIZED, whole="buffers"),
  "NADE": Case(of_pixels(partial(NADE, 16), bernoulli()), BITS),
  "MADE, 3 masks": Case(of_pixels(partial(MADE, 1, (32,), 3, True), bernoulli(), members=3), BITS),
  "gated PixelCNN": Case(
    of_pixels(partial(GatedPixelCNN, 17, 8, 2, 8, classes=10), categorical(17), conditional=True),
    data.digits(),
    conditions=some_labels,
  ),
  "PixelCNN++": Case(of_pixels(partial(PixelCNNpp, 6, 6, 1, 2, dropout=0.1), logistic_mixture(2, 17)), data.digits()),
  "classifier": Case(small_classifier, data.digits()),
  "seq2seq, Transformer": Case(small_seq2seq, STRINGS, conditions=some_strings),
  "seq2seq, recurrent": Case(recurrent_seq2seq, STRINGS, conditions=some_strings),
  "Transformer over pixels": Case(pixel_transformer, data.digits()),
  "WaveNet over pixels": Case(pixel_wavenet, data.digits(), conditions=lambda n: {"label": np.arange(n) % 10}),
  # Players against each other, and energies of data and of samples, are games: their losses need not fall.
  "GAN, non-saturating with R1": Case(small_gan, data.digits(), falls=None),
  "DCGAN, hinge, spectral norm, conditional": Case(
    small_dcgan, data.digits(), whole="buffers", conditions=some_labels, falls=None
  ),
  "EBM, replay buffer": Case(small_ebm, data.digits(), falls=None),
  "EBM, short runs": Case(short_run_ebm, data.digits(), falls=None),
  "multi-grid": Case(small_multigrid, data.digits(), whole="buffers", falls=None),
  "NCE": Case(small_nce, DEQUANTIZED, falls="network/loss"),
  "flow-contrastive": Case(small_flow_contrastive, DEQUANTIZED, falls=None),
  "score matching, sliced": Case(small_score_matching, DEQUANTIZED),
  # The difference of two free energies says nothing of progress.
  "RBM, CD-2": Case(partial(small_rbm, negative=cd(2)), BITS, falls="reconstruction"),
  "RBM, persistent": Case(partial(small_rbm, negative=persistent(2, 16)), BITS, falls="reconstruction"),
  # Its reconstructions get better by less than a tenth in 200 steps: the chains of its tests are few and hot.
  "RBM, tempered": Case(partial(small_rbm, negative=tempered(1, 16, (0.0, 0.5, 1.0))), BITS, falls=None),
  "classifier with batch statistics": Case(normed_classifier, data.digits(), whole="buffers"),
}
KEY = jax.eval_shape(jax.random.key, 0)
# All tests of a method run in one worker, one after the other, so that they share what was compiled for it.
each = [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in METHODS]


@pytest.fixture(scope="module", params=each)
def name(request):
  return request.param


def build(name, mesh, dtype=jnp.float32, **options):
  case = METHODS[name]
  method = case.build(dtype, **options)
  return Program(method, case.data.raw_spec(BATCH), mesh, prepare=case.data.transform, updates=10)


def one_device():
  return make_mesh(devices=jax.devices()[:1])


@functools.lru_cache(maxsize=4)
def compiled(name, fsdp, dtype=jnp.float32):
  """The program of a method for eight devices, or where `fsdp` is None for one."""
  return build(name, one_device() if fsdp is None else make_mesh(fsdp), dtype)


def train(name, program, steps):
  """(state, losses) after so many steps on real data."""
  case = METHODS[name]
  stream = pipeline.Stream(case.data.source("train"), 0, BATCH)
  first = {k: x[0] for k, x in stream.take(0, 1).items()}
  state, losses = program.init(0, first), []
  for start in range(0, steps, program.updates):
    count = min(program.updates, steps - start)
    state, metrics = program.dispatch(state, program.put_many(stream.take(start, count)), count)
    losses += [next(x for k, x in metrics.items() if k.endswith(case.falls or "loss"))[:count]]
  return state, np.concatenate(losses)


def arrays(tree):
  data_of = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
  paths = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path): np.asarray(data_of(x)) for path, x in paths}


def assert_close(a, b, atol):
  a, b = arrays(a), arrays(b)
  assert a.keys() == b.keys()
  for leaf in a:
    np.testing.assert_allclose(a[leaf], b[leaf], rtol=0, atol=atol, err_msg=leaf)


def test_one_trace_and_the_same_structure_after_a_step(name):
  program = compiled(name, 2)
  state, _ = train(name, program, 7)
  assert program.traces == 1
  assert jax.tree.structure(state) == jax.tree.structure(program.abstract)

  def same(x, like):
    assert (x.shape, x.dtype) == (like.shape, like.dtype)
    assert x.sharding.is_equivalent_to(like.sharding, x.ndim)

  jax.tree.map(same, state, program.abstract)
  assert int(state.step) == 7
  assert int(state.skipped) == 0


@pytest.mark.slow
def test_one_device_and_many_agree(name):
  """In float64 the whole state, where every array that can be cut is cut eight ways."""
  with conftest.enable_x64():
    state, losses = train(name, compiled(name, None, jnp.float64), 20)
    other, other_losses = train(name, compiled(name, 8, jnp.float64), 20)
    np.testing.assert_allclose(losses, other_losses, rtol=0, atol=1e-9)
    assert_close(state, other, 1e-9)


@pytest.mark.slow
def test_losses_agree_in_float32(name):
  """Where both axes of the mesh are used."""
  _, losses = train(name, compiled(name, None), 20)
  _, other = train(name, compiled(name, 2), 20)
  np.testing.assert_allclose(losses, other, rtol=1e-5, atol=1e-5)


def test_microbatches_equal_the_batch_or_are_refused(name):
  if not METHODS[name].build(jnp.float32).mean:
    with pytest.raises(ValueError, match="no microbatches"):
      METHODS[name].build(jnp.float32, microbatches=2)
    return
  if whole := METHODS[name].whole:
    with pytest.raises(ValueError, match=whole):
      train(name, build(name, one_device(), microbatches=4), 1)
    return
  with conftest.enable_x64():
    state, losses = train(name, compiled(name, None, jnp.float64), 3)
    other, other_losses = train(name, build(name, one_device(), jnp.float64, microbatches=4), 3)
    np.testing.assert_allclose(losses, other_losses, rtol=0, atol=1e-10)
    assert_close(state, other, 1e-9)


def test_pmap_equals_jit_or_is_refused(name):
  case = METHODS[name]
  if not case.build(jnp.float32).mean:
    with pytest.raises(ValueError, match="use jit"):
      pmap_step(case.build(jnp.float32, axis="devices"))
    return
  if case.whole:
    step = pmap_step(case.build(jnp.float32, axis="devices"))
    raw = pipeline.batch_at(case.data.source("train"), 0, 0, BATCH)
    state = stack_state(compiled(name, None).init(0, raw))
    with pytest.raises(ValueError, match=case.whole):
      step(state, shard_batch(case.data.transform(jax.random.key(0), raw, False), 8))
    return
  with conftest.enable_x64():
    program = compiled(name, None, jnp.float64)
    state, losses = train(name, program, 2)
    # The program's own initial state and batches: pmap is given what jit has prepared.
    method, source = case.build(jnp.float64, axis="devices"), case.data.source("train")
    step = pmap_step(method)
    raws = [pipeline.batch_at(source, 0, k, BATCH) for k in range(2)]
    first = program.init(0, raws[0])
    mapped, key = stack_state(first), jax.random.fold_in(first.key, PREPARE_STREAM)
    for k, raw in enumerate(raws):
      batch = jax.device_get(case.data.transform(jax.random.fold_in(key, k), raw, True))
      mapped, metrics = step(mapped, shard_batch(batch, 8))
      loss = next(x for name, x in metrics.items() if name.endswith(case.falls or "loss"))
      np.testing.assert_allclose(loss, losses[k], rtol=0, atol=1e-9)
    assert_close(state, unstack_state(mapped), 1e-9)


def test_checkpoints_go_from_mesh_to_mesh(name, tmp_path):
  one, sharded = compiled(name, None), compiled(name, 2)
  state, _ = train(name, sharded, 2)
  saved = state_hash(state)
  with_checkpoints = Checkpoints(tmp_path)
  with_checkpoints.save(2, state)
  with_checkpoints.wait()
  for program in (one, sharded):
    step, restored = with_checkpoints.restore(program.abstract)
    assert step == 2
    assert state_hash(restored) == saved
    same = lambda x, like: x.sharding.is_equivalent_to(like.sharding, x.ndim)
    assert jax.tree.all(jax.tree.map(same, restored, program.abstract))
  with_checkpoints.close()


def test_evaluation_is_per_example(name):
  """Each example's number is its own: it does not depend on what else is in the batch, nor on the mesh."""
  case = METHODS[name]
  program = compiled(name, None)
  state, _ = train(name, program, 1)
  raw = pipeline.batch_at(case.data.source("test"), 0, 0, BATCH)
  whole = program.evaluate(state, raw, jax.random.key(1))
  order = np.random.default_rng(0).permutation(BATCH)
  shuffled = program.evaluate(state, {k: x[order] for k, x in raw.items()}, jax.random.key(1))
  for key, value in whole.items():
    assert value.shape == (BATCH,)
    np.testing.assert_allclose(np.asarray(value)[order], shuffled[key], rtol=1e-4, atol=1e-5)


def test_samples_are_their_own_and_the_same_on_any_mesh(name):
  program = compiled(name, None)
  if program.method.sample is None:
    pytest.skip("generates nothing")
  state, _ = train(name, program, 1)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), jnp.arange(16))
  conditions = METHODS[name].conditions(16)
  samples = np.asarray(program.sample(state, keys, conditions))
  assert samples.shape[0] == 16
  assert np.isfinite(samples).all()
  order = np.random.default_rng(0).permutation(16)
  # Rounding alone: sums are taken in another order in a batch of another size, and EDM starts from values of 80.
  atol = 1e-4 * (samples.max() - samples.min())
  shuffled = program.sample(state, keys[order], {k: x[order] for k, x in conditions.items()})
  np.testing.assert_allclose(shuffled, samples[order], atol=atol)
  many = compiled(name, 2)
  other = many.sample(jax.device_put(state, many.shardings), keys, conditions)
  np.testing.assert_allclose(other, samples, atol=atol)


@pytest.mark.slow
def test_the_loss_falls_on_its_data(name):
  if METHODS[name].falls is None:
    pytest.skip("nothing has to fall in 200 steps")
  _, losses = train(name, compiled(name, None), 200)
  assert losses[-50:].mean() < 0.9 * losses[:50].mean()


@pytest.mark.slow
def test_what_has_an_inverse_is_undone_after_training(name):
  program, case = compiled(name, None), METHODS[name]
  raw = pipeline.batch_at(case.data.source("test"), 0, 0, BATCH)
  if "round_trip" not in jax.eval_shape(program.method.evaluate, program.abstract, case.data.batch_spec(BATCH), KEY):
    pytest.skip("has no inverse")
  state, _ = train(name, program, 200)
  assert program.evaluate(state, raw, jax.random.key(0))["round_trip"].max() < 1e-4


CONFIGS = [entry.name for entry in configs_in(shipped_folder())]

BUILD = """
import sys, traceback
import jax
from jaxgen.engine.config import load_config
from jaxgen.engine.run import state_shapes

def step(experiment):
  assert state_shapes(experiment)
  spec = experiment.data.batch_spec(experiment.batch_size, train=True)
  state = jax.eval_shape(experiment.method.init, jax.eval_shape(lambda: jax.random.key(0)), spec)
  after, metrics = jax.eval_shape(experiment.method.step, state, spec)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
  assert any(name.endswith("loss") for name in metrics)

def attempt(do, name, *args):
  try:
    return do(*args)
  except Exception:
    print(name, traceback.format_exc())

built = {name: attempt(lambda: load_config(name).build(), name) for name in sys.argv[1:]}
assert not jax._src.xla_bridge.backends_are_initialized(), "building one of the experiments started jax's backends"
for name, experiment in built.items():
  if experiment is not None:
    attempt(step, name, experiment)
"""


@pytest.mark.parametrize("part", range(8))
def test_every_config_builds_without_computing_and_has_a_step_at_full_size(part):
  words = [sys.executable, "-c", BUILD, *CONFIGS[part::8]]
  result = subprocess.run(words, cwd=conftest.REPOSITORY, capture_output=True, text=True)
  assert result.returncode == 0, result.stderr
  assert not result.stdout, result.stdout


@pytest.mark.parametrize("config", CONFIGS)
def test_every_config_says_its_paper_number_and_cost(config):
  path = find_config(config)
  summary = config_summary(path)
  assert all(summary.values()), f"{config}'s docstring lacks {[k for k, v in summary.items() if not v]}"
  assert "to be measured" not in path.read_text()
  assert re.search(rf"jaxgen train (configs/\S*)?{config}\b", path.read_text())
