"""The methods of pictures and texts that `test_every_method.py` tests."""

import dataclasses
import math

import jax.numpy as jnp
import optax
from cases import Case

from jaxgen import data
from jaxgen.core.wrappers import averaged
from jaxgen.methods.joint.contrastive import bounded, contrastive
from jaxgen.methods.joint.losses import infonce, siglip, unicl
from jaxgen.nn.joint import dual


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


level = (math.log(16), {"loss": 1})
CASES = {
  "CLIP": Case(lambda dtype: averaged(small(dtype, infonce()), 0.9), DIGITS, whole="mean", unit=level),
  "ALIGN": Case(lambda dtype: small(dtype, infonce(0.1)), DIGITS, whole="mean", unit=level),
  "UniCL": Case(lambda dtype: small(dtype, unicl()), DIGITS, whole="mean", unit=level),
  "SigLIP": Case(small_siglip, DIGITS, whole="mean"),
}
