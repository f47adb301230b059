"""The sizes of a config or a run and the costs of its training, before anything is allocated."""

from jaxgen.inspection.costs import device_bytes, least_sent, nbytes, print_rows, show, work_bytes
