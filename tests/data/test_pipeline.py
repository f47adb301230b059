import threading
import time

import numpy as np
import pytest

from jaxgen.data import pipeline, sources
from jaxgen.data.pipeline import Stream, batch_at, in_order, prefetch


@pytest.fixture
def numbers():
  """Example i is the number i."""
  return sources.Arrays(
    {"image": np.arange(10, dtype=np.uint8)[:, None, None, None], "label": np.arange(10, dtype=np.int32)}
  )


def decoded(source):
  """The same examples, decoded one by one in an order of their own speed."""

  def read(indices):
    time.sleep(0.001 * (indices[0] % 3))
    return [source[i] for i in indices]

  return sources.Decoded(len(source), read)


def equal(a, b):
  assert set(a) == set(b)
  for name in a:
    np.testing.assert_array_equal(a[name], b[name], strict=True)


def test_order_never_changes():
  """Numbers written down once: a run resumed with another NumPy must read on in the same order."""
  assert pipeline.permutation(10, 0, 0).tolist() == [0, 2, 9, 1, 8, 5, 4, 3, 6, 7]
  assert pipeline.permutation(10, 0, 1).tolist() == [5, 3, 7, 8, 2, 4, 1, 0, 6, 9]
  assert pipeline.permutation(10, 7, 0).tolist() == [8, 4, 1, 6, 3, 2, 7, 5, 9, 0]


def test_every_epoch_has_every_example_once_and_batches_run_across_their_ends(numbers):
  labels = np.concatenate([batch_at(numbers, 3, k, 4)["label"] for k in range(25)]).reshape(10, 10)
  np.testing.assert_array_equal(np.sort(labels, 1), np.broadcast_to(np.arange(10), (10, 10)))
  assert len({tuple(epoch) for epoch in labels}) == 10  # no two epochs alike


def test_orders_are_uniform():
  """Over many epochs each example stands at each place equally often: chi-squared with 81 degrees of freedom."""
  orders = np.stack([pipeline.permutation(10, 5, epoch) for epoch in range(4_000)])
  counts = np.stack([np.bincount(orders[:, place], minlength=10) for place in range(10)])
  assert 40 < ((counts - 400) ** 2 / 400).sum() < 140  # the middle 0.9999 of that distribution


@pytest.mark.parametrize("seed", [0, -1, 2**64 - 1])
def test_any_seed(numbers, seed):
  assert set(batch_at(numbers, seed, 0, 10)["label"]) == set(range(10))


def test_a_batch_may_be_larger_than_the_data(numbers):
  labels = batch_at(numbers, 0, 1, 25)["label"]  # positions 25 to 49: half an epoch and two whole ones
  for epoch in (labels[5:15], labels[15:]):
    assert sorted(epoch) == list(range(10))
  assert len(set(labels[:5])) == 5


@pytest.mark.parametrize("wrap", [lambda source: source, decoded], ids=["memory", "grain"])
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_any_number_of_processes_reads_the_same_global_batches(numbers, wrap, processes):
  """Together the processes read batches of 8 of ten examples, epoch ends within."""
  streams = [Stream(wrap(numbers), 2, 8, rows) for rows in np.split(np.arange(8, dtype=np.int32), processes)]
  parts = [stream.take(3, 6) for stream in streams]
  for stream in streams:
    stream.close()
  together = {name: np.concatenate([part[name] for part in parts], 1) for name in parts[0]}
  assert together["image"].shape == (6, 8, 1, 1, 1)
  assert together["image"].dtype == np.uint8
  np.testing.assert_array_equal(together["index"], np.broadcast_to(np.arange(8, dtype=np.int32), (6, 8)), strict=True)
  order = np.concatenate([pipeline.permutation(10, 2, epoch) for epoch in range(8)])
  np.testing.assert_array_equal(together["label"], order[24:72].reshape(6, 8))
  np.testing.assert_array_equal(together["image"][..., 0, 0, 0], together["label"])
  for k in range(6):
    equal(batch_at(wrap(numbers), 2, 3 + k, 8), {name: array[k] for name, array in together.items()})


@pytest.mark.parametrize("wrap", [lambda source: source, decoded], ids=["memory", "grain"])
def test_cutting_a_stream_anywhere_changes_nothing(numbers, wrap):
  whole = Stream(numbers, 0, 4).take(0, 12)
  stream = Stream(wrap(numbers), 0, 4)
  for start, count in ((0, 5), (5, 1), (6, 6), (2, 3), (11, 1), (0, 12)):  # forward, and back
    equal(stream.take(start, count), {name: array[start : start + count] for name, array in whole.items()})
  stream.close()


def test_a_closed_stream_leaves_no_thread_and_can_be_used_again(numbers):
  before = set(threading.enumerate())
  stream = Stream(decoded(numbers), 0, 4)
  first = stream.take(0, 2)
  started = set(threading.enumerate()) - before
  assert started
  stream.close()
  stream.close()
  for thread in started:
    thread.join(5)
    assert not thread.is_alive()
  equal(stream.take(0, 2), first)
  stream.close()


def test_an_error_of_the_source_reaches_the_reader():
  def read(indices):
    raise OSError("the disk is gone")

  stream = Stream(sources.Decoded(10, read), 0, 4)
  with pytest.raises(OSError, match="the disk is gone"):
    stream.take(0, 1)
  stream.close()


def test_prefetch_keeps_the_order_and_runs_ahead():
  done = []

  def work(i):
    done.append(i)
    return i * i

  with prefetch(work, range(100), depth=3) as results:
    assert next(results) == 0
    deadline = time.monotonic() + 5
    while len(done) < 5 and time.monotonic() < deadline:
      time.sleep(0.01)
    time.sleep(0.05)
    assert len(done) == 5  # the one taken, three waiting, and one more at the door
    assert list(results) == [i * i for i in range(1, 100)]


@pytest.mark.parametrize(("making", "using", "least", "most"), [(0.05, 0.0, 0.2, 2.0), (0.0, 0.05, 0.0, 0.15)])
def test_prefetch_says_how_long_was_waited_for_it(making, using, least, most):
  with prefetch(lambda i: time.sleep(making), range(6)) as results:
    for _ in results:
      time.sleep(using)
  assert least < results.waited < most


def test_prefetch_raises_where_the_result_was_due():
  def work(i):
    if i == 2:
      raise OSError("example 2 is unreadable")
    return i

  results = prefetch(work, range(5))
  assert [next(results), next(results)] == [0, 1]
  with pytest.raises(OSError, match="example 2"):
    next(results)
  with pytest.raises(StopIteration):
    next(results)


def test_prefetch_closes_while_its_thread_waits():
  results = prefetch(lambda i: i, iter(int, 1), depth=1)  # without end
  next(results)
  thread = results._thread
  results.close()
  assert not thread.is_alive()


@pytest.mark.parametrize("processes", [1, 2])
def test_in_order_is_the_whole_split_and_says_what_is_padding(numbers, processes):
  batches = [list(in_order(numbers, 4, rows)) for rows in np.split(np.arange(4, dtype=np.int32), processes)]
  assert [count for _, count in batches[0]] == [4, 4, 2]
  together = [
    {name: np.concatenate([batch[name] for batch in parts]) for name in parts[0]}
    for parts in ([batch for batch, _ in row] for row in zip(*batches, strict=True))
  ]
  np.testing.assert_array_equal(np.concatenate([b["label"] for b in together]), [*range(10), 9, 9])
  for batch in together:
    np.testing.assert_array_equal(batch["index"], batch["label"])
    assert batch["index"].dtype == np.int32
