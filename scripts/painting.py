"""The example painting: a river valley under two suns, in thick swirling strokes.

A sketch gives every point a colour and, as the contours of a field ``psi``, a direction; strokes
of ever smaller brushes then cover it, their bristles leaving streaks of colour and relief.
"""

import numpy as np
from drawing import Array, Rng, Size, fbm, finish, grid, mix, ramp, rgb, step
from PIL import Image

PAINTING_SIZE = (768, 608)
TUBES = {
    "ultramarine": "0d175c",
    "cobalt": "1a42ad",
    "cerulean": "1a85b8",
    "turquoise": "66c7c2",
    "cream": "fcf2c2",
    "straw": "ffde66",
    "ochre": "fac233",
    "orange": "ed751a",
    "vermilion": "cc381f",
    "oxblood": "702120",
    "olive": "708f29",
    "pine": "144538",
}
SUMMER, AUTUMN = "ultramarine pine olive ochre", "oxblood vermilion orange ochre cream"
ORCHARD = (  # round trees: centre, radius, leaves
    (0.16, 0.610, 0.035, AUTUMN),
    (0.30, 0.620, 0.030, SUMMER),
    (0.90, 0.620, 0.032, AUTUMN),
    (1.06, 0.625, 0.040, SUMMER),
    (1.20, 0.630, 0.050, AUTUMN),
    (0.13, 0.740, 0.095, AUTUMN),
    (0.43, 0.680, 0.050, SUMMER),
)
RIDGES = (  # height, swell, frequency, folds; each before the last
    (0.53, 0.10, 1.7, "ultramarine cobalt turquoise"),
    (0.59, 0.07, 2.6, "cobalt cerulean olive"),
    (0.64, 0.05, 1.9, "pine olive ochre"),
)
SUNS = ((0.34, 0.23, 0.115, 0.5), (1.03, 0.15, 0.07, 0.5))  # centre, reach, pull
EDDIES = (
    *((0.71, 0.30, 0.10, -0.5), (0.03, 0.42, 0.08, -0.4)),
    *((0.66, 0.06, 0.06, 0.5), (1.16, 0.36, 0.07, -0.5)),
)


def tints(names: str) -> Array:
    """Colours from the tubes, as a scale."""
    return rgb(" ".join(TUBES[name] for name in names.split()))


def blend(t: Array, names: str) -> Array:
    """Look ``t`` in 0..1 up in a scale of colours from the tubes."""
    return ramp(t, tints(names))


def pick(image: Array, points: Array) -> Array:
    """The pixels of ``image`` at, or nearest to, the ``(x, y)`` points."""
    column, row = np.clip(points, 0, (image.shape[1] - 1, image.shape[0] - 1)).astype(int).T
    return image[row, column]


def trails(angle: Array, sketch: Array, start: Array, pace: float, count: int) -> Array:
    """Walk from every start along the brush direction, halting where the sketch changes colour."""
    points, heading = [start], np.zeros_like(start)
    going = np.ones(len(start), np.float32)
    for _ in range(count):
        going *= np.abs(pick(sketch, points[-1]) - pick(sketch, start)).sum(-1) < 0.75
        turn = pick(angle, points[-1])
        move = np.stack([np.cos(turn), np.sin(turn)], -1)
        heading = move * np.where((move * heading).sum(-1) < 0, -1, 1)[:, None]
        points.append(points[-1] + pace * heading * going[:, None])
    return np.stack(points, 1)


