"""Study of neurons and topics: a database of what each neuron of a model responds to."""
