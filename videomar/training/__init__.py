"""Training of the model: one plain loop, and what starts, shards, resumes and compares runs."""
