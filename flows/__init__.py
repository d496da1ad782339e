"""What runs neuroscope: the command line, Prefect flows, the servers. Imports it, never the reverse."""
