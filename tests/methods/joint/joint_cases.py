"""The methods of pictures and texts that `test_every_method.py` tests."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import optax
from cases import Case

from jaxgen import data, diffusion
from jaxgen.core.wrappers import averaged
from jaxgen.data import transforms
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.methods.diffusion.objective import Objective
from jaxgen.methods.diffusion.sampler import Sampler
from jaxgen.methods.joint import unclip
from jaxgen.methods.joint.contrastive import bounded, contrastive
from jaxgen.methods.joint.features import clip_pairs, told_features
from jaxgen.methods.joint.losses import infonce, siglip, unicl
from jaxgen.nn.joint import dual
from jaxgen.nn.joint.prior import PriorTransformer


def named(key, batch):
  """A text of three tokens for each digit: what begins, its number, what ends."""
  label = batch["label"]
  return batch | {"tokens": jnp.stack([jnp.full_like(label, 10), label, jnp.full_like(label, 11)], axis=1)}


DIGITS = dataclasses.replace(data.digits(), last=(named,), feature="image")
SIZE = dual.Size(6, dict(patch=4, width=8, depth=1, heads=2), (8, 2, 1))


def small(dtype, loss, network=None):
  # At a temperature of 1 the first losses are about that of guessing.
  network = network or dual.clip(SIZE, dtype=dtype, vocabulary=12, context=3).clone(log_scale=0.0)
  return contrastive(network, spec=DIGITS.spec, optimizer=bounded(optax.adam(2e-3)), loss=loss)


def small_siglip(dtype):
  return small(dtype, siglip(), dual.siglip(dict(patch=4, width=8, depth=1, heads=2, hidden=8), 12, 3, dtype))


PAIRS = dataclasses.replace(DIGITS, last=(named, transforms.shrink(8, "picture")))


def small_prior(dtype):
  network = PriorTransformer(6, width=8, depth=1, heads=2, words=3, dtype=dtype, param_dtype=dtype)
  method = gaussian_diffusion(
    network,
    diffusion.cosine(20),
    unclip.embeddings(6),
    optax.adam(2e-3),
    objective=Objective(diffusion.PREDICTIONS["x_0"]),
    condition=unclip.texts(words=3, width=8, features=6),
    sampler=Sampler(steps=3, clip=False),
  )
  method = unclip.better_of(averaged(method, 0.9))
  return told_features(method, clip_pairs(dual.clip(SIZE, dtype=dtype, vocabulary=12, context=3), 8))


def digits_names(n):
  return {"tokens": np.stack([np.full(n, 10), np.arange(n) % 10, np.full(n, 11)], 1), "weight": np.full(n, 2.0)}


level = (math.log(16), {"loss": 1})
CASES = {
  "CLIP": Case(lambda dtype: averaged(small(dtype, infonce()), 0.9), DIGITS, whole="mean", unit=level),
  "ALIGN": Case(lambda dtype: small(dtype, infonce(0.1)), DIGITS, whole="mean", unit=level),
  "UniCL": Case(lambda dtype: small(dtype, unicl()), DIGITS, whole="mean", unit=level),
  "SigLIP": Case(small_siglip, DIGITS, whole="mean"),
  # Embeddings have a mean square of 1, and so has what an untrained network makes of them.
  "unCLIP's prior": Case(small_prior, PAIRS, conditions=digits_names, unit=(2.0, {"loss": 1})),
}
