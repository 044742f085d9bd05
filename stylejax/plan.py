"""What the command line asks for, checked and loaded: everything that comes before a run."""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from stylejax import (
    arguments,
    budget,
    colour,
    companions,
    compilation,
    devices,
    hosts,
    images,
    masks,
    options,
    resumption,
    scale,
    vgg,
    weights,
)
from stylejax.config import Config
from stylejax.optimizers import Lbfgs
from stylejax.presets import Preset, distilled_variation, folds, prepare


class Job(NamedTuple):
    """A run that has passed every check which needs no compilation.

    Attributes:
      given: the options of the command line by name.
      preset: config, loss weights and preparation, with all options in place.
      content: ``[H, W, 3]``, the photo at the picture's size; black where there is none.
      alpha: ``[H, W]``, its transparency, if it has any.
      styles: the paintings, no larger than any scale wants them.
      init: a picture to start from, if one was named.
      marked: regions and where content counts, if masks were given.
      network: the network's file and origin.
      params: the network, prepared by the preset.
      device: where to run; None is JAX's own choice.
      draft: the run, by the built-in network, whose picture this one starts from; None where it
        starts from ``init``, or as the config says.
    """

    given: dict[str, Any]
    preset: Preset
    content: np.ndarray
    alpha: np.ndarray | None
    styles: tuple[np.ndarray, ...]
    init: np.ndarray | None
    marked: masks.Marked | None
    network: weights.Found
    params: vgg.Params
    device: Any
    draft: "Job | None" = None


def plan(given: dict[str, Any], *, kept: dict[Any, Any] | None = None) -> Job:
    """Checks everything, the cheapest first; weights are fetched only when all else is right.

    With ``--draft`` for two runs: the built-in network's, with the preset's own scales and steps,
    and the one that starts from its picture, at the last scale alone if nobody says otherwise.

    Args:
      given: the options of the command line by name.
      kept: images and networks that plans before this one have read, to which this one adds its
        own; equal files are then the same arrays.

    Raises:
      ValueError: an option or an input that cannot work.
      OSError: a file that cannot be read or written.
    """
    kept = {} if kept is None else kept
    own = _alone(given, kept)
    if not given["draft"]:
        return own
    if vgg.architecture_of(own.params).taps:
        if given["network"] == "slim" or given["weights_file"] is not None:
            raise ValueError(
                "--draft is made by the built-in network, and this is it already; leave --draft "
                "out, or take --network vgg19"
            )
        return own  # nothing larger could be had, which a line has said
    try:
        draft = _alone({**given, **_OF_A_DRAFT}, kept)
    except ValueError as error:
        raise ValueError(f"--draft by the built-in network: {error}") from None
    return _from_draft(own, draft)


# What the main command says of the run that follows, not of its draft.
_OF_A_DRAFT = {
    "network": "slim",
    "weights_file": None,
    "quiet": True,
    "save_every": 0,
    "animation": None,
    "animation_every": None,
    "plot": False,
    "sheet": False,
    "checkpoint": None,
    "checkpoint_every": None,
    "resume": False,
    # The processes have met by then.
    "hosts": False,
    **dict.fromkeys(("coordinator", "processes", "process")),
    **dict.fromkeys(
        ("steps", "coarse_steps", "scales", "smallest", "scale_sizes", "scale_steps", "carry")
    ),
}


def _from_draft(own: Job, draft: Job) -> Job:
    """The run that goes on from a draft, whose large shapes are there already."""
    config, size = own.preset.config, (own.content.shape[0], own.content.shape[1])
    drafted = draft.preset.config
    if drafted.colour is not None and drafted.colour.mode == colour.CHROMA:
        # It is put on a finished picture, and the other run sees none.
        draft = draft._replace(preset=draft.preset._replace(config=replace(drafted, colour=None)))
    said = ("scales", "smallest", "scale_sizes", "scale_steps")
    if all(own.given[name] is None for name in said):
        scales = len(config.sizes(*size))
        config = replace(
            config,
            scales=1,
            scale_sizes=None,
            steps=config.steps_at(scales - 1, scales),
            coarse_steps=None,
            first_steps=None,
            steps_per_scale=None,
        )
    return own._replace(preset=own.preset._replace(config=config), draft=draft)


