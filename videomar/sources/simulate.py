"""Simulated clips: one body that moves by the laws of mechanics; the caption describes body, way and speed.

One picture and the caption determine the clip, so the effect of a prompt can be measured. pymunk computes the
motion, OpenCV the pixels, ffmpeg writes the files: they pass through the same decoder as a user's videos.

Axes: F frames, H W rows and columns in pixels.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pymunk
from numpy.typing import NDArray
from tqdm import tqdm

from videomar.config import SamplesParams
from videomar.media.mp4 import encode

FPS = 8
CLIP_FRAMES = 17
SHAPES = ("circle", "square", "triangle", "diamond")
COLOURS = {
    "red": (225, 45, 45),
    "green": (50, 190, 70),
    "blue": (60, 90, 230),
    "yellow": (240, 215, 50),
    "white": (245, 245, 245),
    "orange": (245, 140, 35),
}
BACKGROUNDS = {
    "black": (15, 15, 18),
    "grey": (105, 105, 110),
    "purple": (85, 40, 105),
    "teal": (20, 95, 100),
    "brown": (95, 62, 38),
}
PATTERNS = ("plain", "shaded", "striped")
DIRECTIONS = {
    "right": (1, 0),
    "left": (-1, 0),
    "down": (0, 1),
    "up": (0, -1),
    "down and right": (1, 1),
    "down and left": (-1, 1),
    "up and right": (1, -1),
    "up and left": (-1, -1),
}
# Way of a free body in one clip, as a share of the picture's height.
SPEEDS = {"slowly": 0.25, "quickly": 0.5}
MOTIONS = {"moves": 0.5, "bounces": 0.3, "falls": 0.2}
# Share of bodies that move or fall up to a wall and go on by the laws there, as they do in longer clips.
_REACH_A_WALL = 0.5
_DURATION_S = (CLIP_FRAMES - 1) / FPS
_SIMULATION_STEPS_PER_FRAME = 30
_TICK_S = 1e-3


@dataclass(frozen=True, slots=True)
class Scene:
    """Parameters of one simulated clip. Lengths are shares of the picture's height, y points down."""

    shape: str
    colour: str
    background: str
    pattern: str
    motion: str
    direction: str
    speed: str
    radius: float
    start: tuple[float, float]

    @property
    def caption(self) -> str:
        """What moves, where to and how fast; the picture shows the start."""
        way = "falls down" if self.motion == "falls" else f"{self.motion} {self.direction}"
        return f"a {self.colour} {self.shape} {way} {self.speed}, {self.pattern} {self.background} background"


def draw_scene(rng: np.random.Generator) -> Scene:
    """Draw a random scene. A body that `bounces` would leave the picture without the walls.

    Of those that move or fall, half stay inside, and half reach a wall, too: what moves comes back from it,
    what falls stays on the ground. A model that has never seen that loses them in longer clips.
    """
    motion = str(rng.choice(list(MOTIONS), p=list(MOTIONS.values())))
    direction = "down" if motion == "falls" else str(rng.choice(list(DIRECTIONS)))
    speed = str(rng.choice(list(SPEEDS)))
    radius = float(rng.uniform(0.17, 0.23))
    way = _unit(direction) * SPEEDS[speed]
    low, high = np.full(2, radius), np.full(2, 1 - radius)
    if motion == "bounces" or rng.random() < _REACH_A_WALL:
        # Start so near the wall ahead that a quarter to three quarters of the way would be behind it; what
        # falls needs more room, for a clip that lies still for half of its time is not kept.
        start = rng.uniform(low, high)
        axis = int(rng.choice(np.flatnonzero(way)))
        room = abs(way[axis]) * rng.uniform(0.35 if motion == "falls" else 0.25, 0.75)
        start[axis] = high[axis] - room if way[axis] > 0 else low[axis] + room
    else:
        start = rng.uniform(np.maximum(low, low - way), np.minimum(high, high - way))
    return Scene(
        shape=str(rng.choice(SHAPES)),
        colour=str(rng.choice(list(COLOURS))),
        background=str(rng.choice(list(BACKGROUNDS))),
        pattern=str(rng.choice(PATTERNS)),
        motion=motion,
        direction=direction,
        speed=speed,
        radius=radius,
        start=(float(start[0]), float(start[1])),
    )


def simulate_path(scene: Scene, num_frames: int = CLIP_FRAMES) -> NDArray[np.float64]:
    """Return the centre of the body in every frame, (F, 2) as x, y in shares of the picture.

    A longer path begins with the shorter one, bit by bit: after the clip the world goes on by the same laws.
    """
    space = pymunk.Space()
    body = pymunk.Body(mass=1.0, moment=float("inf"))
    body.position = scene.start
    bounce = 0.0 if scene.motion == "falls" else 1.0
    # All shapes collide as their circle: the direction must not depend on which corner hits first.
    circle = pymunk.Circle(body, scene.radius)
    circle.elasticity = bounce
    space.add(body, circle, *_walls(space.static_body, bounce))
    if scene.motion == "falls":
        space.gravity = (0.0, 2 * SPEEDS[scene.speed] / _DURATION_S**2)
    else:
        velocity = _unit(scene.direction) * SPEEDS[scene.speed] / _DURATION_S
        body.velocity = (float(velocity[0]), float(velocity[1]))
    path = [scene.start]
    for _ in range(num_frames - 1):
        for _ in range(_SIMULATION_STEPS_PER_FRAME):
            space.step(1 / FPS / _SIMULATION_STEPS_PER_FRAME)
        path.append((body.position.x, body.position.y))
    return np.array(path)


