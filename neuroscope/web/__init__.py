"""The interface: a server that shows in a browser what the neurons of a model do."""
