"""Summaries of several measurements: the peak, scaling over devices, and seconds beside quality."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
SAME = ("what", "dtype", "solver", "sampling_steps")


def share_peaks(rows: Sequence[dict[str, Any]]) -> None:
  """Gives rows of the same devices and dtype the same measured peak, the highest, and their shares of that.

  It is measured once for every case, because other work may slow down a single measurement.
  """
  best: dict[tuple, float] = {}
  for row in rows:
    if row["status"] == "ok":
      key = row["dtype"], row["devices"]
      best[key] = max(best.get(key, 0.0), row["peak_flops"])
  for row in rows:
    if row["status"] == "ok":
      row["peak_flops"] = best[row["dtype"], row["devices"]]
      row["mfu"] = row["flops"] / row["seconds"] / row["peak_flops"]


def scaling(rows: Sequence[Row]) -> list[dict[str, Any]]:
  """How well more devices are used, against the fewest that were measured with the same program.

  efficiency: the throughput per device, relative to that with the fewest devices; 1 is perfect. It is "weak" where a
  device's part of the batch is the same, and "strong" where the whole batch is.
  """
  good = [row for row in rows if row.get("status") == "ok" and not row["latency"]]
  found = []
  for kind, load in (("weak", lambda row: row["batch"] / row["devices"]), ("strong", lambda row: row["batch"])):
    groups: dict[tuple, list[Row]] = {}
    for row in good:
      groups.setdefault((*(row[name] for name in SAME), load(row)), []).append(row)
    for group in groups.values():
      found += list(_against_fewest(kind, sorted(group, key=lambda row: row["devices"])))
  return found


def _against_fewest(kind: str, group: Sequence[Row]) -> Iterator[dict[str, Any]]:
  first, *others = group
  for row in others:
    yield {
      **{name: row[name] for name in (*SAME, "devices", "batch")},
      "kind": kind,
      "against": first["devices"],
      "efficiency": row["per_device"] / first["per_device"],
    }


def quality(rows: Sequence[Row], judged: Mapping[tuple, Mapping[str, float]], samples: int) -> list[dict[str, Any]]:
  """Seconds and quality of each solver and number of steps whose quality was measured, at its fastest batch.

  quality = floor / distance: the Fréchet distance of training examples to the test split, over that of samples. A
  sampler that is as good as the training examples has 1. seconds_per_quality = seconds for 1,000 examples / quality.

  Args:
    judged: (dtype, solver, steps) -> the numbers of `evaluation.evaluators.frechet`.
    samples: that each was judged by.
  """
  found = []
  for (dtype, solver, steps), numbers in judged.items():
    same = [
      row
      for row in rows
      if row.get("status") == "ok"
      and row["what"] == "sample"
      and (row["dtype"], row["solver"], row["sampling_steps"]) == (dtype, solver, steps)
    ]
    if not same:
      continue
    best = max(same, key=lambda row: row["examples_per_second"])
    distance, floor = numbers[f"frechet_{samples}"], numbers[f"frechet_{samples}_floor"]
    thousand = 1_000 / best["examples_per_second"]
    found.append(
      {
        "dtype": dtype, "solver": solver, "sampling_steps": steps, "batch": best["batch"], "devices": best["devices"],
        "samples": samples, "frechet": distance, "floor": floor, "quality": floor / distance,
        "seconds_per_1000": thousand, "seconds_per_quality": thousand * distance / floor,
      }
    )  # fmt: skip
  return found
