"""Statistics over arrays of activations; knows nothing of models, files or servers."""
