"""The diffusion models that `test_every_method.py` tests."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from cases import BATCH, Case
from flax import linen as nn

from jaxgen import data, diffusion, optimizers
from jaxgen.core.condition import labels
from jaxgen.core.method import Frozen
from jaxgen.core.wrappers import averaged, power
from jaxgen.data import clips, transforms
from jaxgen.diffusion import predictions, weightings
from jaxgen.diffusion.likelihood import continuous_bound, ode_nll, rk4
from jaxgen.diffusion.losses import bound_nll
from jaxgen.diffusion.solvers.flow_map import flow_map
from jaxgen.diffusion.times import (
  by_loss,
  c_noise,
  log_normal,
  low_discrepancy,
  noise_level,
  noise_levels,
  steps_from_zero,
)
from jaxgen.methods.diffusion.cascade import low_resolution
from jaxgen.methods.diffusion.consistency import TARGET, consistency_model, improved
from jaxgen.methods.diffusion.dmd import dmd
from jaxgen.methods.diffusion.flow_maps import Guided, mean_flow, shortcut
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.methods.diffusion.guides import autoguidance, classifier
from jaxgen.methods.diffusion.objective import Objective
from jaxgen.methods.diffusion.progressive import progressive
from jaxgen.methods.diffusion.reflow import reflow
from jaxgen.methods.diffusion.sampler import Sampler
from jaxgen.methods.diffusion.scm import clean, middle, scm
from jaxgen.methods.diffusion.teacher import Teacher
from jaxgen.methods.diffusion.tuning import Part
from jaxgen.methods.diffusion.vdm import vdm
from jaxgen.methods.diffusion.video import joint
from jaxgen.nn import UNet
from jaxgen.nn.blocks.layers import Dropout
from jaxgen.nn.unets.edm2 import EDM2UNet, LogVariance, forced
from jaxgen.nn.unets.super_resolution import SuperResolution
from jaxgen.nn.unets.vdm import LinearGamma
from jaxgen.nn.video.unet import VideoUNet

DIGITS = data.digits()
SPEC = DIGITS.spec


class Perceptron(nn.Module):
  """A network for diffusion that compiles in a second, with dropout, and with labels where there are any."""

  dtype: Any

  @nn.compact
  def __call__(self, x, t, label=None, index=None):
    dtypes = dict(dtype=self.dtype, param_dtype=self.dtype)
    h = nn.Dense(32, **dtypes)(jnp.concatenate([x.reshape(len(x), -1), t[:, None] / 20], axis=-1))
    h = nn.silu(h if label is None else h + nn.Embed(10, 32, **dtypes)(label))
    return nn.Dense(x[0].size, **dtypes)(Dropout(0.1)(h, index)).reshape(x.shape)


class Logits(nn.Module):
  """A classifier of noisy images."""

  dtype: Any

  @nn.compact
  def __call__(self, x, t, label=None, index=None):
    dtypes = dict(dtype=self.dtype, param_dtype=self.dtype)
    h = nn.Dense(32, **dtypes)(jnp.concatenate([x.reshape(len(x), -1), t[:, None] / 1000], axis=-1))
    return nn.Dense(10, **dtypes)(nn.silu(h))


def small_unet(dtype, out_channels=1):
  return UNet(
    channels=8, multipliers=(1,), blocks=1, attention=(), out_channels=out_channels, dtype=dtype, param_dtype=dtype
  )


def small_ddpm(network, **options):
  method = gaussian_diffusion(
    network,
    diffusion.cosine(20),
    SPEC,
    optimizers.adam(2e-3, clip=1.0),
    sampler=Sampler(partial(diffusion.ddim, eta=0.5), steps=4),
    likelihoods={"nll_nats": partial(bound_nll, levels=17, terms=3)},
    **options,
  )
  return averaged(method, 0.9)


def unet_ddpm(dtype):
  return small_ddpm(small_unet(dtype))


def conditional_ddpm(dtype):
  objective = Objective(diffusion.PREDICTIONS["v"], weighting=None, vlb=1.0)
  return small_ddpm(Perceptron(dtype), condition=labels(SPEC), objective=objective)


def edm_with_a_guide(dtype):
  process = diffusion.edm()
  guidance = autoguidance(Perceptron(dtype), optax.adam(1e-3))
  method = gaussian_diffusion(
    Perceptron(dtype),
    process,
    SPEC,
    optax.adam(2e-3),
    objective=Objective(predictions.edm(0.75), weightings.edm(0.75), times=log_normal(process), time_input=c_noise),
    condition=labels(SPEC),
    sampler=Sampler(partial(diffusion.heun, churn=0.2), diffusion.karras, 3, guidance=guidance),
    likelihoods={"nll_nats": partial(continuous_bound, levels=17, terms=2, t_min=0.05)},
  )
  return averaged(method, 0.9)


def flow_with_a_classifier(dtype):
  process = diffusion.rectified_flow()
  guidance = classifier(Logits(dtype), optax.adam(1e-3), labels(SPEC))
  return gaussian_diffusion(
    small_unet(dtype),
    process,
    SPEC,
    optax.adam(2e-3),
    objective=Objective(diffusion.PREDICTIONS["velocity"], times=low_discrepancy(process, BATCH)),
    sampler=Sampler(diffusion.dpmpp_2m, steps=4, guidance=guidance),
    likelihoods={"nll_nats_dequantized": partial(ode_nll, levels=17, integrator=rk4(2))},
  )


def improved_ddpm(dtype):
  process = diffusion.cosine(20)
  return gaussian_diffusion(
    small_unet(dtype, 2),
    process,
    SPEC,
    optax.adam(2e-3),
    objective=Objective(weighting=None, vlb=1.0, times=by_loss(process), variance="learned"),
    sampler=Sampler(partial(diffusion.ancestral, variance="learned"), steps=4),
    likelihoods={"nll_nats": partial(bound_nll, levels=17, variance="learned", terms=2)},
  )


def small_vdm(dtype):
  method = vdm(
    Perceptron(dtype),
    LinearGamma(-5.0, 5.0, dtype),
    SPEC,
    optax.adam(2e-3),
    batch_size=BATCH,
    sampling_steps=4,
    terms=2,
  )
  return averaged(method, 0.9)


def a_teacher(dtype, prediction, **options):
  network = Perceptron(dtype)
  values = lambda: network.init(jax.random.key(7), jnp.zeros((1, *SPEC.shape)), jnp.zeros(1), jnp.zeros(1, jnp.int32))
  return Teacher(network, Frozen("a test", values), prediction, **options)


def distilled_consistency(dtype):
  teacher = a_teacher(dtype, predictions.edm(0.75))
  method = consistency_model(
    Perceptron(dtype),
    diffusion.edm(),
    SPEC,
    optax.adam(2e-3),
    improved(20, 4, 16),
    sigma_data=0.75,
    teacher=teacher,
    condition=labels(SPEC),
  )
  return averaged(method, {"network": 0.9, TARGET: 0.5})


def halved(dtype):
  teacher = a_teacher(dtype, diffusion.PREDICTIONS["v"], time_input=steps_from_zero)
  method = progressive(
    Perceptron(dtype), diffusion.cosine(16), SPEC, optax.adam(2e-3), teacher, 4, condition=labels(SPEC)
  )
  return averaged(method, 0.9)


def second_flow(dtype):
  teacher = a_teacher(dtype, predictions.edm(0.75), schedule=diffusion.edm())
  method = reflow(
    Perceptron(dtype),
    diffusion.rectified_flow(),
    SPEC,
    optax.adam(2e-3),
    teacher,
    rollout=Sampler(diffusion.heun, diffusion.karras, 3),
    condition=labels(SPEC),
  )
  return averaged(method, 0.9)


class TwoTimes(nn.Module):
  """A flow map of the perceptron's: its second time joins the picture."""

  dtype: Any

  @nn.compact
  def __call__(self, x, t, label=None, index=None):
    step = nn.Dense(x[0].size, dtype=self.dtype, param_dtype=self.dtype)(t[:, 1:] / 999).reshape(x.shape)
    return Perceptron(self.dtype)(x + step, t[:, 0] / 50, label, index)


