"""Draw the two example pictures: ``python scripts/draw_examples.py [FOLDER]``.

``photo.jpg`` is a lakeside town at dusk and ``painting.jpg`` a river valley under two suns. Both
come from seeded noise, geometry and brush strokes alone, so that they belong to nobody. They
are drawn at twice their size, in the units of ``drawing.py``, and reduced at the end.
"""

import argparse
import math
from pathlib import Path

import numpy as np
from drawing import Array, Layer, Rng, Size, blur, fbm, finish, grid, mix, ramp, rgb, step
from painting import draw_painting
from PIL import Image

PHOTO_SIZE = (768, 512)
SHORE, CAPE = 0.635, 0.715  # the waterlines of the town and of the lighthouse's headland
LAMP = (1.13, CAPE - 0.465)  # the lighthouse's lantern
LIT, SHADE = "ffc65c", rgb("6b7096")  # lamplight; what the evening leaves of a colour


def sky(x: Array, y: Array) -> Array:
    """The evening gradient, brightest at the lower left, under a sheet of lit clouds."""
    up = np.clip(y / SHORE, 0, 1)
    image = ramp(up, "1b2c5a 3a5088 7a7a9e c99a90 f5b67c ffc777")
    glow = np.exp(-(((x - 0.3) / 0.6) ** 2) - ((y - SHORE) / 0.34) ** 2)
    image = mix(image, "ffd286", 0.7 * glow)
    far = 0.16 / (SHORE + 0.06 - np.minimum(y, SHORE))  # clouds lie on a plane overhead
    u, v = (x - 0.75) * far * 5, far * 8
    warp = 0.6 * fbm(u * 0.7, v * 0.7, 3, 4)
    density, toward = (fbm(u + k * 0.10 + warp, v - k * 0.14, 7, 3) for k in (0, -1))
    lit = step(0, 1, (density - toward) * 1.7 + 0.5)
    clouds = mix(ramp(up, "45456a 6d6480 a06c78"), ramp(up, "e8a9a0 ffb98c ffc078"), lit)
    return mix(image, clouds, 0.85 * step(-0.08, 0.42, density) * step(0, 0.1, SHORE - y))


def mountains(image: Array) -> Array:
    """Cast a ray per pixel at a mountainous height field with shadows, snow and haze."""
    height, width = image.shape[:2]
    focal, z = 1.5, np.geomspace(9, 60, 900, dtype=np.float32)[:, None]
    s = grid((width, height))[0][:1] - width / height / 2
    x = s * z / focal
    land = 0.03 + 0.6 * (0.6 + fbm(x * 0.3, z * 0.3, 7, 12)) * step(9, 13, z)
    land += 6.0 * step(14, 42, z) * (fbm(x * 0.05 + 4.3, z * 0.05, 9, 11, ridged=True) - 0.42)
    dx = np.gradient(land, axis=1) / (z / focal / height)
    dz = np.gradient(land, axis=0) / np.gradient(z, axis=0) - dx * s / focal
    upright = 1 / np.sqrt(1 + dx**2 + dz**2)
    sun = np.clip((0.80 * dx + 0.46 * dz + 0.38) * upright, 0, 1)
    sun *= step(0.35, 0.0, np.maximum.accumulate(land + 0.4 * x, axis=1) - 0.4 * x - land)
    rough = fbm(x * 2.2, z * 2.2, 4, 13)
    woods, rock = ramp(rough + 0.5, "14211a 384020"), ramp(rough + 0.5, "544a4c 857366")
    ground = mix(woods, rock, step(1.2, 2.4, land + rough))
    ground = mix(ground, "f0f0ff", step(3.6, 4.8, land + 0.9 * rough + 2 * upright - 1))
    ground *= rgb("56608c") + sun[..., None] * (1.22, 0.74, 0.44)
    haze = 0.95 * (1 - np.exp(-(z - 8) / 34)) * np.exp(-np.maximum(land, 0) / 9)
    ground = mix(ground, ramp(s + 0.5, "e0a890 b09aa8 8f88a8"), haze)
    horizon = np.maximum.accumulate(focal * land / z, axis=0)
    rise = SHORE - grid((width, height))[1][:, 0]
    for column in range(width):
        hit = np.searchsorted(horizon[:, column], rise)
        seen = (hit < len(z)) & (rise > 0)
        image[seen, column] = ground[hit[seen], column]
    return image


