"""How important every neuron is, by each scorer."""