def _alone(given: dict[str, Any], kept: dict[Any, Any]) -> Job:
    """One run, without a draft."""
    check_numbers(given)
    _check_output(given)
    companions.check(given, inputs(given))
    resumption.check(given)
    preset, start_file = options.build(given, len(given["paintings"]))
    device = find_device(given)
    preset = preset._replace(config=_over(given, preset.config))
    compilation.keep()  # from here on there is something to compile: pictures are resized
    once = partial(_once, kept)
    seen = (given["photo"], given["size"], preset.config.period)
    content, photo = once(_photo, given, preset.config, key=seen)
    loaded = [once(images.load, path).image for path in given["paintings"]]
    beside = (photo.size, preset.config.style_scale, preset.config.style_layers)
    styles = tuple(
        once(_at_most, image, photo.size, preset, number, key=(id(image), number, *beside))
        for number, image in enumerate(loaded)
    )
    init = None if start_file is None else once(images.load, start_file).image
    marked = regions(given, photo, [(i.shape[0], i.shape[1]) for i in loaded])
    if marked is not None:
        preset = options.in_regions(preset, given, marked)
    check = partial(
        arguments.check,
        content=content,
        styles=styles,
        config=preset.config,
        loss_weights=preset.loss_weights,
        init=init,
        guides=marked.guides if marked else None,
        names=marked.names if marked else None,
    )
    with options.naming():
        check(_unloaded())
    found, params = once(_network, given, preset, key=_network_key(given, preset))
    check(params)  # again, because a smaller network has fewer layers
    params = vgg.up_to(params, preset.config.layers)
    preset = _smooth(given, preset, params, max(content.shape[:2]))
    config = _quick(given, preset.config, device)
    preset = preset._replace(config=_fitting(given, config, content, params, device))
    return Job(given, preset, content, photo.alpha, styles, init, marked, found, params, device)


def _smooth(given: dict[str, Any], preset: Preset, params: vgg.Params, side: int) -> Preset:
    """The default preset with more total variation for a distilled network's style."""
    asked = given["preset"] != "default" or given["tv_weight"] is not None
    if asked or not preset.config.style_layers or not vgg.architecture_of(params).taps:
        return preset
    smoother = preset.loss_weights._replace(tv=distilled_variation(side))
    return preset._replace(loss_weights=smoother)


def _quick(given: dict[str, Any], config: Config, device: Any) -> Config:
    """The config as a GPU is quick with it: L-BFGS's compact form, and TF32 if nobody says no.

    With TF32 convolutions it is about six times as quick (docs/performance.md), and does what
    PyTorch does there.
    """
    if (device or jax.devices()[0]).platform != "gpu":
        return config
    if isinstance(config.optimizer, Lbfgs):
        config = replace(config, optimizer=replace(config.optimizer, compact=True))
    if given["precision"] not in (None, "auto"):
        return config
    return replace(config, **options.precise("default", config.optimizer))


def _fitting(
    given: dict[str, Any], config: Config, content: np.ndarray, params: vgg.Params, device: Any
) -> Config:
    """The config in the form that fits into memory, or that takes least if that is asked for."""
    about = ((content.shape[0], content.shape[1]), params)
    with options.naming():
        if given["low_memory"]:
            return budget.least(config, *about, device=device)
        asked = given["strip"] is not None
        limit = None if asked else budget.available(device)
        return budget.fitting(config, *about, limit, device=device)


def inputs(given: dict[str, Any]) -> list[Path]:
    """Every picture that is read: the photo, if there is one, the paintings, masks and maps."""
    words = [m for m in given["mask"] or () if m not in ("rest", "alpha")]
    words += [m for m in given["style_mask"] or () if m != "all"]
    named = [given["photo"], *given["paintings"], *map(Path, words)]
    named += [given["content_mask"], given["labels"], *(given["style_labels"] or ())]
    return [path for path in named if path is not None]


def _once(kept: dict[Any, Any], make: Callable[..., Any], *of: Any, key: Any = None) -> Any:
    """``make(*of)``, or what it made before for the same ``key``, which is ``of`` if not given."""
    place = (make, key or of)
    if place not in kept:
        kept[place] = make(*of)
    return kept[place]


def check_numbers(given: dict[str, Any]) -> None:
    """Raises ValueError for numbers that no picture can have."""
    for name, least in (("size", 1), ("save_every", 0)):
        if np.min(given[name]) < least:
            option = "--" + name.replace("_", "-")
            raise ValueError(f"{option} {given[name]} must be {least} or more")
    if not 0 <= given["seed"] < 2**32:
        raise ValueError(f"--seed {given['seed']} must be from 0 to 4294967295")


def _check_output(given: dict[str, Any]) -> None:
    output: Path = given["output"]
    images.check_output(output)
    for source in inputs(given):
        if output.exists() and source.exists() and output.samefile(source):
            raise ValueError(f"--output {output} is one of the inputs; choose another name")


def find_device(given: dict[str, Any]) -> Any:
    """JAX's device that ``--device`` names; None, which is its own choice, for ``auto``.

    Where this is one of several processes it joins them before.

    Raises:
      ValueError: another word, or there is none here.
    """
    name = given["device"]
    options.choice("--device", name, ("auto", "cpu", "gpu", "tpu"))
    together = [given.get(option) for option in ("coordinator", "processes", "process")]
    if given.get("hosts") or any(x is not None for x in together):
        hosts.check(*together)
        hosts.watched()
        hosts.join(*together)
    if name == "auto":
        return None
    try:
        return jax.local_devices(backend=name)[0]
    except RuntimeError:
        seen = ", ".join(sorted({device.platform for device in jax.devices()}))
        raise ValueError(
            f"--device {name}: jax sees only {seen} here; install jax for that device or "
            "use --device auto"
        ) from None