def house(layer: Layer, x: float, y: float, w: float, wall: Array, rng: Rng) -> None:
    """A house from its corner: a lit gable, a shaded side, a roof, a chimney, windows."""
    top = y - w * rng.uniform(0.8, 1.3)
    roof = rgb(rng.choice(["85402c", "60403e", "74483a"]))
    (ridge, eave), back = np.array([(x + w / 2, top - 0.6 * w), (x + w, top)]), (1.1 * w, 0)
    layer.box(x + 1.5 * w, top - 0.75 * w, x + 1.65 * w, top, wall * 0.6)
    layer.box(x + w, top, x + 2.1 * w, y, wall * SHADE)
    layer.poly([(x, y), (x, top), ridge, eave, (x + w, y)], wall)
    layer.poly([ridge, ridge + back, eave + back, eave], roof)
    layer.poly([ridge, (x - 0.08 * w, top + 0.08 * w), (x, top + 0.1 * w), ridge], roof * 0.5)
    for i, floor in np.ndindex(5, 2):
        a = x + w * (0.18, 0.60, 1.18, 1.50, 1.82)[i]
        b = y + (top - y) * (0.36 + 0.46 * floor)
        layer.box(a, b - 0.22 * w, a + 0.18 * w, b, LIT if rng.random() < 0.55 else "2a2c3e")


def tree(layer: Layer, x: float, y: float, h: float, rng: Rng) -> None:
    """A tree: clumps of leaves lit from the upper left."""
    slim = rng.choice([0.16, 0.34, 0.4])
    layer.box(x - h * 0.025, y - h * 0.5, x + h * 0.025, y, "1f1714")
    reach, around = np.sqrt(rng.random(330)), rng.uniform(0, 2 * np.pi, 330)
    dx, dy = reach * np.cos(around), reach * np.sin(around)
    light = 0.5 - 0.45 * dx - 0.5 * dy + rng.normal(0, 0.18, 330)
    spots = np.stack([x + dx * h * slim, y - h * 0.56 + dy * h * 0.44], -1)
    turn = (np.arange(6) * np.pi / 3 + rng.uniform(0, 1, (330, 1)))[..., None]
    leaf = np.concatenate([np.cos(turn), 0.7 * np.sin(turn)], -1)
    leaf = spots[:, None] + leaf * h * rng.uniform(0.012, 0.045, (330, 1, 1))
    for shape, colour in zip(leaf, ramp(light, "0a120f 243017 806126"), strict=True):
        layer.poly(shape, colour)


def town(size: Size) -> Layer:
    """The far shore: three rows of houses, a church and trees."""
    layer, rng = Layer(size), np.random.default_rng(5)
    for row, base in enumerate((SHORE - 0.032, SHORE - 0.014, SHORE - 0.001)):
        if row == 2:
            church(layer, 0.48, SHORE - 0.02, rng)
        for x in 0.04 + 0.03 * row + 0.058 * np.arange(16) + rng.uniform(-0.012, 0.012, 16):
            if rng.random() < 0.74 and 0.1 < x < 0.88:
                wall = rgb("dbb38f cc8f6b b8a399 d49e5c")[rng.integers(4)]
                house(layer, x, base, rng.uniform(0.021, 0.029), wall, rng)
            else:
                tree(layer, x, base, rng.uniform(0.06, 0.10), rng)
    for x in rng.uniform(-0.02, 1.5, 40):
        tree(layer, x, SHORE, rng.uniform(0.02, 0.04), rng)
    return layer


def church(layer: Layer, x: float, y: float, rng: Rng) -> None:
    """A church: a long house behind a square tower with a tall spire."""
    stone, roof, tip = rgb("d6b394"), rgb("7b655c"), (x - 0.003, y - 0.245)
    house(layer, x, y, 0.052, stone, rng)
    for left, right, light in ((x - 0.022, x + 0.004, 1), (x + 0.004, x + 0.016, SHADE)):
        layer.box(left, y - 0.135, right, y, stone * light)
        layer.poly([(left - 0.003, y - 0.133), tip, (right + 0.003, y - 0.130)], roof * light)


