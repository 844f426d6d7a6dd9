"""Captions of videos: where people keep them, which video each is for, and what is not used."""
