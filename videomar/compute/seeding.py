"""Random generators, derived from (seed, step, rank): a run has no generator state to save."""

import torch


def step_generator(
    seed: int, step: int, rank: int = 0, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Return a generator that depends on its arguments alone: a resumed run draws what an unbroken one draws.

    Source: EDM2 (arXiv 2312.02696), which seeds each step by its number; ours hashes seed, step and rank.
    """
    generator = torch.Generator(device)
    # Odd multipliers spread (seed, step, rank) over 63 bits; neighbours in one argument end up far apart.
    mixed = seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + rank * 0x94D049BB133111EB
    mixed ^= mixed >> 31
    generator.manual_seed((mixed * 0xD6E8FEB86659FD93) & 0x7FFF_FFFF_FFFF_FFFF)
    return generator


def on_host(generator: torch.Generator) -> torch.Generator:
    """Return a generator of the host with the seed of one of another device; one of the host itself.

    What decides the shapes of a step is drawn with it: a device would have to be waited for.
    """
    if generator.device.type == "cpu":
        return generator
    return torch.Generator().manual_seed(generator.initial_seed())