def small_mean_flow(dtype):
  spec = SPEC._replace(classes=9)  # the tenth stands for none; labels of the data go to 9, which is dropped then
  condition = labels(spec, 0.1)
  method = mean_flow(TwoTimes(dtype), SPEC, optax.adam(2e-3), guided=Guided(2.0, 0.3), condition=condition)
  return averaged(method, 0.9)


def small_shortcut(dtype):
  sampler = Sampler(flow_map, steps=2, clip=False)
  method = shortcut(TwoTimes(dtype), SPEC, optax.adam(2e-3), condition=labels(SPEC), sampler=sampler)
  return averaged(method, 0.9)


def continuous_consistency(dtype):
  teacher = a_teacher(dtype, predictions.edm(0.75), schedule=diffusion.edm())
  method = scm(
    Perceptron(dtype),
    SPEC,
    optax.adam(2e-3),
    sigma_data=0.75,
    warmup=5,
    uncertainty=LogVariance(8, dtype),
    teacher=teacher,
    condition=labels(SPEC),
    sampler=Sampler(clean, middle(), 2),
  )
  return averaged(method, 0.9)


def small_edm2(dtype):
  process = diffusion.edm()
  network = EDM2UNet(8, (1,), 1, (), out_channels=1, head_channels=8, dtype=dtype, param_dtype=dtype)
  objective = Objective(
    predictions.edm(0.75),
    weightings.edm(0.75),
    times=log_normal(process),
    time_input=c_noise,
    uncertainty=LogVariance(8, dtype),
  )
  optimizer = optimizers.projected(optax.adam(2e-3), forced)
  sampler = Sampler(diffusion.heun, diffusion.karras, 3)
  method = gaussian_diffusion(network, process, SPEC, optimizer, objective=objective, sampler=sampler)
  return averaged(method, {"network": power(0.1), "network/shorter": power(0.05)})