def cape(size: Size) -> Layer:
    """The rocky headland on the right with its lighthouse and the keeper's house."""
    layer, rng = Layer(size), np.random.default_rng(8)
    x, y = grid(size)
    house(layer, 1.26, CAPE - 0.078, 0.058, rgb("e0c7ad"), rng)
    for at, tall in ((1.07, 0.03), (1.43, 0.16), (1.47, 0.13), (1.225, 0.05), (1.5, 0.15)):
        tree(layer, at, CAPE - 0.07, tall, rng)
    lighthouse(layer, LAMP[0], CAPE - 0.075)
    crag = fbm(x * 14, y * 30, 6, 22, ridged=True)
    slope = (np.gradient(crag, axis=0) - 2 * np.gradient(crag, axis=1)) * size[1]
    rock = ramp(0.45 + 0.008 * slope, "1c1820 52423f 8f6e5a d09a70")
    depth = y - CAPE + 0.085 * step(0.88, 1.12, x) + 0.016 * fbm(x * 9, 0, 5, 21)
    turf = ramp(fbm(x * 120, y * 50, 3, 24) + 0.5, "1a210f 6b5c26")
    rock = mix(rock, turf, step(0.03, 0, depth + 0.012 * fbm(x * 30, y * 30, 3, 23)))
    rock *= (1 - 0.6 * step(CAPE - 0.012, CAPE, y))[..., None]
    stuff = Image.fromarray((rock * 255).astype(np.uint8))
    layer.image.paste(stuff, mask=Image.fromarray((depth > 0) & (y < CAPE)))
    return layer


def lighthouse(layer: Layer, x: float, y: float) -> None:
    """A tapered white tower with red bands, lit as a cylinder, under its lantern."""
    height, top, iron = 0.36, y - 0.36, "29262e"
    for band in range(5):
        t = np.array([band, band, band + 1, band + 1]) / 5
        for u in np.linspace(-1, 0.95, 40):
            light = np.clip(-0.75 * u + 0.62 * math.sqrt(1 - u * u), 0, 1)
            across = x + (0.040 - 0.014 * t) * (u, u + 0.06, u + 0.06, u)
            face = np.stack([across, y - t * height], -1)
            layer.poly(face, rgb("b82118 f7e6d1")[band % 2 - 1] * ramp(light, "454a6b fff2e0"))
    for floor in (0.17, 0.53, 0.90):
        layer.box(x - 0.008, y - floor * height, x + 0.003, y - floor * height + 0.02, LIT)
    layer.box(x - 0.020, top - 0.05, x + 0.020, top, "ffeda8")
    layer.box(x - 0.036, top - 0.008, x + 0.036, top + 0.004, iron)
    layer.box(x - 0.034, top - 0.025, x + 0.034, top - 0.023, iron)
    for u in np.linspace(-1, 1, 5):
        layer.box(x + 0.019 * u - 0.0012, top - 0.05, x + 0.019 * u + 0.0012, top, iron)
        layer.box(x + 0.034 * u - 0.001, top - 0.024, x + 0.034 * u + 0.001, top, iron)
    t = np.linspace(0, np.pi, 20)
    layer.poly(np.stack([x + 0.025 * np.cos(t), top - 0.05 - 0.032 * np.sin(t)], -1), "73201a")


def boat(size: Size, x: float, y: float) -> Layer:
    """A small sailing boat: two sails shaded in folds, a hull with a pale rail."""
    layer, t = Layer(size), np.linspace(0, 1, 24)
    bulge = np.sin(t * np.pi)
    layer.box(x - 0.0015, y - 0.25, x + 0.0015, y - 0.02, "38261a")
    for reach, tall, cloth in ((-0.088, 0.21, "f5b87a 9c6a50"), (0.058, 0.19, "8a5a4c e0a070")):
        leech = np.stack([reach * t + 0.17 * reach * bulge, y - 0.035 - tall * (1 - t)], -1)
        for fold in np.linspace(1, 0, 14, endpoint=False):
            layer.poly([*(leech * (fold, 1) + (x, 0)), (x, y - 0.035)], ramp(1 - fold, cloth))
    rail = np.stack([x - 0.10 + 0.185 * t, y - 0.03 + 0.012 * bulge], -1)
    layer.poly([*rail, (x + 0.07, y), (x - 0.08, y)], "5c291f")
    layer.poly([*rail, *np.add(rail, (0, 0.008))[::-1]], "e6ccad")
    return layer


