"""How information evolves through the layers of one or more models."""
