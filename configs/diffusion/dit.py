"""DiT and SiT, a diffusion model and a flow whose network is a Transformer: on digits, and on ImageNet's latents.

Paper: Peebles and Xie 2022, Scalable diffusion models with Transformers, https://arxiv.org/abs/2212.09748 (DiT), as in
their code: adaLN-zero, T = 1000 with linear beta, L_simple and the bound for learned variances, labels dropped for a
tenth of the examples, classifier-free guidance, AdamW without decay. Ma et al. 2024, SiT,
https://arxiv.org/abs/2401.08740 (`--learns velocity`): the same network learns the velocity of the straight path.
ImageNet at 256 x 256: latents of 32 x 32 x 4 by Stable Diffusion's KL autoencoder, AdamW at 1e-4, batch 256, EMA
0.9999, flips. The presets' FID is the papers': of XL/2 with guidance 1.5 after 7 M steps, of the others without after
400 k.

    jaxgen train dit
    jaxgen train dit --learns velocity                 (or jaxgen train sit_digits)
    jaxgen train dit --preset XL/2 --tfds-dir DIR --first-stage-run runs/kl_imagenet

Sample i is digit i % 10. `--guidance` is the weight of the conditional prediction; 1 means no guidance.

Expect: digits: frechet_1437 3.38, 3.0 times its floor; at most 2.77 bits/dim (one seed);
`sit_digits`: 1.12, 1.00 times, at most 2.02 bits/dim (one seed). The presets of ImageNet: not run here
Cost: digits: 2 minutes on 2 CPU cores (`sit_digits`)
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxgen import Experiment, data, diffusion, optimizers
from jaxgen.core.condition import labels
from jaxgen.core.spec import Spec
from jaxgen.core.wrappers import averaged, first_stage
from jaxgen.data.transforms import flip
from jaxgen.diffusion.likelihood import continuous_bound
from jaxgen.diffusion.losses import bound_nll
from jaxgen.evaluation.evaluators import frechet
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.interop import dit as dit_weights
from jaxgen.interop import runs
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.methods.diffusion.objective import Objective
from jaxgen.methods.diffusion.sampler import Sampler
from jaxgen.methods.likelihood.autoencoder import kl, latents
from jaxgen.nn.autoencoders.ldm import KLAutoencoder
from jaxgen.nn.transformers.dit import SIZES, DiT


class Preset(NamedTuple):
  """A recipe.

  Attributes:
    size: patch, width, depth and heads of the network.
  """

  steps: int
  learning_rate: float
  ema: float
  batch_size: int
  solver: diffusion.SolverName
  sampling_steps: int
  size: Mapping[str, int]


def of_imagenet(size: str, steps: int = 400_000) -> Preset:
  return Preset(steps, 1e-4, 0.9999, 256, "ancestral", 250, SIZES[size])


PRESETS = {
  "digits": Preset(3_000, 1e-3, 0.995, 128, "ddim", 100, dict(patch=2, width=64, depth=4, heads=4)),
  "S/2": of_imagenet("S/2"),  # 68.40
  "B/2": of_imagenet("B/2"),  # 43.47
  "L/2": of_imagenet("L/2"),  # 23.33
  "XL/2": of_imagenet("XL/2", 7_000_000),  # 2.27, and 2.06 by SiT
}
NAMES = {
  "dit_digits": {"preset": "digits"},
  "sit_digits": {"preset": "digits", "learns": "velocity"},
  "dit_imagenet": {"preset": "XL/2"},
  "sit_imagenet": {"preset": "XL/2", "learns": "velocity"},
}


def experiment(
  preset: Literal[*PRESETS] = "digits",
  learns: Literal["noise", "velocity"] = "noise",
  steps: int | None = None,
  batch_size: int | None = None,
  learning_rate: float | None = None,
  ema: float | None = None,
  label_dropout: float = 0.1,
  guidance: float = 1.0,
  bfloat16: bool = False,
  remat: bool = False,
  solver: diffusion.SolverName | None = None,
  grid: diffusion.GridName = "trailing",
  sampling_steps: int | None = None,
  microbatches: int = 1,
  first_stage_run: str | None = None,
  tfds_dir: str | None = None,
) -> Experiment:
  """A Transformer learns the noise in pictures of a class, and how much to take away (DiT), or the velocity (SiT).

  Flags that are not given are the preset's.

  Args:
    preset: data, and the size of everything.
    learns: the noise of DiT's discrete diffusion, or the velocity of SiT's straight path.
    label_dropout: the share of training examples whose label is dropped.
    guidance: the weight of the conditional prediction in samples; 1 is no guidance.
    bfloat16: the network computes in half precision.
    remat: blocks are computed again for the backward pass, which then takes less memory.
    solver: how samples go from noise to pictures; DDIM for a velocity, which is Euler's method there.
    grid: the times that the solver visits.
    sampling_steps: steps of the solver.
    first_stage_run: the folder of a run of kl_imagenet, for ImageNet; without one it keeps its random initialisation.
  """
  given = dict(steps=steps, learning_rate=learning_rate, ema=ema, batch_size=batch_size, sampling_steps=sampling_steps)
  p = PRESETS[preset]._replace(**{name: value for name, value in given.items() if value is not None})
  noise, digits = learns == "noise", preset == "digits"
  if digits:
    images = data.digits()
    spec, optimizer = images.spec, optimizers.adam(p.learning_rate, p.steps, warmup=100, clip=1.0)
  else:
    images = data.imagenet(tfds_dir, size=256, augment=(flip(),), standardized=False)
    spec, optimizer = Spec((32, 32, 4), classes=images.spec.classes), optimizers.adam(p.learning_rate)
  if noise:
    schedule, chosen = diffusion.linear(1000), solver or p.solver
    objective = Objective(variance="learned", vlb=1e-3 / math.log(2))
    bound = partial(bound_nll, levels=images.levels, variance="learned", terms=50)
  else:
    schedule, chosen = diffusion.rectified_flow(), solver or "ddim"
    objective = Objective(diffusion.PREDICTIONS["velocity"])
    bound = partial(continuous_bound, levels=images.levels, t_min=0.03)
  variance = "learned" if noise else "posterior"
  solvers = {**diffusion.SOLVERS, "ancestral": partial(diffusion.ancestral, variance=variance)}
  network = DiT(
    **p.size,
    classes=spec.classes + 1,  # one more: "no label"
    out_channels=spec.shape[-1] * (2 if noise else 1),
    remat=remat,
    dtype=jnp.bfloat16 if bfloat16 else jnp.float32,
  )
  method = gaussian_diffusion(
    network,
    schedule,
    spec,
    optimizer,
    objective=objective,
    condition=labels(spec, label_dropout),
    sampler=Sampler(solvers[chosen], diffusion.GRIDS[grid], p.sampling_steps, clip=noise and digits),
    likelihoods={"nll_nats": bound} if digits else {},
  )
  method = averaged(method, p.ema)
  if not digits:
    frozen = runs.frozen(first_stage_run) if first_stage_run else None
    method = first_stage(method, *latents(KLAutoencoder(), kl()), frozen)
  classes = spec.classes
  return Experiment(
    method=method,
    data=images,
    steps=p.steps,
    batch_size=p.batch_size,
    microbatches=microbatches,
    evaluators=(likelihood(), frechet()) if digits else (),
    conditions=lambda index: {"label": index % classes, "weight": np.full(len(index), guidance, np.float32)},
    sample_every=1_000 if digits else 20_000,
    checkpoint_every=500 if digits else 5_000,
    layouts={"authors": dit_weights.authors(network), "diffusers": dit_weights.diffusers(network)},
  )
