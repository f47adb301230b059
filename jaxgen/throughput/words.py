"""A result as a line of text."""

from collections.abc import Mapping
from typing import Any


def what(row: Mapping[str, Any]) -> str:
  """The program of a row, without batch and devices."""
  solver = f" {row['solver']}" if row["solver"] else ""
  steps = f" {row['sampling_steps']} steps" if row["sampling_steps"] else ""
  return f"{row['what']}{solver}{steps} {row['dtype']}"


def line(row: Mapping[str, Any], unit: str) -> str:
  """A row in one line."""
  devices = f"{row['devices']} device" + "s" * (row["devices"] > 1)
  head = f"{what(row):<36} batch {row['batch']:<5} {devices:<10}"
  if row["status"] != "ok":
    return f"{head} {row['status']}: {row['error']}"
  share = f"{row['mfu']:.0%} of the measured peak" if row["flops"] else "no products of matrices"
  planned = "" if row["planned_bytes"] is None else f", {row['planned_bytes'] / 2**20:,.0f} MiB planned"
  return (
    f"{head} {1e3 * row['seconds']:>9,.2f} ms ± {row['spread']:.0%}, {row['per_second']:>10,.4g} {unit}/s, {share}"
    f"{planned}, compiled in {row['compile_seconds']:.1f} s"
  )