def _over(given: dict[str, Any], config: Config) -> Config:
    """The config over several devices, where these are asked for."""
    mesh = _mesh(given)
    if mesh is None:
        return config
    with options.naming():
        return replace(config, mesh=mesh)


def _mesh(given: dict[str, Any]) -> Mesh | None:
    """The devices that share the picture; None where one has all of it."""
    name, count = given["device"], given["devices"]
    if count is None and not hosts.several():
        return None
    there = jax.devices(None if name == "auto" else name)
    if hosts.several() and count not in (None, len(there)):
        raise ValueError(
            f"--devices {count}: the hosts have {len(there)} together and use all; leave it out"
        )
    if count == 1:
        return None
    try:
        return devices.mesh(count, devices=there)
    except ValueError as error:
        raise ValueError(f"--devices: {error}") from None


def _photo(given: dict[str, Any], config: Config) -> tuple[np.ndarray, masks.Photo]:
    """The photo at the picture's size, black without one, and what masks need to know of it."""
    if given["photo"] is None:
        height, width = given["size"]
        budget.check((height, width))
        return np.zeros((height, width, 3), np.float32), masks.Photo(
            (height, width), (height, width), None
        )
    image, alpha = images.load(given["photo"])
    file_size = (image.shape[0], image.shape[1])
    height, width = map(config.nearest, images.fit(*file_size, given["size"]))
    budget.check((height, width))
    if alpha is not None:
        alpha = np.asarray(images.resize(alpha, height, width))
    photo = masks.Photo((height, width), file_size, alpha)
    return np.asarray(images.resize(image, height, width)), photo


def _at_most(image: np.ndarray, size: tuple[int, int], preset: Preset, number: int) -> np.ndarray:
    """A painting at the largest size that any scale will want of it."""
    if min(image.shape[:2]) < vgg.minimum_size(preset.config.style_layers):
        return image  # for arguments.check to refuse
    wanted = scale.style_size(image.shape, size, preset.config, number=number)
    return np.asarray(images.resize(image, *wanted))


def regions(
    given: dict[str, Any], photo: masks.Photo, paintings: list[tuple[int, int]]
) -> masks.Marked | None:
    """The regions that the command line asks for, None where it does not.

    Args:
      given: the options of the command line by name.
      photo: what masks of the picture are laid over.
      paintings: height and width of each painting's file.

    Raises:
      ValueError: options that do not go together, or a map's colour without a painting.
      OSError: a file that cannot be read.
    """
    by_file = given["mask"] or given["style_mask"] or given["content_mask"]
    if given["style_labels"] and not given["labels"]:
        raise ValueError("--style-labels belongs to --labels, the map of the picture; give both")
    if given["labels"] and by_file:
        raise ValueError("--labels works without --mask, --style-mask and --content-mask")
    if given["labels"]:
        marked = masks.by_colour(given["labels"], given["style_labels"] or (), photo, paintings)
    elif by_file:
        marked = masks.by_file(
            given["mask"] or (), given["style_mask"] or (), given["content_mask"], photo, paintings
        )
    else:
        if given["region_weights"] is not None:
            raise ValueError("--region-weights works with --mask or --labels only")
        return None
    if not given["quiet"]:
        for note in marked.notes:
            print(note, file=sys.stderr)
    return marked


def _unloaded() -> vgg.Params:
    """VGG-19's parameters without values: enough to check images before weights are fetched."""
    return {
        layer: {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in arrays.items()}
        for layer, arrays in vgg.parameter_shapes(vgg.VGG19).items()
    }


def _network_key(given: dict[str, Any], preset: Preset) -> tuple[Any, ...]:
    """What the prepared network depends on."""
    asked = given["network"], given["weights_file"]
    return (*asked, preset.network, preset.normalised, preset.white, folds(preset))


def network(given: dict[str, Any], preset: Preset) -> weights.Found:
    """The network that was asked for, or the one that can be had, which a line then says.

    Args:
      given: the options of the command line by name.
      preset: of ``options.build``.

    Raises:
      ValueError: an unknown word or file.
      OSError: no such file, or no network connection.
    """
    found = weights.choose(
        options.choice("--network", given["network"], weights.NETWORKS),
        given["weights_file"],
        wanted=preset.network,
        offline=given["offline"],
        progressbar=not given["quiet"],
    )
    if found.instead and not given["quiet"]:
        print(found.instead, file=sys.stderr)
    return found


def _network(given: dict[str, Any], preset: Preset) -> tuple[weights.Found, vgg.Params]:
    """The network, prepared for the preset."""
    found = network(given, preset)
    params = weights.load(found.path)
    return found, prepare(preset, params, normalised=found.origin.normalised)
