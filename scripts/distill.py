"""Trains the slim network that stylejax ships, against VGG-19.

python scripts/distill.py IMAGES [--weights FILE] [--steps N] [-o FILE]

IMAGES holds the folders ``photos`` and ``art`` of pictures of 224 pixels; the last 90 photos and
the last 22 of the art are kept for validation. Seeded: the same arguments on the same machine give
the same file.

The student is the same network with fewer and narrower layers, and a linear map (a tap) from its
features to VGG-19's behind each layer that the losses use. It starts from least squares through
VGG-19's own layers (``least_squares``), and Adam goes on in coordinates in which the inputs of
every kernel are white (``whitening``). What is minimised is, averaged over
layers and crops, the relative squared error of the features plus that of the Gram matrices:

    |F - S P|^2 / |F|^2  +  gram * |F^T F - (S P)^T (S P)|^2 / |F^T F|^2.

Photos and paintings alone do not make a network that is safe to optimise a picture through: what it
has never seen it gets wrong, and the optimizer finds just that (fine coloured noise). So half of
each batch are pictures on their way: every few steps the student stylizes some photos itself, and
what comes out is shown to the teacher too.
"""

import argparse
import csv
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import least_squares
import numpy as np
import optax
from PIL import Image
from whitening import whitened

from stylejax import store, vgg, weights
from stylejax.config import Config
from stylejax.objective import DEFAULT_WEIGHTS
from stylejax.statistics.moments import gram
from stylejax.transfer import iterate

LAYERS = Config().layers
BLOCKS, WIDTHS = (1, 1, 2, 3, 1), (16, 32, 48, 96, 320)
KEPT = {"photos": 90, "art": 22}  # for validation, the last of each
# Colours from about -2 to 2, as a network of small weights likes them.
INPUT = {"kernel": 4 * np.eye(3, dtype=np.float32), "bias": np.full(3, -2, np.float32)}
FITTING = 1000  # pictures for the first taps
OUTPUT = Path(__file__).parents[1] / "stylejax" / "data" / "slim.h5"

Params = dict[str, dict[str, Any]]


class Errors(NamedTuple):
    """Relative squared errors by layer, averaged over a batch."""

    features: dict[str, jax.Array]
    gram: dict[str, jax.Array]


class Seen(NamedTuple):
    """What the teacher makes of a picture: features ``[positions, C]`` and Grams by layer."""

    features: dict[str, jax.Array]
    gram: dict[str, jax.Array]


class Pictures(NamedTuple):
    """What the student learns from, uint8 ``[n, 224, 224, 3]``."""

    photos: np.ndarray
    art: np.ndarray


def load(folder: Path, validation: bool) -> Pictures:
    """The training or the validation pictures."""
    found = []
    for kind, kept in KEPT.items():
        names = sorted((folder / kind).glob("*.jpg"))
        names = names[-kept:] if validation else names[:-kept]
        found.append(np.stack([np.asarray(Image.open(name).convert("RGB")) for name in names]))
    return Pictures(*found)


def crop(rng: np.random.Generator, pictures: np.ndarray, size: int) -> np.ndarray:
    """A random part of a random picture, ``[size, size, 3]`` in [0, 1].

    Enlarged by up to two, because the pictures of real runs have less detail per pixel; mirrored;
    sometimes with other contrast or with white noise mixed in.
    """
    picture = pictures[rng.integers(len(pictures))]
    side = min(round(size / float(rng.choice([0.6, 1.0, 1.4, 2.0]))), len(picture))
    top, left = rng.integers(0, len(picture) - side + 1, 2)
    part = Image.fromarray(picture[top : top + side, left : left + side])
    scaled = part.resize((size, size), Image.Resampling.LANCZOS)
    x = np.asarray(scaled, np.float32) / 255
    if rng.random() < 0.5:
        x = x[:, ::-1]
    if rng.random() < 0.3:
        x = (x - x.mean()) * rng.uniform(0.5, 1.6) + x.mean()
    if rng.random() < 0.15:
        share = rng.uniform(0, 0.6)
        x = (1 - share) * x + share * rng.random(x.shape)
    return np.clip(x, 0, 1).astype(np.float32)


