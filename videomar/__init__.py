"""VideoMAR: image-to-video with continuous tokens, from raw clips to a promoted model.

import videomar

model = videomar.load("champion")  # an alias, a version's number, a model folder, or OWNER/NAME on a hub
clip = model(picture, prompt="...", frames=33, seed=0)  # picture (H, W, 3) or path -> uint8 (F, H, W, 3)
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from videomar.errors import VideomarError as VideomarError
    from videomar.hub.find import load as load
    from videomar.sampling.generate import ClipGenerator as ClipGenerator

__version__ = "0.1.0"
__all__ = ["ClipGenerator", "VideomarError", "__version__", "load"]
# Imported when first used, so that `import videomar` is instant and needs no other package.
_HOMES = {
    "ClipGenerator": "videomar.sampling.generate",
    "VideomarError": "videomar.errors",
    "load": "videomar.hub.find",
}


def __getattr__(name: str) -> object:
    """Import a public name."""
    if name not in _HOMES:
        raise AttributeError(f"module 'videomar' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return sorted({*globals(), *__all__})
