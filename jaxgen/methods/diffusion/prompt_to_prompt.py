"""Prompt-to-prompt: samples of a text that keep the layout of another text's, by its attention maps.

Hertz et al. 2022, https://arxiv.org/abs/2208.01626, Algorithm 1: both texts are sampled side by side from the same
noise, and in the first steps the second's attention maps are made of the first's. The network is a `CrossUNet`, alone
or in a `TextUNet`; `sample` of `gaussian_diffusion` takes, beside its conditions and weight,

    source_NAME              the first text's condition NAME, for those names that differ
    **replacement(source_tokens, tokens)        or refinement, or reweighting: what is done to the maps, [N, ...] each

and gives the second text's samples. The first text's samples are those of the same keys without all this.
"""

import difflib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxgen.core.condition import Condition, Told
from jaxgen.core.errors import UserError
from jaxgen.methods.diffusion.objective import Model
from jaxgen.nn.blocks.maps import inert

SOURCE = "source_"
NAMES = ("mapper", "blend", "gain", "cross", "itself")
Tokens = Int[np.ndarray | Array, "n words"]


class Prompts(NamedTuple):
  """An edit, from the arguments of `sample`.

  Attributes:
    source: conditions of the first text by their own names.
    maps: "mapper" [N, K, K], "blend" and "gain" [N, K], "cross" and "itself" [N]; see `nn.blocks.maps`, but for the
      last two: they are shares of the steps, the first of which take the other's maps.
  """

  source: Mapping[str, Array]
  maps: Mapping[str, Array]


def replacement(source: Tokens, tokens: Tokens, cross: float = 0.8, itself: float = 0.4) -> dict[str, np.ndarray]:
  """Words are swapped: section 3.2, "word swap". Each word takes the map of the word in its place.

  Words of several tokens share their maps evenly, as in the authors' code.

  Args:
    source, tokens: of the first and the second text, [N, K].
    cross: the share of steps, from noise on, in which maps over words are replaced: 1 - tau / T of the paper.
    itself: the share of steps in which the maps of a picture to itself are, at up to 16 x 16 places.

  Raises:
    UserError: words were added or left out; shares outside [0, 1].
  """

  def one(a: list[int], b: list[int]) -> tuple[np.ndarray, np.ndarray]:
    mapper = np.zeros((len(a), len(b)), np.float32)
    for kind, i, j, k, m in _aligned(a, b):
      ends = j == len(a) and m == len(b)  # padding, of which there is more or less
      if kind in ("insert", "delete") and not ends:
        raise UserError("words were added or left out, and a replacement swaps words: take a refinement")
      if kind == "insert":
        i, j = len(a) - 1, len(a)
      even = kind == "replace" and j - i != m - k
      mapper[i:j, k:m] = 1 / (m - k) if even else 1 if kind == "insert" else np.eye(j - i, m - k)
    return mapper, np.ones(len(b), np.float32)

  return _of_all(one, source, tokens, cross, itself)


def refinement(source: Tokens, tokens: Tokens, cross: float = 0.8, itself: float = 0.4) -> dict[str, np.ndarray]:
  """Words are added: section 3.2, "adding a new phrase". Words of both texts take the first's maps, new ones theirs.

  Args:
    source, tokens, cross, itself: as in `replacement`.

  Raises:
    UserError: shares outside [0, 1].
  """

  def one(a: list[int], b: list[int]) -> tuple[np.ndarray, np.ndarray]:
    mapper, blend = np.zeros((len(a), len(b)), np.float32), np.zeros(len(b), np.float32)
    for kind, i, j, k, m in _aligned(a, b):
      if kind == "equal":
        mapper[i:j, k:m], blend[k:m] = np.eye(j - i), 1
    return mapper, blend

  return _of_all(one, source, tokens, cross, itself)


def reweighting(
  tokens: Tokens, factors: Mapping[int, float], cross: float = 1.0, itself: float = 0.0
) -> dict[str, np.ndarray]:
  """The maps of some words are multiplied: section 3.2, "attention re-weighting". Both texts are the same.

  Args:
    tokens: of the text, [N, K].
    factors: c by token; 1 for all others.
    cross, itself: as in `replacement`; the paper re-weights in all steps.

  Raises:
    UserError: a token that is in none of the texts; shares outside [0, 1].
  """
  found = replacement(tokens, tokens, cross, itself)
  for token, factor in factors.items():
    if not np.any(np.asarray(tokens) == token):
      raise UserError(f"the texts have no token {token}, whose attention is to be multiplied by {factor:g}: change it")
    found["gain"] = np.where(np.asarray(tokens) == token, np.float32(factor), found["gain"])
  return found


def _aligned(a: list[int], b: list[int]) -> list[tuple[str, int, int, int, int]]:
  return difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes()