def matched(dtype):
  teacher = a_teacher(dtype, predictions.edm(0.75))
  process = diffusion.edm()
  method = dmd(
    Perceptron(dtype),
    process,
    SPEC,
    optax.adam(1e-3),
    teacher,
    fake_optimizer=optax.adam(2e-3),
    fake_updates=2,
    times=log_normal(process, 0.0, 1.0),
    condition=labels(SPEC),
  )
  return averaged(method, {"network": 0.9})


SMALLER = dataclasses.replace(
  DIGITS,
  transforms=(*DIGITS.transforms, transforms.low_resolution(4)),
  augment=(transforms.levels(0.5),),
  feature="image",
)


class Enlarger(nn.Module):
  """What is made of a picture beside which a small one stands, and of two times."""

  dtype: Any

  @nn.compact
  def __call__(self, x, t, index=None):
    return Perceptron(self.dtype)(x[..., :1] + x[..., 1:], (t[:, 0] + t[:, 1]) / 100, index=index)


def small_sr3(dtype):
  process = diffusion.cosine(20)
  method = gaussian_diffusion(
    SuperResolution(Enlarger(dtype)),
    process,
    SPEC,
    optax.adam(2e-3),
    objective=Objective(times=noise_levels(process), time_input=noise_level),
    condition=low_resolution(),
    sampler=Sampler(diffusion.ancestral, steps=4, percentile=90.0),
  )
  return averaged(method, 0.9)


def low_pictures(n):
  return {"low": np.random.default_rng(0).uniform(-1, 1, (n, 4, 4, 1)), "level": np.linspace(0, 1, n)}


