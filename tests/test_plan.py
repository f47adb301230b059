"""Plans for machines that are not there: HLO's text, the report, targets and what cannot be planned."""

import importlib.util
import re

import jax
import numpy as np
import pytest
import tiny
from test_cli import command

from jaxgen.engine import chips
from jaxgen.inspection import hlo, plan

# As XLA writes it: a loop with a noted count, one that compares its counter with a constant, as on a TPU, one whose
# count is the caller's, a reduction that is cut, and one operation in two steps of an asynchronous one.
HLO = """HloModule jit_loop, entry_computation_layout={(s32[])->s32[]}, replica_count=1, num_partitions=8

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %add.1 = f32[] add(%a, %b)
}

%body.2 (p: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %all-gather.1 = bf16[32,8]{1,0:T(8,128)(2,1)S(1)} all-gather(%x), channel_id=1, replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}
  %fusion.1 = (f32[4]{0}, /*index=1*/f32[4]{0}) fusion(%y), kind=kLoop, calls=%fused, backend_config={"estimated_cycles":"100"}
  ROOT %tuple.1 = (s32[], f32[4,8]{1,0}) tuple(%i, %z)
}

%condition.2 (p: (s32[], f32[4,8])) -> pred[] {
  %constant.9 = s32[]{:T(128)} constant(12)
  ROOT %lt.1 = pred[]{:T(512)} compare(%i, %constant.9), direction=LT
}

%all-reduce-scatter.3 (input: f32[16,8]) -> f32[2,8] {
  %all-reduce.3 = f32[16,8]{1,0} all-reduce(%input), channel_id=3, replica_groups=[2,4]<=[8], to_apply=%add
  ROOT %dynamic-slice.1 = f32[2,8]{1,0} dynamic-slice(%all-reduce.3, %i, %zero), dynamic_slice_sizes={2,8}
}

%body.1 (p: (s32[])) -> (s32[]) {
  %all-reduce.1 = (f32[8]{0}, f32[2]{0}) all-reduce(%a, %b), channel_id=2, replica_groups=mesh['data'=2,'fsdp'=4] {'data','fsdp'}, to_apply=%add
  %while.2 = (s32[], f32[4,8]{1,0}) while(%t), condition=%condition.2, body=%body.2, backend_config={"known_trip_count":{"n":"5"}}
  %while.3 = (s32[], f32[4,8]{1,0}) while(%t), condition=%condition.2, body=%body.3
  %fusion.3 = f32[2,8]{1,0} fusion(%g), kind=kCustom, calls=%all-reduce-scatter.3, backend_config={"estimated_cycles":"7"}
  ROOT %tuple.2 = (s32[]) tuple(%i)
}

%body.3 (p: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %fusion.4 = f32[1,16]{1,0} fusion(%y), kind=kCustom, calls=%async_start
  %fusion.5 = f32[1,16]{1,0} fusion(%y), kind=kCustom, calls=%async_done, backend_config={"estimated_cycles":"9223372036854775807"}
  %all-gather-start.1 = (f32[2]{0}, f32[8]{0}) all-gather-start(%y), channel_id=6, replica_groups=mesh['data'=2,'fsdp'=4] {'fsdp'}
  %all-gather-done.1 = f32[8]{0} all-gather-done(%all-gather-start.1)
  ROOT %tuple.3 = (s32[], f32[4,8]{1,0}) tuple(%i, %z)
}

%async_start (q: f32[1,4]) -> f32[1,16] {
  ROOT %all-to-all.1 = f32[1,16]{1,0} all-to-all(%q), channel_id=5, replica_groups=mesh['axis'=8] {'axis':(2)4}
}

%async_done (q: f32[1,4]) -> f32[1,16] {
  ROOT %all-to-all.2 = f32[1,16]{1,0} all-to-all(%q), channel_id=5, replica_groups=mesh['axis'=8] {'axis':(2)4}
}

%condition.1 (p: (s32[])) -> pred[] {
  ROOT %lt.2 = pred[] compare(%i, %n), direction=LT
}

ENTRY %main.1 (n: s32[]) -> s32[] {
  %alone = f32[64]{0} all-reduce(%z), channel_id=9, replica_groups={{0},{1}}, to_apply=%add
  %collective-permute-start.1 = (f32[3]{0}, f32[3]{0}, u32[]) collective-permute-start(%z), source_target_pairs={{0,1},{1,0}}
  %twice.1 = f32[5]{0} all-reduce(%z), channel_id=7, replica_groups={}, to_apply=%add
  %twice.2 = f32[5]{0} all-reduce(%z), channel_id=7, replica_groups={}, to_apply=%add
  ROOT %while.1 = (s32[]) while(%n), condition=%condition.1, body=%body.1
}
"""


