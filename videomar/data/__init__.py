"""Old names of modules, which models registered with version 0.1 import from their stored code."""
