"""Statistics of arrays of activations, independent of models, files and servers."""
