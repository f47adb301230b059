"""What a config or a run is made of, and what its training costs, before anything is allocated."""

from jaxgen.inspection.costs import device_bytes, flops, least_sent, nbytes, print_rows, show, work_bytes
