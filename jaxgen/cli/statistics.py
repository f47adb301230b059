"""jaxgen statistics DATA: mean and covariance of a data set's features, in the format of pytorch-fid."""

import pathlib

from jaxgen.cli.evaluate import SPACE, folder_name
from jaxgen.cli.options import check_out, option, parse
from jaxgen.core.cache import cache_folder
from jaxgen.core.errors import UserError
from jaxgen.evaluation import moments
from jaxgen.judging import of_subject, open_space
from jaxgen.judging.features import Features
from jaxgen.judging.spaces import JUDGE, check_space


def statistics(subject: str, words: list[str]) -> None:
  options, _ = parse(
    f"statistics {subject}",
    words,
    {
      **SPACE,
      "split": option(str | None, "the data set's split (train)", None),
      "resume": option(bool, "continue from what the same command computed before it was killed", False),
      "out": option(pathlib.Path | None, "the .npz with mu and sigma to write (statistics_SPACE.npz)", None),
    },
    "Compute mean and covariance of a data set's features, for `jaxgen evaluate ... --against FILE.npz` and "
    "other programs.",
  )
  out = options["out"] or pathlib.Path(f"statistics_{options['space']}.npz")
  if out.suffix != ".npz":
    raise UserError(f"--out {out}: the file's name must end in .npz")
  check_out(out)
  check_space(options["space"])
  if options["space"] == JUDGE:
    raise UserError(
      f"statistics need the features of a published network, and {JUDGE!r} is not one: choose another --space"
    )
  pictures, space = of_subject(subject, options["split"]), open_space(options["space"], options["weights"])
  if pictures.n < 2:
    raise UserError(f"a covariance needs 2 pictures or more, and {subject} has {pictures.n}")
  found = Features(cache_folder() / "judged" / folder_name(pictures, pictures, space) / "reference", pictures, space)
  found.compute(options["resume"])
  total = moments.sum_of(found.chunks())
  moments.write(out, total, features=space.name, weights=space.content, data=pictures.name)
  print(f"{out}  mean and covariance of {space.width:,} features of {total.n:,} pictures")
