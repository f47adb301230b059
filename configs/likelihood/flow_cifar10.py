"""RealNVP and Glow on CIFAR-10 as in the papers.

Paper: RealNVP: Dinh et al. 2016, https://arxiv.org/abs/1605.08803, section 4.1: two scales, residual networks of eight
blocks of 64 features (128 after a halving, as in their code), weight and batch normalisation, logits with alpha = 0.05,
flips, batches of 64, Adam with its default rates, 5e-5 of the squares of the weight normalisation's gains. It does not
give the length of training. Glow: Kingma and Dhariwal 2018, https://arxiv.org/abs/1807.03039, section 5 and Appendix C:
three levels of 32 steps, affine coupling by networks of 512 features, batches of 512. From their code: plain 1x1
convolutions, Adamax with rate 1e-3 after ten epochs of warm-up and beta_2 = 1 - 1 / (steps of an epoch). Their code
also shifts images by up to 10 %, which this does not. Neither paper gives the length of training: 1,800 epochs are our
choice.

    jaxgen prepare cifar10 --data-dir DIR     (once, with a network)
    jaxgen train flow_cifar10 --tfds-dir DIR
    jaxgen train flow_cifar10 --model glow_lu --tfds-dir DIR     (the 1x1 convolutions decomposed)

Expect: dequantized, 3.49 bits/dim for realnvp and 3.35 for glow; not run to the end here
Cost: not measured; not for a CPU
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxgen import Experiment, data, optimizers
from jaxgen.data.transforms import Transform, dequantize, flip
from jaxgen.engine.experiment import Published
from jaxgen.evaluation.evaluators import round_trip
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.likelihood.flow import decode, encode, flow
from jaxgen.nn.flows.glow import glow
from jaxgen.nn.flows.realnvp import realnvp
from jaxgen.show import figures

TRAIN, VALUES = 50_000, 32 * 32 * 3


def gains(params):
  """The parameters that are regularised, as in RealNVP's code: the weight normalisation's g, and the scales of s that
  start at 0."""
  return jax.tree.map_with_path(lambda path, _: path[-1].key in ("g", "scale"), params)


def regularised_adam(rate: float, batch_size: int) -> optax.GradientTransformation:
  """RealNVP's code: 5e-5 of the squares, and gradients of norm 100, of a loss in nats per image; this one's is per
  value."""
  decay = optax.add_decayed_weights(2 * 5e-5 / VALUES, mask=gains)
  return optax.chain(decay, optimizers.adam(rate, clip=100.0 / VALUES, eps=1e-8 / VALUES))


def adamax(rate: float, batch_size: int) -> optax.GradientTransformation:
  """Glow's code, whose loss is also per value."""
  epoch = TRAIN // batch_size + 1
  warming_up = optax.linear_schedule(0.0, rate, 10 * epoch)
  return optax.adamax(warming_up, b2=1 - 1 / epoch)


class Preset(NamedTuple):
  """A flow and its recipe.

  Attributes:
    bijection: (width, dtype) -> the flow.
    width: features of the coupling layers' networks.
    optimizer: (learning rate, batch size) -> the optimizer.
  """

  bijection: Callable[[int, Any], Any]
  width: int
  optimizer: Callable[[float, int], optax.GradientTransformation]
  augment: tuple[Transform, ...]
  steps: int
  batch_size: int
  published: Published


METRIC = "test_bits_per_dim_256_levels_dequantized"
NVP = Published("Dinh et al. 2016", "Table 1", METRIC, 3.49)
GLOW = Published(
  "Kingma and Dhariwal 2018", "Table 2", METRIC, 3.35, "their code also shifts the training images by up to 10 %"
)
GLOW_RECIPE = dict(width=512, optimizer=adamax, augment=(), steps=176_400, batch_size=512, published=GLOW)
PRESETS = {
  "realnvp": Preset(
    lambda width, dtype: realnvp(2, width, 8, dtype=dtype), 64, regularised_adam, (flip(),), 500_000, 64, NVP
  ),
  "glow": Preset(lambda width, dtype: glow(3, 32, width, lu=False, dtype=dtype), **GLOW_RECIPE),
  "glow_lu": Preset(lambda width, dtype: glow(3, 32, width, dtype=dtype), **GLOW_RECIPE),
  "glow_additive": Preset(lambda width, dtype: glow(3, 32, width, lu=False, additive=True, dtype=dtype), **GLOW_RECIPE),
}
NAMES = {"realnvp_cifar10": {"model": "realnvp"}, "glow_cifar10": {"model": "glow"}}


def experiment(
  model: Literal["realnvp", "glow", "glow_lu", "glow_additive"] = "glow",
  width: int | None = None,
  temperature: float = 1.0,
  steps: int | None = None,
  batch_size: int | None = None,
  learning_rate: float = 1e-3,
  bfloat16: bool = False,
  microbatches: int = 1,
  tfds_dir: str | None = None,
) -> Experiment:
  """
  Args:
    model: the bijection and its recipe.
    width: features of the coupling layers' networks; the model's own by default, to which the paper's number belongs.
    temperature: latents of samples are multiplied by it.
    steps: training steps; the model's own by default.
    batch_size: examples in a batch; the model's own by default.
    bfloat16: the networks compute in bfloat16, the bijections in float32.
  """
  preset = PRESETS[model]
  batch_size = preset.batch_size if batch_size is None else batch_size
  width = preset.width if width is None else width
  cifar10 = data.cifar10(tfds_dir, transforms=(dequantize(),), augment=preset.augment, classes=False)
  bijection = preset.bijection(width, jnp.bfloat16 if bfloat16 else jnp.float32)
  optimizer = preset.optimizer(learning_rate, batch_size)
  return Experiment(
    method=flow(bijection, spec=cifar10.spec, optimizer=optimizer, temperature=temperature),
    data=cifar10,
    steps=preset.steps if steps is None else steps,
    batch_size=batch_size,
    evaluators=(likelihood(), round_trip()),
    figures=(figures.interpolations(partial(encode, bijection), partial(decode, bijection)),),
    published=(preset.published,) if width == preset.width else (),
    log_every=100,
    sample_every=20_000,
    evaluate_every=20_000,
    checkpoint_every=5_000,
    evaluate_batch=100,
    microbatches=microbatches,
  )
