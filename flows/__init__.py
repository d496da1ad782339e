"""Command line, Prefect flows and servers. They import neuroscope, never the reverse."""
