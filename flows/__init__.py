"""What runs neuroscope: command line, Prefect flows, servers. Imports it, never the reverse."""
