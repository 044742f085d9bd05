"""Style transfer in plain PyTorch: stylejax's default objective, and neural-style-pt's.

python benchmarks/torch_reference.py PHOTO PAINTING -o OUT [--size 320] [--evaluations 100]
    [--objective default|neural-style-pt] [--optimizer lbfgs|adam]

What stylejax is measured against (``against_torch.py``), written as a good PyTorch programmer
would: frozen kernels, ReLU in place, all threads, the layouts, precisions and compiler that PyTorch
has. As a program it does what neural-style-pt does: one scale, from the photo,
``torch.optim.LBFGS`` with history 100 and no line search; the picture is the one evaluated last.
Neither jax nor stylejax is imported: a run pays for PyTorch alone. What was done is said in JSON.
Pictures are ``[1, 3, H, W]``; ``params`` are stylejax's arrays, of a VGG without taps.
"""

import argparse
import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

CONTENT, STYLE, TV = 1.0, 20.0, 0.5  # objective.DEFAULT_WEIGHTS, without importing it
POOLS: dict[str, Callable[..., Any]] = {"avg": F.avg_pool2d, "max": F.max_pool2d}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
Network = Mapping[str, tuple[Any, Any]]
Loss = Callable[[Any, Network, "Targets"], Any]


class Setting(NamedTuple):
    """What is computed, and how; the defaults compute what ``Config()`` does."""

    pooling: str = "avg"  # or max
    padding: str = "replicate-all"  # or zero
    layout: str = "channels_last"  # or contiguous
    precision: str = "float32"  # on a GPU also tf32, or bf16 in the network alone
    compiled: bool = False
    device: str = "cpu"  # or cuda
    content_layers: tuple[str, ...] = ("relu4_2",)
    style_layers: tuple[str, ...] = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")


class Targets(NamedTuple):
    """Features of the photo by content layer, Gram matrices of the painting by style layer."""

    content: dict[str, Any]
    style: dict[str, Any]


def configure(setting: Setting) -> None:
    """Sets what PyTorch keeps for the whole process."""
    # Huge pages (THP_MEM_ALLOC_ENABLE=1) stay the caller's choice: at 512 px on one core 6 to 12%
    # faster alone, 10 to 20% slower in turns with stylejax.
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.backends.cudnn.benchmark = True
    products = "ieee" if setting.precision == "float32" else "tf32"
    for part in (torch.backends.cudnn.conv, torch.backends.cuda.matmul):
        part.fp32_precision = products


def convert(params: Mapping[str, Mapping[str, Any]], setting: Setting) -> Network:
    """The network as frozen tensors in network order: kernels ``[out, in, 3, 3]``, and biases."""
    network = {}
    for name in ("input", *sorted(name for name in params if name.startswith("conv"))):
        kernel, bias = (torch.tensor(np.asarray(params[name][k])) for k in ("kernel", "bias"))
        if name != "input":
            layout = LAYOUTS[setting.layout]
            kernel = kernel.permute(3, 2, 0, 1).contiguous(memory_format=layout)
            kind = torch.bfloat16 if setting.precision == "bf16" else kernel.dtype
            kernel, bias = kernel.to(kind), bias.to(kind)
        network[name] = (kernel.to(setting.device), bias.to(setting.device))
    return network


def to_tensor(image: Any, setting: Setting) -> Any:
    """``[H, W, 3]`` as ``[1, 3, H, W]``."""
    return torch.tensor(np.asarray(image)).permute(2, 0, 1)[None].contiguous().to(setting.device)


def preprocess(image: Any, network: Network) -> Any:
    """What the network was trained on, of sRGB in [0, 1]."""
    kernel, bias = network["input"]
    return (image.movedim(1, -1) @ kernel + bias).movedim(-1, 1)


def postprocess(x: Any, kernel: Any, bias: Any) -> Any:
    """The inverse."""
    return ((x.movedim(1, -1) - bias) @ torch.linalg.inv(kernel)).movedim(-1, 1)


def replicated(x: Any, setting: Setting) -> Any:
    """The border repeated once; torch.compile (2.13, CPU) stumbles over the gradient of F.pad."""
    if not setting.compiled:
        return F.pad(x, (1, 1, 1, 1), mode="replicate")
    x = torch.cat([x[:, :, :1], x, x[:, :, -1:]], 2)
    return torch.cat([x[..., :1], x, x[..., -1:]], 3)


