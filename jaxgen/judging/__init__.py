"""The metrics of papers: pictures -> features of a named network, stored in chunks -> numbers.

    space = spaces.open_space("inception_tf1", "inception.safetensors")
    numbers = judge(of_run(run, 50_000), of_data(run.data, "train"), space, ("fid", "prdc"), folder)

`pictures` has the sets of pictures, `spaces` the feature spaces (network and preprocessing). `features` stores the
features of each chunk, so that a kill loses at most one chunk. `numbers` computes the metrics by the formulas in
`evaluation` and names them.
"""

from jaxgen.judging.numbers import METRICS, judge
from jaxgen.judging.pictures import Pictures, of_data, of_run, of_subject
from jaxgen.judging.spaces import SPACES, Space, open_space, trained_space
