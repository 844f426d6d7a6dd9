"""Training runs side by side, of which the best becomes the candidate.

Nothing here changes what a step of a run does.
"""
