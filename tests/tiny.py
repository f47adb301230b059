"""A DDPM that compiles and trains in seconds, as a config: what the tests of the frame train."""

SOURCE = '''"""A tiny DDPM on digits, for tests.

Paper: none.

Expect: nothing
Cost: seconds
"""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
import optax

from jaxgen import Experiment, data, diffusion
from jaxgen.core.wrappers import averaged
from jaxgen.diffusion.losses import bound_nll
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.methods.diffusion.sampler import Sampler
from jaxgen.evaluation.likelihood import likelihood


class Net(nn.Module):
  layers: tuple[int, ...]
  dtype: str

  @nn.compact
  def __call__(self, x, t, label=None, index=None):
    dtypes = dict(dtype=self.dtype, param_dtype=self.dtype)
    h = jnp.concatenate([x.reshape(len(x), -1), t[:, None] / 10], axis=-1)
    for width in self.layers:
      h = nn.silu(nn.Dense(width, **dtypes)(h))
    return nn.Dense(x[0].size, **dtypes)(h).reshape(x.shape)


def experiment(
  steps: int = 30,
  batch_size: int = 16,
  learning_rate: float = 1e-3,
  layers: tuple[int, ...] = (32,),
  sampling_steps: int = 3,
  solver: diffusion.SolverName = "ddim",
  checkpoint_every: int = 10,
  max_skipped: int = 3,
  data_name: str = "digits",
  side: int = 8,
  dtype: str = "float32",
) -> Experiment:
  images = data.images(data_name, (side, side, 1), levels=17, classes=10)
  method = gaussian_diffusion(
    Net(layers, dtype),
    diffusion.constant(10, 0.5),
    images.spec,
    optax.adam(learning_rate),
    sampler=Sampler(diffusion.SOLVERS[solver], steps=sampling_steps),
    likelihoods={"nll_nats": partial(bound_nll, levels=17, terms=2)},
  )
  return Experiment(
    method=averaged(method, 0.9),
    data=images,
    steps=steps,
    batch_size=batch_size,
    evaluators=(likelihood(),),
    log_every=5,
    sample_every=20,
    checkpoint_every=checkpoint_every,
    updates_per_dispatch=4,
    samples=4,
    sample_chunk=8,
    evaluate_batch=64,
    max_skipped=max_skipped,
  )
'''


def write(folder, name="tiny", source=SOURCE):
  """Writes the config into a folder and returns its path."""
  path = folder / f"{name}.py"
  path.write_text(source)
  return path