def features(x: Any, network: Network, layers: Sequence[str], setting: Setting) -> dict[str, Any]:
    """Features of a preprocessed picture, in one pass that stops at the deepest layer."""
    x = x.contiguous(memory_format=LAYOUTS[setting.layout])
    found: dict[str, Any] = {}
    block, low = "1", setting.precision == "bf16"
    with torch.autocast(setting.device, torch.bfloat16, enabled=low):
        for name, (kernel, bias) in list(network.items())[1:]:  # behind the preprocessing
            if name[4] != block:
                block, x = name[4], POOLS[setting.pooling](x, 2)
            if setting.padding == "zero":
                x = F.conv2d(x, kernel, bias, padding=1)
            else:
                x = F.conv2d(replicated(x, setting), kernel, bias)
            # In place: where kernels are frozen, nobody needs the convolution's output.
            x = found["relu" + name[4:]] = F.relu_(x)
            if found.keys() >= set(layers):
                break
    return {layer: found[layer].float() if low else found[layer] for layer in layers}


def gram(x: Any) -> Any:
    """``[1, c, h, w]`` to ``[c, c]``, a mean over positions."""
    flat = x[0].flatten(1)
    return flat @ flat.T / flat.shape[1]


def make_targets(photo: Any, painting: Any, network: Network, setting: Setting) -> Targets:
    """What a picture is compared with, of preprocessed pictures."""
    with torch.no_grad():
        content = features(photo, network, setting.content_layers, setting)
        style = features(painting, network, setting.style_layers, setting)
        return Targets(content, {layer: gram(x) for layer, x in style.items()})


def relative(x: Any, target: Any) -> Any:
    """``sum (x - t)^2 / sum t^2``."""
    return (x - target).square().sum() / target.square().sum()


def default_loss(image: Any, network: Network, targets: Targets, *, setting: Setting) -> Any:
    """stylejax's default objective, at a picture in [0, 1]."""
    layers = (*targets.content, *targets.style)
    found = features(preprocess(image, network), network, layers, setting)
    content = sum(relative(found[layer], target) for layer, target in targets.content.items())
    style = sum(relative(gram(found[layer]), target) for layer, target in targets.style.items())
    down, right = image[:, :, 1:] - image[:, :, :-1], image[..., 1:] - image[..., :-1]
    variation = (down.square().sum() + right.square().sum()) / (image.shape[2] * image.shape[3])
    share, part = CONTENT / len(targets.content), STYLE / len(targets.style)
    return share * content + part * style + TV * variation


def neural_style_loss(x: Any, network: Network, targets: Targets, *, setting: Setting) -> Any:
    """neural-style-pt's objective with its default weights, at a preprocessed picture."""
    found = features(x, network, (*targets.content, *targets.style), setting)
    content = sum(F.mse_loss(found[layer], target) for layer, target in targets.content.items())
    style = sum(  # its Gram matrices are divided by channels too
        F.mse_loss(gram(found[layer]) / len(target), target / len(target))
        for layer, target in targets.style.items()
    )
    down, right = x[:, :, 1:] - x[:, :, :-1], x[..., 1:] - x[..., :-1]
    return 5 * content + 100 * style + 1e-3 * (down.abs().sum() + right.abs().sum())


def bound(loss: Callable[..., Any], setting: Setting) -> Loss:
    """A loss with its setting, compiled if that says so."""
    fixed = partial(loss, setting=setting)
    return torch.compile(fixed) if setting.compiled else fixed


def evaluate(loss: Loss, image: Any, network: Network, targets: Targets) -> tuple[Any, Any]:
    """The loss and its gradient at an image that asks for one."""
    value = loss(image, network, targets)
    (gradient,) = torch.autograd.grad(value, image)
    return value.detach(), gradient


class Objective(NamedTuple):
    """What the program optimises, with its own settings."""

    loss: Callable[..., Any]
    caffe: bool  # whether the optimizer holds the preprocessed picture, not sRGB in [0, 1]
    pooling: str
    padding: str
    enlarge: bool  # paintings too
    resampling: Image.Resampling


CUBIC, LINEAR = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR
OBJECTIVES = {
    "default": Objective(default_loss, False, "avg", "replicate-all", False, CUBIC),
    "neural-style-pt": Objective(neural_style_loss, True, "max", "zero", True, LINEAR),
}