def stroke(canvas: Array, trail: Array, radius: float, colours: Array, bristles: Array) -> None:
    """Sweep a brush along the trail, leaving colour and, in the fourth channel, thickness."""
    leg = np.hypot(*np.diff(trail, axis=0).T)
    along = np.arange(0, max(leg.sum(), 2 * radius), 0.7)
    reached = np.concatenate([[0], np.cumsum(leg)])
    spine = np.stack([np.interp(along, reached, c) for c in trail.T])
    way = np.gradient(spine, axis=1) + 1e-9
    way /= np.hypot(*way)
    across = np.arange(-radius, radius, 0.7)[:, None]
    x, y = (spine[0] - way[1] * across).astype(int), (spine[1] + way[0] * across).astype(int)
    side, t, hair = across / radius, along / along[-1], bristles[: len(across), : len(along)]
    alpha = step(0, 0.16, t - 0.10 * side**2 + 0.05 * hair)
    alpha *= step(1.0, 0.72, t + 0.12 * side**2 + 0.3 * hair)
    alpha *= step(1.05, 0.75, np.abs(side) - 0.2 * hair)
    paint = mix(colours[0], colours[1], np.clip(0.5 + 0.5 * side + 0.5 * hair, 0, 1))
    thick = radius * (0.55 + 0.45 * hair + 0.5 * step(0.5, 0.9, np.abs(side)))
    fresh = np.concatenate([paint * (1 + 0.16 * hair[..., None]), thick[..., None]], -1)
    inside = (x >= 0) & (x < canvas.shape[1]) & (y >= 0) & (y < canvas.shape[0])
    spot = (y[inside], x[inside])
    canvas[spot] = mix(canvas[spot], fresh[inside], 0.94 * alpha[inside])


def pigments(base: Array, accents: Array, rng: Rng) -> Array:
    """Two colours for every stroke: the sketch's, shifted in hue and lightness, some far off."""
    shape = (len(base), 2)
    share = np.where(rng.random(shape) < 0.16, rng.uniform(0.15, 0.5, shape), 0)
    colours = mix(base[:, None], accents[rng.integers(len(accents), size=shape)], share)
    colours = colours + rng.normal(0, 0.045, (*shape, 3))
    return (colours * rng.normal(1, 0.13, (*shape, 1))).astype(np.float32)


