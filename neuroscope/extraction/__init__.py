"""From prompts to activations: finds, loads and reads models. The only part that uses torch."""