def minimise(fun: Callable[[Any], Any], start: Any, count: int, rate: float | None) -> Any:
    """The picture evaluated last, as neural-style-pt keeps it, and the loss at each evaluation.

    ``fun`` is value and gradient; ``rate`` is Adam's, None takes L-BFGS.
    """
    picture, last = start.clone().requires_grad_(), start.clone()
    losses: list[float] = []

    def closure() -> Any:
        value, picture.grad = fun(picture)
        losses.append(float(value))
        last.copy_(picture.detach())
        return value

    forever = {"tolerance_change": -1, "tolerance_grad": -1, "history_size": 100}
    lbfgs = torch.optim.LBFGS([picture], max_iter=count, **forever)  # all in one step
    minimizer = lbfgs if rate is None else torch.optim.Adam([picture], lr=rate)
    while len(losses) < count:
        minimizer.step(closure)
    return last, losses


def load_params(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """The arrays of a file that ``stylejax.weights`` stored."""
    with h5py.File(path) as file:
        return {k: {n: np.asarray(a) for n, a in group.items()} for k, group in file.items()}


def find_weights() -> Path:
    """Where ``stylejax.weights`` keeps the original VGG-19, if nothing else is said."""
    cache = Path(os.environ.get("STYLEJAX_CACHE") or Path.home() / ".cache" / "stylejax")
    ours = Path(__file__).resolve().parents[1] / "weights" / "vgg19.h5"
    for path in (ours, cache / "vgg19.h5", *cache.glob("vgg19-" + "[0-9a-f]" * 16 + ".h5")):
        if path.is_file():
            return path
    raise FileNotFoundError("no vgg19.h5 here; scripts/convert_weights.py fetches it")


def load_picture(path: Path, long_side: int, objective: Objective, enlarge: bool) -> np.ndarray:
    """A file as ``[H, W, 3]`` in [0, 1]."""
    picture = Image.open(path).convert("RGB")
    shrink = long_side / max(picture.size)
    if shrink < 1 or enlarge:
        width, height = (max(1, round(side * shrink)) for side in picture.size)
        picture = picture.resize((width, height), objective.resampling)
    return np.asarray(picture, np.float32) / 255


def save_picture(path: Path, image: Any) -> None:
    """Clips to [0, 1] and writes."""
    levels = image[0].permute(1, 2, 0).clamp(0, 1).mul(255).round()
    Image.fromarray(levels.cpu().numpy().astype(np.uint8)).save(path)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photo", type=Path)
    parser.add_argument("painting", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--evaluations", type=int, default=100)
    parser.add_argument("--objective", choices=[*OBJECTIVES], default="default")
    parser.add_argument("--optimizer", choices=["lbfgs", "adam"], default="lbfgs")
    parser.add_argument("--pooling", choices=[*POOLS], help="the objective's own if not given")
    parser.add_argument("--padding", choices=["zero", "replicate-all"], help="likewise")
    parser.add_argument("--layout", choices=[*LAYOUTS], default=Setting().layout)
    parser.add_argument("--precision", choices=["float32", "tf32", "bf16"], default="float32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--weights", type=Path, help="a file of stylejax's; found if not given")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Makes the picture."""
    options = parse(argv)
    objective = OBJECTIVES[options.objective]
    pooling, padding = options.pooling or objective.pooling, options.padding or objective.padding
    how = (options.layout, options.precision, options.compile, options.device)
    setting = Setting(pooling, padding, *how)
    configure(setting)
    network = convert(load_params(options.weights or find_weights()), setting)
    photo, painting = (
        to_tensor(load_picture(path, options.size, objective, enlarge), setting)
        for path, enlarge in ((options.photo, True), (options.painting, objective.enlarge))
    )
    mapped = preprocess(photo, network)
    targets = make_targets(mapped, preprocess(painting, network), network, setting)
    fun = partial(evaluate, bound(objective.loss, setting), network=network, targets=targets)
    start, unit = (mapped, 1.0) if objective.caffe else (photo, 1 / 255)
    rate = unit if options.optimizer == "adam" else None  # neural-style-pt's learning rate is 1
    picture, losses = minimise(fun, start, options.evaluations, rate)
    picture = postprocess(picture, *network["input"]) if objective.caffe else picture
    save_picture(options.output, picture)
    print(json.dumps({"evaluations": len(losses), "loss": losses[-1], **setting._asdict()}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