def water(image: Array, layers: list[tuple[Array, float]]) -> Array:
    """Mirror the picture, and every ``(layer, waterline)``, in a rippled lake."""
    height, width = image.shape[:2]
    x, y = grid((width, height))
    depth = np.clip(y - SHORE, 0, 1)
    far = 1 / (depth + 0.016)
    u, v = (x - 0.75) * far * 2.2, far * 3.2
    slope = fbm(u, v, 5, 41) + 0.6 * fbm(u * 0.25, v * 0.3, 3, 42)
    slope *= 0.35 + 0.65 * step(-0.4, 0.4, fbm(x * 1.5, depth * 14, 3, 43))
    dy = 0.045 * slope * step(-0.02, 0.12, depth)
    column = np.clip((x + 0.010 * slope) * height, 0, width - 1).astype(int)
    lake = np.zeros_like(image)
    for layer, base in [(np.insert(image, 3, 1, -1), SHORE), *layers]:
        row = np.clip(np.minimum(2 * base - y + dy, base - 0.002) * height, 0, height - 1)
        mirrored = layer[row.astype(int), column]
        lake = mix(lake, mirrored[..., :3], mirrored[..., 3] * (y > base - 0.004))
    facing = np.clip(0.16 + 1.1 * depth + 0.5 * slope * step(0, 0.2, depth), 0, 0.85)
    return mix(image, mix(lake * 0.94, "0d2130", facing), y > SHORE)


def reeds(size: Size) -> Layer:
    """Reeds in the near left corner, out of the light."""
    layer, rng, t = Layer(size), np.random.default_rng(9), np.linspace(0, 1, 7)
    for _ in range(520):
        x, lean = 0.52 * rng.random() ** 1.7 - 0.03, rng.normal(0.03, 0.035)
        spine = np.stack([x + lean * t**2, 1.01 - rng.uniform(0.05, 0.24) * (1 - 1.3 * x) * t], -1)
        half = 0.0035 * (1 - t)[:, None] * (1, 0)
        layer.poly([*(spine - half), *(spine + half)[::-1]], rng.uniform(0.5, 1.5) * rgb("1e1d11"))
    return layer


def develop(image: Array, rng: Rng) -> Array:
    """What the camera adds: bloom, contrast, vignette and film grain."""
    height, width = image.shape[:2]
    x, y = grid((width, height))
    image = image + 0.5 * blur(np.clip(image - 0.72, 0, 1), 0.014 * height)
    halo = np.exp(-np.hypot(x - LAMP[0], y - LAMP[1]) / 0.035)
    image = np.clip(image + 0.55 * halo[..., None] * rgb("ffd98c"), 0, 1)
    image += 0.10 * (step(0, 1, image) - image)
    image *= 1 - 0.30 * step(0.45, 1.05, np.hypot(x - width / height / 2, y - 0.5))[..., None]
    return image + rng.normal(0, 0.020, (height, width, 1)) + rng.normal(0, 0.009, image.shape)


def draw_photo(size: Size = PHOTO_SIZE) -> Image.Image:
    """Draw the photo, from the sky to the reeds in front."""
    full = (2 * size[0], 2 * size[1])
    image = mountains(sky(*grid(full)))
    shore, near, ship = (f.pixels() for f in (town(full), cape(full), boat(full, 0.66, 0.84)))
    image = water(mix(image, shore[..., :3], shore[..., 3]), [(near, CAPE), (ship, 0.84)])
    for layer in (near, ship, reeds(full).pixels()):
        image = mix(image, layer[..., :3], layer[..., 3])
    return finish(develop(image, np.random.default_rng(1)), size)


def main(argv: list[str] | None = None) -> int:
    """Write both pictures into a folder."""
    parser = argparse.ArgumentParser(description="Draw the example photo and painting.")
    beside = Path(__file__).resolve().parents[1] / "examples"
    parser.add_argument("folder", nargs="?", type=Path, default=beside, help="where to write")
    folder = parser.parse_args(argv).folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in (("photo.jpg", draw_photo()), ("painting.jpg", draw_painting())):
        picture.save(folder / name, quality=88, optimize=True)
        print(f"{name}: {picture.size}, {(folder / name).stat().st_size >> 10} KB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