def tuned(dtype):
  """A part of a base that is read."""
  network = Perceptron(dtype)
  label = jnp.zeros(1, jnp.int32)
  values = lambda: network.init(jax.random.key(7), jnp.zeros((1, *SPEC.shape)), jnp.zeros(1), label)["params"]
  options = dict(condition=labels(SPEC), adapter=Part("Dense_1"), base=Frozen("a test", values))
  method = gaussian_diffusion(
    network, diffusion.cosine(20), SPEC, optax.adam(2e-3), sampler=Sampler(steps=4), **options
  )  # fmt: skip
  return averaged(method, 0.9)


# Of test clips, of which there are fewer to make.
MOVING = dataclasses.replace(clips.moving(frames=3, side=10, augment=(clips.stills(1),)), train="test")


class Frame(nn.Module):
  """A network of images that compiles in a second, with what may follow its layers: see `UNet`."""

  after: Any
  dtype: Any
  channels = 4
  heads = 1

  @property
  def param_dtype(self):
    return self.dtype

  @nn.compact
  def __call__(self, x, t, label=None, index=None, added=None):
    dtypes = dict(dtype=self.dtype, param_dtype=self.dtype)
    time = nn.Dense(4, **dtypes)(t[:, None] / 20)
    h = self.after("conv", "in_time", nn.Dense(4, **dtypes)(x) + time[:, None, None])
    h = self.after("attention", "attention_time", Dropout(0.1)(nn.silu(h), index))
    return nn.Dense(1, **dtypes)(h)


def small_video(dtype):
  network = VideoUNet(partial(Frame, dtype=dtype), frames=3, convs=True)
  sampler = Sampler(steps=3, reconstruction=2.0)
  method = gaussian_diffusion(network, diffusion.cosine(20), MOVING.spec, optax.adam(2e-3), sampler=sampler)
  return averaged(joint(method), 0.9)


# A squared error per value: 1 of noise of eps, of what the EDM's network learns, and 1.6 of the velocity eps - x_0.
CASES = {
  "ddpm": Case(unet_ddpm, DIGITS, pmap=True, unit=(1.0, {"loss": 1})),
  "ddpm, class-conditional, v, variational bound": Case(conditional_ddpm, DIGITS, unit=("nll_nats", {"loss": 64})),
  "EDM with a guide": Case(edm_with_a_guide, DIGITS, unit=(2.0, {"network/loss": 1, "guide/loss": 1})),
  "rectified flow with a classifier": Case(
    flow_with_a_classifier, DIGITS, unit=(1.6 + 2.3, {"network/loss": 1, "classifier/loss": 1})
  ),
  "improved DDPM, importance-sampled": Case(improved_ddpm, DIGITS, unit=("nll_nats", {"loss": 64})),
  "consistency, distilled": Case(distilled_consistency, DIGITS, falls=None),
  "progressive distillation": Case(halved, DIGITS, falls=None),
  "reflow": Case(second_flow, DIGITS, falls=None),
  "MeanFlow": Case(small_mean_flow, DIGITS, falls="squared_error"),
  "shortcut model": Case(small_shortcut, DIGITS, unit=(1.6, {"loss": 1})),
  "sCM, distilled": Case(continuous_consistency, DIGITS, falls=None),
  "EDM2": Case(small_edm2, DIGITS, falls=None),
  "DMD": Case(matched, DIGITS, falls=None),
  "SR3": Case(small_sr3, SMALLER, conditions=low_pictures, unit=(1.0, {"loss": 1})),
  "a tuned part": Case(tuned, DIGITS, unit=(1.0, {"loss": 1})),
  "video, jointly with images": Case(small_video, MOVING, unit=(1.0, {"loss": 1})),
  "VDM": Case(small_vdm, DIGITS, unit=("nll_nats", {"loss": 64})),
}
