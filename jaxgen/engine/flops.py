"""The work of a program, counted in its jaxpr."""

import math

from jax.extend import core

from jaxgen.nn.blocks.rules import definition


def flops(jaxpr: core.Jaxpr) -> float:
  """FLOPs of a program's matrix products and convolutions, two for each multiplication with its addition.

  Convolutions count by their definition, not by a platform's implementation. A scan counts as often as it runs, a while
  loop once, and a cond as its most expensive branch. Recomputation for the gradient (`remat`) counts.
  """
  total = 0.0
  for eqn in jaxpr.eqns:
    inner = [x for value in eqn.params.values() for x in (value if isinstance(value, (tuple, list)) else (value,))]
    inner = [getattr(x, "jaxpr", x) for x in inner if isinstance(x, (core.Jaxpr, core.ClosedJaxpr))]
    times, inside = definition(eqn) or (1, None)
    inner += [] if inside is None else [inside]
    name, out = eqn.primitive.name, eqn.outvars[0].aval if eqn.outvars else None
    if name == "dot_general":
      (contracted, _), _ = eqn.params["dimension_numbers"]
      total += 2 * out.size * math.prod(eqn.invars[0].aval.shape[d] for d in contracted)
    elif name == "conv_general_dilated":
      kernel, numbers = eqn.invars[1].aval, eqn.params["dimension_numbers"]
      zeros = math.prod(eqn.params["lhs_dilation"])  # of so many inputs all but one are zeros
      total += 2 * out.size * kernel.size / kernel.shape[numbers.rhs_spec[0]] / zeros
    elif name == "cond":
      total += max(map(flops, inner))
    else:
      times = eqn.params["length"] if name == "scan" else times
      total += times * sum(map(flops, inner))
  return total
