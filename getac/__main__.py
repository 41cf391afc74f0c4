"""`python -m getac`."""

from getac.cli import main

main()
