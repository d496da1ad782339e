"""Entry point of `python -m neuroscope`, which is the command line."""

from flows.cli import main

main()
