"""A small latent cache on disk."""

import numpy as np

from videomar.latents.shards import write_shards


def write_cache(folder, clips=12, moments=False):
    rng, other = np.random.default_rng(0), np.random.default_rng(1)
    rows = [
        {
            "clip_id": f"clip{number:03d}",
            "key": f"key{number}",
            "text_key": "t",
            "shape": [4, 3, 2, 2],
            "dtype": "float16",
            "latents": rng.standard_normal((4, 3, 2, 2)).astype("float16").tobytes(),
            "latents_std": other.uniform(0.1, 2, (4, 3, 2, 2)).astype("float16").tobytes()
            if moments
            else None,
            "text": rng.standard_normal((2, 6)).astype("float16").tobytes(),
            "text_shape": [2, 6],
            "caption": "a clip",
            "group": "simulated" if number % 3 else "real",
            "split": "train",
            "fps": 8.0,
            "motion": float(number),
            "size_px": 32,
            "view": 0,
        }
        for number in range(clips)
    ]
    write_shards(folder, rows, 100)
    return folder
