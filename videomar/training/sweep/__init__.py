"""Training runs side by side, of which the best becomes the candidate.

In a folder of its own, since nothing here changes what a step does: see `identity.code_hash`.
"""