def test_collectives_are_counted_from_the_text():
  every = hlo.collectives(hlo.read(HLO))
  twice = [x for x in every if x.nbytes == 4 * 5]  # one function, called twice, has one channel
  assert twice == [hlo.Collective("all-reduce", 8, 20, 1)] * 2
  found = {(x.kind, x.ways): x for x in every if x not in twice}
  assert {key: (x.nbytes, x.count) for key, x in found.items()} == {
    ("all-reduce", 8): (4 * (8 + 2), 1),
    ("all-gather", 8): (2 * 32 * 8, 5),
    ("all-gather", 4): (4 * 8, 12),
    ("all-to-all", 4): (4 * 16, 12),
    ("reduce-scatter", 4): (4 * 16 * 8, 1),
    ("collective-permute", 2): (4 * 3, 1),
  }
  assert found["all-reduce", 8].sent == 40 * 2 * 7 / 8
  assert found["all-gather", 8].sent == 5 * 512 * 7 / 8
  assert found["reduce-scatter", 4].sent == 512 * 3 / 4
  assert found["collective-permute", 2].sent == 12
  assert hlo.cycles(hlo.read(HLO)) == (5 * 100 + 7, 1)


def test_what_jax_compiles_is_read():
  """A product whose kernel is gathered, in a loop of three, on this process's eight devices."""
  mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
  rows, whole = (jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec)) for spec in (("x",), ()))

  def f(x, kernels):
    keep = lambda x: jax.lax.with_sharding_constraint(x, rows)
    gathered = lambda k: jax.lax.with_sharding_constraint(k, whole)
    return jax.lax.scan(lambda x, k: (keep(jax.numpy.tanh(keep(x) @ gathered(k))), None), x, kernels)[0]

  kernels = jax.ShapeDtypeStruct((3, 64, 64), np.float32, sharding=jax.sharding.NamedSharding(mesh, jax.P(None, "x")))
  compiled = jax.jit(f).lower(jax.ShapeDtypeStruct((64, 64), np.float32, sharding=rows), kernels).compile()
  (one,) = hlo.collectives(hlo.read(compiled.as_text()))
  assert one == hlo.Collective("all-gather", 8, 4 * 64 * 64, 3)


def row(text, name):
  return re.search(rf"^\s*{name}\s\s+(.*)$", text, re.M)[1]


def test_a_config_is_planned_for_simulated_devices(tmp_path):
  """Of its kernels, [65, 33] and [33, 64], the second is cut; biases are small."""
  config = tiny.write(tmp_path)
  out = command("inspect", config, "--target", "cpu:8", "--fsdp", 8, "--layers", 33).stdout
  assert row(out, "parameters of network") == "4,354"
  assert row(out, "devices") == "8 of cpu:8, data 1 x fsdp 8"
  assert row(out, "batch") == "16, 2 a device"
  assert row(out, "kept in fewer parts").startswith("network/Dense_0/kernel [65, 33] in 1 of 8")
  least = (2112 * 3 + (4354 - 2112) * 2) * 4 * 7 / 8 / 2**20
  assert f"({least:.3g} MiB)" in row(out, "sent a device and step")
  assert float(re.search(r"([\d.]+) x the least", row(out, "sent a device and step"))[1]) < 3
  assert "share of the peak" not in out  # nothing is known of a CPU's peak


def test_more_devices_than_there_are_need_no_devices(tmp_path):
  config = tiny.write(tmp_path)
  words = ["inspect", config, "--fsdp", 64, "--batch-size", 64]
  out = command(*words).stdout
  assert "64 x device, not here" in row(out, "devices")
  assert "use --target cpu:64" in command(*words, "--compile", True, code=1).stderr


CHIP = chips.Chip(100e12, 16 * chips.GIB, 50e9, 1e9, "2x2")


