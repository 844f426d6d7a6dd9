"""How good a model is: figures, the gate and the report. Starts from files, never from training."""
