"""``python -m streamrt.cli``."""

from . import main

main()