def test_times_follow_from_the_compilers_cycles_and_the_links():
  gathered = hlo.Collective("all-gather", 2, 10e9, 1)  # 5 GB are sent, a tenth of a second
  cost = plan.Cost(0, 0, 0, 0, 20e12, 0, 400_000_000, 0, [gathered], 5e9)
  assert cost.seconds(CHIP) == (0.4, 0.1)
  rows = dict(plan._times(cost, CHIP, 4, 7_200, 32))
  assert rows["seconds a step"].startswith("0.4 to 0.5")
  assert rows["FLOPs' share of the peak"].startswith("40.0 to 50.0 %")
  assert rows["examples a second"] == "64 to 80"
  assert rows["the whole run"] == "7,200 steps, 0.8 to 1.0 hours, 3 to 4 device-hours"
  assert cost._replace(cycles=0).seconds(CHIP) == (0.2, 0.1)  # no estimate: at its peak


def test_a_batch_that_does_not_fit_is_said_with_one_that_does(tmp_path, monkeypatch):
  """The compiler's own sentence, of which 1 GiB does not grow with the batch."""
  message = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 33.00G of 17.00G hbm. Exceeded ..."
  said = plan._too_large(message, chips.GIB, 1024, 16, "tpu:v5e:4x4")
  assert said.startswith("a batch of 1024 does not fit tpu:v5e:4x4, where a device would use 33.0 of its 17.0 GiB: ")
  assert said.endswith("a batch of 512 does, by estimate")
  work = "RESOURCE_EXHAUSTED: the total memory required for HLO temporaries (33.00G) exceeds available HBM (17.00G)."
  said = plan._too_large(work, chips.GIB, 1024, 16, "tpu:v5e:4x4")  # the state comes to it
  assert "would use 34.0 of its 17.0 GiB" in said
  assert said.endswith(f"a batch of {1024 * 16 // 33 // 16 * 16} does, by estimate")
  assert "share the state with --fsdp" in plan._too_large(message, 18 * chips.GIB, 1024, 16, "tpu:v5e:4x4")
  assert "refuses the program: INTERNAL: a bug" in plan._too_large("INTERNAL: a bug\nmore", 0, 16, 16, "t")


@pytest.mark.parametrize(
  ("words", "said"),
  [
    (["tpu:v9:2x2"], "with one of the chips v2, v3, v4, v5e, v5p, v6e, tpu7x, such as tpu:v5e:16x16"),
    (["gpu:b200:8"], "--target gpu:b200:8 is not a target: use cpu:N, such as cpu:64, gpu:KIND:N with one of h100"),
    (["cpu:9"], "ask for at most as many"),
    (["cpu:8", "--fsdp", "3"], "--fsdp 3 does not divide the 8 devices"),
    (["cpu:8", "--batch-size", "12"], "a batch of 12 does not divide over the 8 devices"),
  ],
)
def test_what_cannot_be_planned_is_one_sentence(words, said, tmp_path):
  (error,) = [
    line
    for line in command("inspect", tiny.write(tmp_path), "--target", *words, code=1).stderr.splitlines()
    if not line.startswith("jaxgen: XLA_FLAGS")
  ]
  assert said in error


def test_without_libtpu_the_extra_is_named(tmp_path, monkeypatch):
  found = importlib.util.find_spec
  monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "libtpu" else found(name, *a))
  error = command("inspect", tiny.write(tmp_path), "--target", "tpu:v5e:2x2", code=1).stderr
  assert "pip install 'jaxgen[aot]'" in error
  monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if "jax_plugins" in name else found(name, *a))
  error = command("inspect", tiny.write(tmp_path), "--target", "gpu:h100:8", code=1).stderr
  assert "pip install 'jaxgen[aot-gpu]'" in error


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu, of the extra aot")
def test_tpus_compiler_plans_a_tiny_config(tmp_path):
  config = tiny.write(tmp_path)
  assert "2x2, 2x4" in command("inspect", config, "--target", "tpu:v5e:3x5", code=1).stderr
  out = command("inspect", config, "--target", "tpu:v5e:2x2").stdout
  assert "of 16 GiB" in row(out, "memory a device")
  assert "compiler's estimate" in row(out, "seconds a step, work")
  assert "all-reduce over 4" in out


def test_links_are_half_of_what_a_chip_has_in_both_directions():
  """Bytes a second by Google's pages, and devices that jax sees of a chip."""
  pages = {"v5e": (400e9, 1), "v5p": (1200e9, 1), "v6e": (800e9, 1), "tpu7x": (1200e9, 2)}
  assert {name: 2 * each * chips.CHIPS[name].link for name, (_, each) in pages.items()} == {
    name: both for name, (both, _) in pages.items()
  }
