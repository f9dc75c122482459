"""Load scenarios of whole processes, streamrt beside its peers: ``python -m benchmarks.load``."""