def features(params: Params, image: jax.Array) -> dict[str, jax.Array]:
    """``[positions, c]`` of what the default preset's losses see, before any taps."""
    config = Config()
    own = {name: value for name, value in params.items() if name not in LAYERS}
    found = vgg.features(own, image, LAYERS, pool=config.pool, padding=config.padding)
    return {layer: found[layer].reshape(-1, found[layer].shape[-1]) for layer in LAYERS}


def products(student: Params, teacher: Seen, image: jax.Array) -> dict[str, Any]:
    """``S^T S`` and ``S^T F`` by layer: all that the errors need, whatever the taps."""
    found = features(student, image)
    return {
        layer: (gram(found[layer]), found[layer].T @ teacher.features[layer]) for layer in LAYERS
    }


def _errors(student: Params, teacher: Seen, image: jax.Array) -> Errors:
    by_feature, by_gram = {}, {}
    for layer, (own, cross) in products(student, teacher, image).items():
        tap, wanted = student[layer]["kernel"], teacher.gram[layer]
        found = tap.T @ own @ tap
        # |F - S P|^2 = |F|^2 - 2 <S^T F, P> + tr(P^T S^T S P), with no array of S P's size.
        distance = jnp.trace(wanted) - 2 * jnp.sum(cross * tap) + jnp.trace(found)
        by_feature[layer] = distance / jnp.trace(wanted)
        by_gram[layer] = jnp.sum((wanted - found) ** 2) / jnp.sum(wanted**2)
    return Errors(by_feature, by_gram)


def loss(
    student: Params, teacher: Seen, images: jax.Array, gram_weight: jax.Array
) -> tuple[jax.Array, Errors]:
    """The mean over layers and images, and its parts."""
    errors = jax.vmap(partial(_errors, student))(teacher, images)
    errors = jax.tree.map(jnp.mean, errors)
    by_feature = sum(errors.features.values()) / len(LAYERS)
    by_gram = sum(errors.gram.values()) / len(LAYERS)
    return by_feature + gram_weight * by_gram, errors


@jax.jit
def seen_by_teacher(teacher: Params, scales: dict[str, jax.Array], images: jax.Array) -> Seen:
    """VGG-19's features of a batch, each layer divided by its root mean square."""
    found = jax.lax.map(partial(features, teacher), images)
    scaled = {layer: found[layer] / scales[layer] for layer in LAYERS}
    return Seen(scaled, jax.tree.map(jax.vmap(gram), scaled))


@partial(jax.jit, static_argnames="optimizer", donate_argnames=("student", "state"))
def step(
    student: Params,
    state: Any,
    teacher: Seen,
    images: jax.Array,
    gram_weight: jax.Array,
    *,
    optimizer: optax.GradientTransformation,
) -> tuple[Params, Any, Errors]:
    """One step of the optimizer; the input's map stays as it is."""
    gradient, errors = jax.grad(loss, has_aux=True)(student, teacher, images, gram_weight)
    gradient["input"] = jax.tree.map(jnp.zeros_like, gradient["input"])
    updates, state = optimizer.update(gradient, state, student)
    return optax.apply_updates(student, updates), state, errors


def on_their_way(
    student: Params, rng: np.random.Generator, pictures: Pictures, size: int
) -> Iterator[np.ndarray]:
    """A photo that the student stylizes, every 20 steps of the run."""
    content, style = crop(rng, pictures.photos, size), crop(rng, pictures.art, size)
    strength = DEFAULT_WEIGHTS.style * 2 ** rng.uniform(-1, 1.5)
    run = iterate(
        vgg.fold_taps(student),
        content,
        [style],
        config=Config(scales=1, steps=60),
        loss_weights=DEFAULT_WEIGHTS._replace(style=strength),
        every=20,
    )
    for progress in run:
        if progress.step:
            yield progress.image


@jax.jit
def _summed_products(student: Params, teacher: Seen, images: jax.Array) -> dict[str, Any]:
    found = jax.vmap(partial(products, student))(teacher, images)
    return jax.tree.map(lambda each: each.sum(0), found)


