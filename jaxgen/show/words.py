"""Numbers, devices and docstrings as a reader wants to see them."""

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Block(NamedTuple):
  """A part of a docstring: a paragraph on one line, or lines of code."""

  text: str
  is_code: bool


def prose(text: str) -> list[Block]:
  """A docstring's paragraphs; lines indented by four are code, and `Word:` at a line's start begins a paragraph."""
  blocks = []
  text = re.sub(r"\n(?=[A-Z]\w*: )", "\n\n", text)
  for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
    for is_code, lines in _runs(paragraph.split("\n")):
      if is_code:
        blocks.append(Block(textwrap.dedent("\n".join(lines)), True))
      elif any(line.strip() for line in lines):
        blocks.append(Block(" ".join(line.strip() for line in lines), False))
  return blocks


def _runs(lines: Sequence[str]) -> list[tuple[bool, list[str]]]:
  """Neighbouring lines that are both indented by four or more, or both not."""
  runs: list[tuple[bool, list[str]]] = []
  for line in lines:
    is_code = line.startswith("    ")
    if runs and runs[-1][0] == is_code:
      runs[-1][1].append(line)
    else:
      runs.append((is_code, [line]))
  return runs


def is_number(x: Any) -> bool:
  """Whether x is a finite number."""
  return isinstance(x, (int, float)) and math.isfinite(x)


def number(x: float) -> str:
  """Four significant digits; whole numbers whole."""
  if not is_number(x):
    return "not finite"
  if float(x).is_integer() and abs(x) < 1e9:
    return f"{int(x):,}"
  if 1e-3 <= abs(x) < 1e4:
    return f"{x:#.4g}".removesuffix(".")
  return f"{x:,.0f}" if 1e4 <= abs(x) < 1e9 else f"{x:.3e}"


def with_error(x: float, error: float) -> str:
  """A value to the second significant digit of its standard error."""
  if not is_number(x) or error <= 0:
    return number(x)
  if abs(x) < 1e-3:
    return f"{x:.2e} ± {error:.1e}"
  digits = max(0, 1 - math.floor(math.log10(error)))
  return f"{x:,.{digits}f} ± {error:,.{digits}f}"


def duration(seconds: float) -> str:
  if seconds < 120:
    return f"{seconds:.0f} s"
  minutes, rest = divmod(round(seconds), 60)
  return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def devices(kinds: Sequence[str]) -> str:
  """["TPU v4", "TPU v4"] -> "2 × TPU v4"."""
  return ", ".join(f"{list(kinds).count(kind)} × {kind}" for kind in dict.fromkeys(kinds))


def parameters(sizes: Mapping[str, int]) -> str:
  """Numbers of parameters by network, with their sum if there are several."""
  parts = [f"{name} {size:,}" for name, size in sizes.items()]
  return ", ".join(parts) + (f" (together {sum(sizes.values()):,})" if len(parts) > 1 else "")


# Meanings of evaluated numbers' names: the first pattern that fits.
MEANINGS: tuple[tuple[str, str], ...] = (
  (r"frechet_(\d+)_floor", "the same for as many training examples: the value for a perfect sampler"),
  (r"frechet_(\d+)_ratio", "distance over floor: 1 is as close to the test split as the training examples are"),
  (r"frechet_(\d+)", "Fréchet distance of this many samples to the test split"),
  (r"\w+_dequantized(_\d+)?", "negative log-likelihood, an upper bound, by uniformly dequantized values"),
  (r"\w+_importance_\d+", "negative log-likelihood, estimated by so many importance samples"),
  (r"\w+_density", "negative logarithm of a density, per unit of the data"),
  (r"\w+_(bits_per|nats_per|nll_nats)_\w+", "negative log-likelihood, or its upper bound"),
  (r"(\w+)_accuracy", "share classified correctly"),
  (r"(\w+)_examples", "examples evaluated"),
)


def meaning(name: str) -> str:
  """The meaning of an evaluated number's name; "" for an unknown name."""
  return next((text for pattern, text in MEANINGS if re.fullmatch(pattern, name)), "")
