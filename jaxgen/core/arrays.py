"""Small operations on arrays that losses and samplers share."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree


def wide_dtype(dtype: Any) -> Any:
  """The dtype, and at least float32."""
  return jnp.promote_types(dtype, jnp.float32)


def wide(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
  """x in float32 or wider. Sums, exponentials and comparisons in half precision keep only two or three digits."""
  return x.astype(wide_dtype(x.dtype))


def unit(x: Float[Array, "*rows features"], eps: float = 1e-12) -> Float[Array, "*rows features"]:
  """x / max(|x|, eps), row by row, in float32 or wider. Its gradient is finite where x = 0."""
  x = wide(x)
  return x / jnp.sqrt(jnp.maximum(jnp.sum(x**2, axis=-1, keepdims=True), eps**2))


def all_finite(tree: PyTree) -> Bool[Array, ""]:
  """Whether all floating-point numbers of a tree are finite. Integers and keys count as finite."""
  real = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating) and x.size]
  return jnp.isfinite(jnp.stack([jnp.max(jnp.abs(wide(x))) for x in real])).all() if real else jnp.array(True)


def per_example(a: Array, x: Array) -> Array:
  """a [B] reshaped to [B, 1, ...], so that it broadcasts against the examples x [B, ...]. A scalar stays a scalar."""
  return a.reshape(a.shape + (1,) * (x.ndim - a.ndim)) if a.ndim else a


def masked(x: Array, mask: Bool[Array, "..."] | None) -> Array:
  """x [B, ...] with zeros where the mask of its leading axes [B, ...] is False. With mask=None it is x itself."""
  return x if mask is None else jnp.where(per_example(mask, x), x, jnp.zeros((), x.dtype))