def fitted(student: Params, lessons: Iterable[tuple[Seen, jax.Array]]) -> Params:
    """The student with the taps of least squares over some batches, a little damped."""
    found = [_summed_products(student, *lesson) for lesson in lessons]
    taps = {}
    for layer, (own, cross) in jax.tree.map(lambda *each: sum(each), *found).items():
        damping = 1e-3 * jnp.trace(own) / len(own) * jnp.eye(len(own))
        taps[layer] = {"kernel": jnp.linalg.solve(own + damping, cross)}
    return student | taps


def start(
    teacher: Params,
    scales: dict[str, jax.Array],
    fresh: Callable[[int], list[np.ndarray]],
    own: Callable[[Params], Iterable[np.ndarray]],
    count: int,
) -> Params:
    """A student in closed form, made twice: of pictures, and of some that the first one made too.

    Args:
      teacher: VGG-19.
      scales: its root mean squares.
      fresh: that many pictures.
      own: what a student makes of pictures.
      count: how many pictures to learn from.
    """

    def made_of(images: list[np.ndarray]) -> Params:
        made = least_squares.narrow(
            teacher, np.stack(images), INPUT, BLOCKS, WIDTHS, np.random.default_rng(0)
        )
        some = images[:: max(1, len(images) // FITTING)]
        batches = [jnp.stack(some[i : i + 16]) for i in range(0, len(some) - 15, 16)]
        lessons = ((seen_by_teacher(teacher, scales, batch), batch) for batch in batches)
        return fitted(jax.tree.map(jnp.asarray, made), lessons)

    first = made_of(fresh(count // 4))
    images = list(own(first))
    return made_of(images + fresh(count - len(images)))


def finished(student: Params, scales: dict[str, jax.Array]) -> Params:
    """The student whose taps lead to VGG-19's own units, rounded to bfloat16.

    Rounded numbers, though stored as float32, compress to half.
    """
    units = {layer: {"kernel": student[layer]["kernel"] * scales[layer]} for layer in LAYERS}
    rounded = jax.tree.map(lambda a: np.asarray(a).astype(jnp.bfloat16), student | units)
    return jax.tree.map(lambda a: a.astype(np.float32), rounded)


def report(errors: Sequence[Errors]) -> dict[str, float]:
    """Means over batches, by column name."""
    mean = jax.tree.map(lambda *each: float(np.mean(each)), *errors)
    return {
        f"{kind} {k}": v for kind in ("features", "gram") for k, v in getattr(mean, kind).items()
    }


def fresh(source: Pictures, count: int, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Crops of photos and, a little less often, of paintings."""
    kinds = [source.photos if rng.random() < 0.55 else source.art for _ in range(count)]
    return [crop(rng, kind, size) for kind in kinds]


def validation(
    teacher: Params, scales: dict[str, jax.Array], options: argparse.Namespace
) -> Callable[[Params], dict[str, float]]:
    """A function that gives a student's errors on pictures kept out of the training."""
    rng, unseen = np.random.default_rng(1), load(options.images, True)
    tests = [
        jnp.stack(fresh(unseen, options.batch, options.size, rng))
        for _ in range(options.validation)
    ]
    wanted = [seen_by_teacher(teacher, scales, images) for images in tests]
    check = jax.jit(loss)
    return lambda student: report(
        [check(student, seen, images, 1.0)[1] for seen, images in zip(wanted, tests, strict=True)]
    )


def adam(
    options: argparse.Namespace, student: Params, images: jax.Array
) -> optax.GradientTransformation:
    """Adam on white coordinates, its rate warmed up and then let down by a cosine."""
    rate = optax.warmup_cosine_decay_schedule(
        0, options.rate, options.steps // 20, options.steps, 1e-5
    )
    moments = least_squares.input_moments(student, images, layers=LAYERS)
    return whitened(optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate, b2=0.99)), moments)


def train(options: argparse.Namespace) -> None:
    """The whole training."""
    began = time.perf_counter()
    rng, pictures = np.random.default_rng(options.seed), load(options.images, False)
    teacher = vgg.evaluate_kernels(weights.load(weights.resolve(options.weights)))
    teacher = jax.tree.map(jnp.asarray, teacher)
    some = partial(fresh, pictures, size=options.size, rng=rng)

    def own(student: Params, runs: int) -> Iterator[np.ndarray]:
        for _ in range(runs):
            yield from on_their_way(student, rng, pictures, options.size)

    ones = {layer: jnp.ones(()) for layer in LAYERS}
    first = seen_by_teacher(teacher, ones, jnp.stack(some(16)))
    scales = {layer: jnp.sqrt(jnp.mean(found**2)) for layer, found in first.features.items()}
    validate = validation(teacher, scales, options)
    student = start(teacher, scales, some, partial(own, runs=options.start // 20), options.start)
    print("start ", line(validate(student)), flush=True)
    optimizer = adam(options, student, jnp.stack(some(64)))
    state = optimizer.init(student)
    pool: deque[np.ndarray] = deque(maxlen=options.pool)
    lessons: deque[tuple[jax.Array, Seen]] = deque(maxlen=options.lessons)
    rows, seen = [], []
    for number in range(1, options.steps + 1):
        if (number - 1) % options.burst == 0:
            pool.extend(own(student, options.runs))
        if new := (number - 1) % options.repeat == 0:
            old = [pool[i] for i in rng.integers(0, len(pool), options.batch // 2)] if pool else []
            images = jnp.stack(old + some(options.batch - len(old)))
            lessons.append((images, seen_by_teacher(teacher, scales, images)))
        images, target = lessons[-1] if new else lessons[rng.integers(0, len(lessons))]
        weight = jnp.asarray(options.gram * min(1.0, number / options.steps * 2))
        student, state, errors = step(student, state, target, images, weight, optimizer=optimizer)
        seen.append(errors)
        if number % options.every == 0 or number == options.steps:
            row: dict[str, float] = {"step": number, "seconds": round(time.perf_counter() - began)}
            print(line(row | (tested := validate(student))), flush=True)
            rows.append(row | {f"training {k}": v for k, v in report(seen).items()} | tested)
            seen.clear()
            write(options, student, scales, rows)


def line(row: dict[str, float]) -> str:
    """Numbers by name, for the terminal."""
    return "  ".join(f"{name} {number:.4g}" for name, number in row.items())


def write(options: argparse.Namespace, student: Params, scales: Any, rows: list[Any]) -> None:
    """The network so far, and the curves beside it where they are wanted."""
    store.save(
        options.output,
        finished(student, scales),
        store.Origin(
            source=f"distilled from VGG-19 by scripts/distill.py --steps {options.steps}",
            licence="MIT, as stylejax; trained on the features of VGG-19 (CC BY 4.0)",
            network="slim",
        ),
        compress=True,
    )
    if options.curves:
        with open(options.curves, "w", newline="") as file:
            table = csv.DictWriter(file, rows[0])
            table.writeheader()
            table.writerows(rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("images", type=Path, help="folder with photos/ and art/")
    parser.add_argument("--weights", type=Path, help="VGG-19; found if not given")
    parser.add_argument("-o", "--output", type=Path, default=OUTPUT)
    parser.add_argument("--curves", type=Path, help="CSV of the errors during the training")
    for name, default, text in (
        ("start", 2000, "pictures for the start in closed form"),
        ("steps", 4500, "of Adam"),
        ("batch", 8, "crops per step"),
        ("size", 128, "pixels of a crop"),
        ("burst", 50, "steps between stylizing pictures"),
        ("runs", 2, "pictures stylized each time"),
        ("pool", 256, "stylized pictures kept"),
        ("repeat", 3, "steps per batch that the teacher looks at, on it or on an earlier one"),
        ("lessons", 40, "batches kept with what the teacher saw"),
        ("validation", 8, "batches of validation"),
        ("every", 250, "steps between two rows of the curves"),
        ("seed", 0, "of everything"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text} ({default})")
    parser.add_argument("--rate", type=float, default=5e-4, help="peak learning rate (5e-4)")
    parser.add_argument("--gram", type=float, default=4.0, help="weight of Gram errors (4)")
    train(parser.parse_args(argv))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
