"""Attention maps of one row of a batch in another's: prompt-to-prompt.

Hertz et al. 2022, https://arxiv.org/abs/2208.01626, section 3 and Algorithm 1. Rows are told "maps", a dict of arrays
[B, ...]: a row with "own" = i offers its maps, and rows with "of" = i take them.

    own, of [B]                ids, from 0 on; below 0: it offers none, it takes none
    mapper [B, K, K]           from the other row's words to this one's
    blend [B, K]               how much of the other's maps stands at each of this row's words; 0: its own
    gain [B, K]                the factor of what is taken: section 3.2, "attention re-weighting"
    cross, itself [B]          the network times above which maps are taken, over words and over a picture's places

Maps over places are taken as they are, at up to 16 x 16 of them, as in the authors' code.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

LARGEST = 16 * 16
Maps = Mapping[str, Array]
Weights = Float[Array, "batch heads queries keys"]


def inert(words: int, dtype: Any = jnp.float32) -> dict[str, Array]:
  """One row's "maps" that takes and offers nothing, of a text of that many words."""
  ones, inf = jnp.ones(words, dtype), jnp.asarray(jnp.inf, dtype)
  none = jnp.asarray(-1, jnp.int32)
  return {
    "own": none, "of": none, "mapper": jnp.eye(words, dtype=dtype), "blend": 0 * ones, "gain": ones, "cross": inf,
    "itself": inf,
  }  # fmt: skip


def changes(maps: Maps | None, t: Float[Array, " batch"], places: int) -> dict[str, Callable[[Weights], Weights]]:
  """The options of `Block` that put other rows' maps in their place; {} where rows are told none.

  Args:
    maps: see the module.
    t: the network's times.
    places: queries of an attention map, height times width.
  """
  if maps is None:
    return {}
  row = jnp.argmax(maps["of"][:, None] == maps["own"], axis=1)
  takes = maps["of"] >= 0
  found = {"context_change": partial(_words, maps, row, takes & (t > maps["cross"]))}
  if places <= LARGEST:
    found["change"] = partial(_places, row, takes & (t > maps["itself"]))
  return found


def _words(maps: Maps, row: Array, active: Array, weights: Weights) -> Weights:
  """Section 3.2, `Edit(M_t, M*_t, t)`: replacement, refinement and re-weighting are choices of the three arrays."""
  # b: row, h: head, q: place, k: the other's word, w: this row's word
  taken = jnp.einsum("bhqk,bkw->bhqw", weights[row], maps["mapper"].astype(weights.dtype))
  taken = taken * maps["gain"][:, None, None].astype(weights.dtype)
  blend = jnp.where(active[:, None], maps["blend"], 0)[:, None, None].astype(weights.dtype)
  return jnp.where(blend == 0, weights, blend * taken + (1 - blend) * weights)


def _places(row: Array, active: Array, weights: Weights) -> Weights:
  return jnp.where(active[:, None, None, None], weights[row], weights)
