"""How good a model is: metrics, the suite and the gate. Starts from files, never from training."""
