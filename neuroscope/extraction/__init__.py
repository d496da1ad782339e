"""From prompts to activations: finds, loads and runs models. The only part that uses torch."""
