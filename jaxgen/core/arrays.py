"""Small operations on arrays that losses and samplers share."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree


def wide_dtype(dtype: Any) -> Any:
  """The dtype, and at least float32."""
  return jnp.promote_types(dtype, jnp.float32)


def wide(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
  """In at least float32: what is summed, exponentiated or compared in half precision has two or three digits."""
  return x.astype(wide_dtype(x.dtype))


def all_finite(tree: PyTree) -> Bool[Array, ""]:
  """Whether all real numbers of a tree are finite; integers and keys count as such."""
  real = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating) and x.size]
  return jnp.isfinite(jnp.stack([jnp.max(jnp.abs(wide(x))) for x in real])).all() if real else jnp.array(True)


def per_example(a: Array, x: Array) -> Array:
  """a [B] as [B, 1, ...], so that it multiplies the examples x [B, ...]; a scalar stays one."""
  return a.reshape(a.shape + (1,) * (x.ndim - a.ndim)) if a.ndim else a


def masked(x: Array, mask: Bool[Array, "..."] | None) -> Array:
  """x [B, ...] with zeros where the mask of its leading axes [B, ...] is False; without a mask as it is."""
  return x if mask is None else jnp.where(per_example(mask, x), x, jnp.zeros((), x.dtype))
