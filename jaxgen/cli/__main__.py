"""`python -m jaxgen.cli` is `jaxgen`."""

from jaxgen.cli import console

console()
