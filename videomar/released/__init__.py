"""The weights that the authors of VideoMAR released, as a checkpoint of ours."""