def render(scene: Scene, size_px: int, num_frames: int = CLIP_FRAMES) -> NDArray[np.uint8]:
    """Return the clip of a scene, (F, H, W, 3)."""
    background = _background(scene, size_px)
    path = simulate_path(scene, num_frames)
    return np.stack([_draw_body(background.copy(), scene, centre) for centre in path])


def scene_of(video: Path, start_s: float) -> tuple[Scene, int] | None:
    """The scene that a simulated video shows at a time, and how many of its frames are over by then.

    None where the file beside the video names none: a video of another source, or from before scenes were
    written, or whose file was edited to something that is no scene.
    """
    try:
        spans = json.loads(video.with_suffix(".json").read_text("utf-8"))["clips"]
        for span in spans:
            if span["start_s"] - _TICK_S <= start_s < span["end_s"] - _TICK_S:
                return _read_scene(span["scene"]), round((start_s - span["start_s"]) * FPS)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _read_scene(values: dict[str, Any]) -> Scene:
    """Restore a scene; ValueError, TypeError or KeyError where it is none."""
    x, y = (float(value) for value in values["start"])
    scene = Scene(**{**values, "start": (x, y), "radius": float(values["radius"])})
    known = (
        (scene.shape, SHAPES), (scene.colour, COLOURS), (scene.background, BACKGROUNDS),
        (scene.pattern, PATTERNS), (scene.motion, MOTIONS), (scene.direction, DIRECTIONS),
        (scene.speed, SPEEDS),
    )  # fmt: skip
    places = (x - scene.radius, y - scene.radius, 1 - x - scene.radius, 1 - y - scene.radius, scene.radius)
    if not all(value in names for value, names in known) or not min(places) >= -_TICK_S:
        raise ValueError("no scene")
    return scene


def draw_simulated(out: Path, params: SamplesParams, program: Path) -> int:
    """Write `simulated/sim_NNNN.mp4`, each with a JSON file of captions; return the number of clips.

    `program` is the ffmpeg that encodes them.
    """
    folder = out / "simulated"
    folder.mkdir(parents=True, exist_ok=True)
    for index in tqdm(
        range(params.simulated_videos), desc="drawing simulated videos", unit="video", disable=None
    ):
        # One generator per file: the first videos are the same however many there are.
        rng = np.random.default_rng([params.seed, index])
        scenes = [draw_scene(rng) for _ in range(params.clips_per_video)]
        _write_video(folder / f"sim_{index:04d}.mp4", scenes, params.simulated_size_px, program)
    return params.simulated_videos * params.clips_per_video


def _write_video(path: Path, scenes: list[Scene], size_px: int, program: Path) -> None:
    frames = np.concatenate([render(scene, size_px) for scene in scenes])
    spans = [
        {
            "start_s": i * CLIP_FRAMES / FPS,
            "end_s": (i + 1) * CLIP_FRAMES / FPS,
            "caption": scene.caption,
            "scene": asdict(scene),
        }
        for i, scene in enumerate(scenes)
    ]
    encode(path, frames, FPS, program, crf=10, preset="veryfast")
    path.with_suffix(".json").write_text(json.dumps({"clips": spans}, indent=1), "utf-8")


def _unit(direction: str) -> NDArray[np.float64]:
    vector = np.array(DIRECTIONS[direction], dtype=np.float64)
    return vector / np.linalg.norm(vector)


def _walls(body: pymunk.Body, elasticity: float) -> list[pymunk.Segment]:
    """Four walls just outside the picture, thick enough that nothing tunnels through."""
    thickness = 1.0
    near, far = -thickness, 1.0 + thickness
    corners = [(near, near), (far, near), (far, far), (near, far)]
    walls = [pymunk.Segment(body, corners[i], corners[(i + 1) % 4], thickness) for i in range(4)]
    for wall in walls:
        wall.elasticity = elasticity
    return walls


def _background(scene: Scene, size_px: int) -> NDArray[np.uint8]:
    colour = np.array(BACKGROUNDS[scene.background], dtype=np.float64)
    rows = np.linspace(0, 1, size_px)[:, None, None]
    if scene.pattern == "shaded":
        shade = 0.7 + 0.6 * rows
    elif scene.pattern == "striped":
        shade = np.where(np.floor(rows * 4) % 2 == 0, 0.8, 1.25)
    else:
        shade = np.ones_like(rows)
    return np.broadcast_to((colour * shade).clip(0, 255), (size_px, size_px, 3)).astype(np.uint8)


def _draw_body(frame: NDArray[np.uint8], scene: Scene, centre: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Draw the body with anti-aliased edges at a sub-pixel position."""
    bits = 6  # OpenCV takes fixed-point coordinates with this many fractional bits
    scale = frame.shape[0] * 2**bits
    x, y, radius = centre[0] * scale, centre[1] * scale, scene.radius * scale
    if scene.shape == "circle":
        cv2.circle(frame, (round(x), round(y)), round(radius), COLOURS[scene.colour], -1, cv2.LINE_AA, bits)
        return frame
    corners, turn = {"square": (4, 45), "triangle": (3, -90), "diamond": (4, 0)}[scene.shape]
    angles = np.deg2rad(turn + 360 / corners * np.arange(corners))
    points = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1)
    cv2.fillPoly(frame, [points.round().astype(np.int32)], COLOURS[scene.colour], cv2.LINE_AA, bits)
    return frame
