"""Generative adversarial networks of points in the plane: which losses and penalties find all of the clouds.

Paper: Goodfellow et al. 2014, Generative adversarial nets, https://arxiv.org/abs/1406.2661, with R1, Mescheder et al.
2018, https://arxiv.org/abs/1801.04406; the clouds are PacGAN's, Lin et al. 2018, https://arxiv.org/abs/1712.04086, 4.1.

    jaxgen train gan_rings
    jaxgen train gan_rings --points grid25 --steps 20000 --width 128
    jaxgen train gan_rings --loss wasserstein --penalty gradient_penalty --k 4 --steps 4000
    jaxgen train gan_rings --loss minimax --penalty none          (loses clouds)

`benchmarks/gan_modes.py` runs them all over several seeds; docs/adversarial.md has its results.

Expect: of 2,500 samples 95.6 to 96.5 % within 3 sigma, and all 8 modes; on the grid 94.3 to 96.0 % and all 25. Three
seeds each; without R1 up to 1 and 15 modes are lost
Cost: a minute on 2 CPU cores that were busy with other work as well, the grid two
"""

from typing import Literal

import jax
import numpy as np
import optax

from jaxgen import Experiment, data, optimizers
from jaxgen.core.wrappers import averaged
from jaxgen.data.sources import modes
from jaxgen.evaluation.modes import modes_covered
from jaxgen.methods.adversarial.gan import LOSSES, LossName, clip_weights, gan, gradient_penalty, r1
from jaxgen.nn.adversarial.gan import MLPDiscriminator, MLPGenerator
from jaxgen.show import figures


def experiment(
  steps: int = 8_000,
  batch_size: int = 128,
  learning_rate: float = 2e-3,
  discriminator_rate: float | None = None,
  points: Literal["ring8", "grid25"] = "ring8",
  std: float | None = None,
  loss: LossName = "non_saturating",
  penalty: Literal["none", "r1", "gradient_penalty", "clip"] = "r1",
  weight: float | None = None,
  k: int = 1,
  width: int = 64,
  depth: int = 3,
  latent: int = 2,
  ema: float = 0.99,
) -> Experiment:
  """A game in the plane.

  Args:
    batch_size: points of each update of the discriminator.
    learning_rate: the generator's.
    discriminator_rate: the discriminator's, by default the same.
    points: where the clouds lie.
    std: standard deviation of a cloud, by default PacGAN's.
    loss: what both minimise.
    penalty: on the discriminator; clip keeps its weights in a box.
    weight: the penalty's, or the box's size, by default one that suits the points.
    k: updates of the discriminator for each of the generator.
    width: of the hidden layers.
    depth: number of hidden layers.
    latent: number of values that the generator begins with.
  """
  centres = modes(points)
  size = float(np.abs(centres).max())
  std = std or {"ring8": 0.01, "grid25": 0.05}[points]
  # R1's gamma is meant for data of size 1; for larger data the gradient is smaller by the factor of the size.
  weight = weight or {"none": 0.0, "r1": 0.01 * size**2, "gradient_penalty": 0.1 * size, "clip": 0.1}[penalty]
  adam = lambda rate, updates: optimizers.adam(rate, updates, b1=0.0, b2=0.99)
  cloud = data.Dataset(f"points:{points}:{std}", {"x": jax.ShapeDtypeStruct((2,), np.float32)})
  rate, updates = discriminator_rate or learning_rate, k * steps  # every update counts
  discriminator_optimizer = adam(rate, updates)
  if penalty == "clip":
    # Momentum makes the clipped critic unstable: Arjovsky et al. 2017, section 4.3.
    rmsprop = optax.rmsprop(optimizers.schedule(rate, updates))
    discriminator_optimizer = optax.chain(rmsprop, clip_weights(weight))
  method = gan(
    MLPGenerator((2,), (width,) * depth),
    MLPDiscriminator((width,) * depth, activation=jax.nn.relu),
    spec=cloud.spec,
    latent=latent,
    loss=LOSSES[loss],
    penalty={"r1": r1(weight), "gradient_penalty": gradient_penalty(weight)}.get(penalty),
    k=k,
    generator_optimizer=adam(learning_rate, steps),
    discriminator_optimizer=discriminator_optimizer,
  )
  return Experiment(
    method=averaged(method, {"generator": ema}),
    data=cloud,
    steps=steps,
    batch_size=k * batch_size,
    evaluators=(modes_covered(),),
    render=figures.scatter(-1.5 * size, 1.5 * size),
    updates_per_dispatch=50,
    evaluate_every=2_500,
    samples=1024,
    sample_chunk=512,
    sample_every=2_500,
  )
