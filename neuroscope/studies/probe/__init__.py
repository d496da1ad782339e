"""Probes: what every neuron does at a few prompts typed by hand, and sessions that keep it."""
