"""Judging samples as papers do: pictures -> features of a named network, kept chunk by chunk -> numbers.

    space = spaces.open_space("inception_tf1", "inception.safetensors")
    numbers = judge(of_run(run, 50_000), of_data(run.data, "train"), space, ("fid", "prdc"), folder)

`pictures` says what is judged, `spaces` in which features (network and preprocessing), `features` keeps those of each
chunk so that a kill loses no more than one, and `numbers` computes and names what `evaluation` has formulas for.
"""

from jaxgen.judging.numbers import METRICS, judge
from jaxgen.judging.pictures import Pictures, of_data, of_run, of_subject
from jaxgen.judging.spaces import SPACES, Space, open_space, trained_space
