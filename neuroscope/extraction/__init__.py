"""Loading of models and extraction of activations. The only part that uses torch."""
