"""The steps of each study, in order, written once; they bring the other parts together."""