def _of_all(one: Any, source: Tokens, tokens: Tokens, cross: float, itself: float) -> dict[str, np.ndarray]:
  for share in (cross, itself):
    if not 0 <= share <= 1:
      raise UserError(f"maps are taken in a share of the steps, from 0 to 1, not {share:g}: change it")
  rows = zip(np.asarray(source).tolist(), np.asarray(tokens).tolist(), strict=True)
  mapper, blend = map(np.stack, zip(*(one(a, b) for a, b in rows), strict=True))
  shares = {name: np.full(len(mapper), share, np.float32) for name, share in (("cross", cross), ("itself", itself))}
  return {"mapper": mapper, "blend": blend, "gain": np.ones_like(blend), **shares}


def taken(given: Mapping[str, Any], condition: Condition) -> tuple[Prompts | None, dict[str, Any]]:
  """(the edit, or None; the rest of what `sample` is given).

  Raises:
    UserError: some of it is given and some is not.
  """
  named = {SOURCE + name: name for name in condition.names}
  source = {named[name]: value for name, value in given.items() if name in named and value is not None}
  maps = {name: jnp.asarray(given[name]) for name in NAMES if given.get(name) is not None}
  rest = {name: value for name, value in given.items() if name not in named and name not in NAMES}
  if not source and not maps:
    return None, rest
  if not source or len(maps) < len(NAMES):
    lacking = [*([SOURCE + "NAME"] if not source else []), *(name for name in NAMES if name not in maps)]
    raise UserError(f"attention maps of another text also need {', '.join(lacking)}: see `prompt_to_prompt`")
  return Prompts(source, maps), rest


def above(model: Model, visited: Float[np.ndarray, " times"], share: Float[Array, " n"]) -> Float[Array, " n"]:
  """The network's time above which the first steps of a grid are, a share of them, rounded.

  Args:
    model: the network, which says how it is told the time.
    visited: the grid, from noise to data.
    share: of each sample.
  """
  n = len(visited) - 1
  told = model.time_input(model.schedule.at(jnp.asarray(visited[:-1], share.dtype)))
  end = jnp.full(1, jnp.inf, told.dtype)
  return jnp.concatenate([end, (told[1:] + told[:-1]) / 2, -end])[jnp.round(share * n).astype(jnp.int32)]


def side_by_side(a: Any, b: Any) -> Any:
  """[2 N, ...] of two trees [N, ...]: a_0, b_0, a_1, b_1, .."""
  return jax.tree.map(lambda a, b: jnp.stack([a, b], 1).reshape(-1, *a.shape[1:]), a, b)


def paired(prompts: Prompts, source: Told, told: Told, condition: Condition, threshold: Any) -> tuple[Told, Condition]:
  """(what the network is told of both texts, side by side, maps included; the condition of that).

  Args:
    prompts: what is asked.
    source, told: of both texts, dicts.
    condition: the method's.
    threshold: share [N] -> the network's time above which the first steps are.

  Raises:
    UserError: the network is told no dict, or maps are of texts of another length.
  """
  if not isinstance(told, Mapping):
    raise UserError(
      "attention maps need a network that is conditioned on a text in a dict: take condition entries({..})"
    )
  n, words = prompts.maps["blend"].shape
  given = {name: prompts.maps[name].shape for name in NAMES}
  wanted = {"mapper": (n, words, words), "blend": (n, words), "gain": (n, words), "cross": (n,), "itself": (n,)}
  texts = [jnp.shape(x)[:2] for tree in (told, source) for name, x in tree.items() if name in prompts.source]
  if given != wanted or (n, words) not in texts or {first for first, *_ in texts} != {n}:
    raise UserError(
      f"attention maps are of {n} texts of {words} words, in arrays of {given}, and the texts that are told are of "
      f"{texts}: make the maps of these texts"
    )
  pair = jnp.arange(n, dtype=jnp.int32)
  nothing = inert(words)
  offers = jax.tree.map(lambda x: jnp.broadcast_to(x, (n, *x.shape)), nothing) | {"own": pair}
  shares = {name: threshold(prompts.maps[name]) for name in ("cross", "itself")}
  takes = {**offers, "own": jnp.full(n, -1, jnp.int32), "of": pair, **prompts.maps, **shares}
  takes = jax.tree.map(lambda x, like: x.astype(like.dtype), takes, offers)
  both = {**side_by_side(source, told), "maps": side_by_side(offers, takes)}
  return both, _with_maps(condition, nothing, set(prompts.source))


def _with_maps(condition: Condition, nothing: Mapping[str, Array], names: set[str]) -> Condition:
  """The condition whose text has no maps when it is dropped."""
  if not condition.parts:
    return condition._replace(nothing={**condition.nothing, "maps": nothing})
  last = max(i for i, part in enumerate(condition.parts) if names & set(part.names))
  parts = tuple(
    part._replace(nothing={**part.nothing, "maps": nothing}) if i == last else part
    for i, part in enumerate(condition.parts)
  )
  return condition._replace(parts=parts)
