"""The cost of the next run: measured on this machine, or by formulas for GPUs that are not there."""