def paint(sketch: Array, psi: Array, accents: Array, strokes: int, rng: Rng) -> Array:
    """Paint a sketch over in strokes along the contours of ``psi``, and light the thick paint."""
    height, width = psi.shape
    gy, gx = np.gradient(psi)
    x, y = grid((width, height))
    angle = np.arctan2(-gx, gy) + 0.15 * fbm(6 * x, 6 * y, 3, 61)
    bristles = 1.2 * fbm(
        np.arange(4 * height) * 0.011, np.arange(height // 4)[:, None] * 0.36, 3, 62
    )
    canvas = np.concatenate([sketch, np.zeros_like(sketch[..., :1])], -1)
    for brush, share in ((0.030, 0.06), (0.017, 0.17), (0.0105, 0.36), (0.0065, 0.41)):
        count = round(share * strokes)
        start = rng.uniform(-0.03, 1.03, (count, 2)) * (width, height)
        paths = trails(angle, sketch, start, 0.9 * brush * height, 8)
        radii = brush * height * rng.uniform(0.6, 1.2, count)
        colours = pigments(pick(sketch, start), accents, rng)
        for path, radius, pair in zip(paths, radii, colours, strict=True):
            row, column = rng.integers(height // 8), rng.integers(3 * height)
            stroke(canvas, path, radius, pair, bristles[row:, column:])
    slope_y, slope_x = np.gradient(canvas[..., 3])
    light = np.clip(-(slope_x + slope_y) * 0.05, -0.35, 0.35)[..., None]
    return canvas[..., :3] * (1 + light) + 0.25 * np.maximum(light, 0)


def heavens(x: Array, y: Array) -> tuple[Array, Array]:
    """Two ringed suns in a sky of eddies: the colours, and the contours that strokes follow."""
    wobble = fbm(x * 1.8, y * 2.6, 3, 51)
    psi, glow, ring = 0.50 * y + 0.05 * wobble, np.zeros_like(x), np.zeros_like(x)
    for k, (cx, cy, reach, pull) in enumerate(SUNS + EDDIES):
        d = np.hypot(x - cx, y - cy) / reach
        psi += pull * reach * 2.4 * np.exp(-((d / 1.5) ** 1.5))
        if k < len(SUNS):
            glow += 1.2 * np.exp(-(d**1.2) / 1.4)
            ring += np.exp(-d / 1.6) * np.sin(d * 9 + wobble)
    band = (0.5 + 0.5 * np.sin(psi * 78 + wobble)) * step(-0.9, 0.4, fbm(x * 3, y * 3, 2, 65))
    night = "ultramarine ultramarine cobalt cobalt cerulean cerulean turquoise cream"
    fire = blend(glow + 0.22 * ring, "vermilion orange orange ochre ochre straw cream")
    sketch = mix(blend(band, night), fire, 0.95 * step(0.2, 0.45, glow + 0.5 * ring))
    return mix(sketch, "fab36b", step(0.34, 0.6, y) * (0.2 + 0.8 * band)), psi


def valley(x: Array, y: Array) -> tuple[Array, Array]:
    """Under the heavens three ridges, furrowed fields, a river and an orchard."""
    sketch, psi = heavens(x, y)
    for k, (base, swell, rate, colours) in enumerate(RIDGES):
        below = y - base - swell * fbm(x * rate + 9 * k, 0, 3, 52 + k)
        fold = below + 0.05 * fbm(x * 5, y * 5, 2, 56 + k)
        sketch = mix(sketch, blend(0.5 + 0.5 * np.sin(fold * 95), colours), below > 0)
        psi = np.where(below > 0, fold, psi)
    near = y - 0.675 - 0.02 * np.sin(x * 5)
    bend = 0.25 * np.sin(near * 11) * near
    ray = np.arctan2(x - 0.72 - bend, near + 0.06) + 0.08 * fbm(x * 3, y * 4, 2, 60)
    furrows = blend((ray * 3.2) % 1, "oxblood orange ochre cream olive pine")
    sketch = mix(sketch, furrows, near > 0)
    bank = np.abs(x - 0.70 - 2.2 * bend) - 0.012 - 0.42 * np.maximum(near, 0) ** 1.4
    wave = y + 0.012 * np.sin(x * 22 + 5 * fbm(x * 4, y * 9, 2, 63))
    river = (near > 0) & (bank < 0)
    ripples = blend(0.5 + 0.5 * np.sin(wave * 130), "cobalt cerulean turquoise cream")
    sketch = mix(sketch, ripples, river)
    psi = np.where(river, wave, np.where(near > 0, 0.3 * ray, psi))
    for cx, cy, r, colours in ORCHARD:
        dx, dy = (x - cx) / r, (y - cy) / r
        d = np.hypot(dx, dy) * (1 + 0.2 * fbm(dx * 1.5 + cx * 9, dy * 1.5, 2, 64))
        trunk = (np.abs(dx + 0.1 * np.sin(dy * 4)) < 0.11) & (dy > 0) & (dy < 1.7)
        sketch = mix(sketch, TUBES["ultramarine"], trunk | (np.hypot(dx - 0.9, (dy - 1.7) * 4) < 1))
        light = 0.5 - 0.3 * dx - 0.35 * dy + 0.22 * np.sin(d * 11)
        sketch = mix(sketch, blend(light, colours), d < 1)
        psi = np.where(d < 1, d * r, np.where(trunk, x, psi))
    return sketch, psi


def draw_painting(size: Size = PAINTING_SIZE, strokes: int = 18_000) -> Image.Image:
    """Draw the painting: the valley, painted over in strokes."""
    rng = np.random.default_rng(3)
    sketch, psi = valley(*grid((2 * size[0], 2 * size[1])))
    accents = tints("ultramarine cerulean cream orange vermilion")
    return finish(paint(sketch, psi, accents, strokes, rng), size)
