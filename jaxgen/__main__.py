"""`python -m jaxgen` is `jaxgen`."""

from jaxgen.cli import console

console()
