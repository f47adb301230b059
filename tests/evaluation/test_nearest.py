"""Nearest neighbours against scipy's distances."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from jaxgen.evaluation.nearest import nearest


def test_equals_brute_force_over_chunks():
  rng = np.random.default_rng(0)
  queries = rng.uniform(-1, 1, (7, 4, 5, 3)).astype(np.float32)
  examples = rng.uniform(-1, 1, (40, 4, 5, 3)).astype(np.float32)
  found = nearest(queries, [examples[:13], examples[13:14], examples[14:]])
  distances = cdist(queries.reshape(7, -1), examples.reshape(40, -1))
  np.testing.assert_array_equal(found.index, distances.argmin(1))
  np.testing.assert_allclose(found.distance, distances.min(1), rtol=1e-12)
  np.testing.assert_array_equal(found.image, examples[found.index])


def test_a_copy_is_at_exactly_zero_and_a_near_copy_keeps_its_digits():
  rng = np.random.default_rng(1)
  examples = rng.uniform(-1, 1, (50, 8, 8, 1)).astype(np.float32)
  assert nearest(examples[17:18], [examples]).distance[0] == 0
  close = examples[17:18].astype(np.float64)
  close[0, 0, 0, 0] += 1e-6
  found = nearest(close, [examples.astype(np.float64)])
  assert found.index[0] == 17
  assert found.distance[0] == pytest.approx(1e-6, rel=1e-6)


def test_nothing_to_search():
  with pytest.raises(ValueError, match="no examples"):
    nearest(np.zeros((1, 2, 2, 1), np.float32), [])
