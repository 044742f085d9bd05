"""The yardstick: stylejax against the same objective in PyTorch, in turns on one machine.

python benchmarks/against_torch.py [--what evaluation run memory] [--sizes 256 512 1024]
    [--poolings avg max] [--paddings zero replicate-all] [--repeats 7] [--json FILE]   (see --help)

``evaluation``: seconds for one loss and its gradient. Ours are counted inside the compiled loop
(``evaluation.py``), so L-BFGS is in them; PyTorch's (``torch_reference.py``) are the evaluation
alone, in the fastest of its settings, found by trying. ``ours/floor`` compares with the time that
the FLOPs of the direct convolutions and of their input gradients take at the rate of a matrix
product measured in between. Before anything is timed float32 losses must agree to 1e-4, and so must
95% of the gradients' numbers (all of them to 1e-2: a ReLU that rounding flips is worth up to 1e-3,
in a few pixels). Our canvas is pixels here, so that both evaluate the same pictures.
``run``: whole runs of 100 evaluations; ``memory``: short ones of a large picture (``whole_runs``).

All want an idle machine; the load is printed. PyTorch's threads spin while they wait, which made it
25 times slower beside a busy neighbour (64 px, two cores), so they sleep here unless the
environment says ``OMP_WAIT_POLICY=ACTIVE``. ``taskset -c 1`` compares the two on one core.
"""

import argparse
import json
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch_reference
from evaluation import STEPS, Run, flops
from torch_reference import OBJECTIVES, Setting
from whole_runs import Race, compete, pictures

from stylejax import DEFAULT_WEIGHTS, Config, Status, images, record, scale, vgg, weights
from stylejax.canvas import PIXELS
from stylejax.options import POOLS

PADDINGS, TRIALS = ("zero", "replicate-all"), 3
LIMITS = 1e-4, 1e-2, 1e-4  # of TorchRun.apart
ROOT = Path(__file__).resolve().parents[1]
Row = dict[str, Any]
# PyTorch's precision, by ours.
RIVALS = {"highest": "float32", "default": "tf32", "bfloat16": "bf16"}


class Point(NamedTuple):
    """Pictures ``[size, size, 3]``, and what stylejax makes of them."""

    image: np.ndarray
    photo: np.ndarray
    painting: np.ndarray
    value: float
    gradient: np.ndarray


def apart(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """The norm of a difference over that of ``b``: all of it, and but for the largest 5%."""
    squares = np.sort(np.square(a - b).ravel())
    whole, most = squares.sum(), squares[: squares.size * 19 // 20].sum()
    return float(np.sqrt(whole) / np.linalg.norm(b)), float(np.sqrt(most) / np.linalg.norm(b))


class TorchRun:
    """PyTorch in one setting, driven evaluation by evaluation."""

    def __init__(self, params: vgg.Params, point: Point, setting: Setting) -> None:
        """Evaluates once, and compares in float32."""
        self.setting = setting
        self.seconds: list[float] = []
        torch_reference.configure(setting)
        self.network = torch_reference.convert(params, setting)
        self.loss = torch_reference.bound(torch_reference.default_loss, setting)
        image, *rest = (torch_reference.to_tensor(each, setting) for each in point[:3])
        photo, painting = (torch_reference.preprocess(x, self.network) for x in rest)
        self.targets = torch_reference.make_targets(photo, painting, self.network, setting)
        self.image = image.requires_grad_()
        value, gradient = self.evaluate()
        gradient = gradient[0].permute(1, 2, 0).cpu().numpy()
        self.apart = abs(float(value) / point.value - 1), *apart(gradient, point.gradient)
        if setting.precision == "float32" and any(np.greater(self.apart, LIMITS)):
            raise SystemExit(f"{self}: not the same objective, relative differences {self.apart}")

    def __str__(self) -> str:
        """What of the setting is a matter of speed."""
        return " ".join(self.setting[2:4]) + " compiled" * self.setting.compiled

    def evaluate(self) -> tuple[Any, Any]:
        """Value and gradient, tensors."""
        return torch_reference.evaluate(self.loss, self.image, self.network, self.targets)

    def chunk(self, count: int = STEPS) -> None:
        """A few evaluations, timed."""
        torch_reference.configure(self.setting)
        began = time.perf_counter()
        for _ in range(count):
            self.evaluate()
        if self.setting.device == "cuda":
            torch.cuda.synchronize()
        self.seconds.append((time.perf_counter() - began) / count)


def device() -> str:
    """JAX's device, in PyTorch's words."""
    if jax.default_backend() == "cpu":
        return "cpu"
    if not torch.cuda.is_available():
        raise SystemExit(f"jax runs on {jax.devices()[0]}, which this PyTorch cannot use")
    return "cuda"


def one_step(ours: Run, size: int) -> Point:
    """Where the compiled loop is after a step, with the value and gradient that it has there."""
    photo, painting = pictures(size)
    key, shape = jax.random.key(0), (size, size)
    state, targets = ours.programs.prepare(
        ours.params, photo, (painting,), None, DEFAULT_WEIGHTS, key, size=shape, config=ours.config
    )
    # Two, because the first evaluates the start.
    state, _ = ours.programs.advance(
        state, ours.params, targets, DEFAULT_WEIGHTS, 2, length=STEPS, config=ours.config
    )
    gradient = np.asarray(state.engine.gradient)
    return Point(np.asarray(state.z), photo, painting, float(state.value), gradient)


def rivals(params: vgg.Params, point: Point, config: Config, compiling: bool) -> Iterator[TorchRun]:
    """PyTorch in every setting that competes."""
    pooling = next(name for name, pool in POOLS.items() if pool is config.pool)
    precision = RIVALS[config.precision]
    for how in product(torch_reference.LAYOUTS, [precision], (False, True)[: 1 + compiling]):
        setting = Setting(pooling, config.padding, *how)._replace(device=device())
        try:
            yield TorchRun(params, point, setting)
        except (AssertionError, RuntimeError) as error:  # of torch.compile
            print(f"left out: {setting}: {error}".partition("\n")[0], file=sys.stderr)


def fastest(runs: list[TorchRun]) -> TorchRun:
    """The run with the least time for one evaluation, tried in turns."""
    for _ in range(TRIALS):
        for run in runs:
            run.chunk(1)
    return min(runs, key=lambda run: min(run.seconds))


def gemm_rate(precision: str) -> float:
    """FLOP/s of a matrix product of a convolution's shape, median of 15."""
    dtype = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
    rows = 4096 if device() == "cpu" else 2**18
    a, b = jnp.ones((rows, 2304), dtype), jnp.ones((2304, 256), dtype)
    multiply = jax.jit(partial(jnp.matmul, precision=precision))
    seconds = []
    for _ in range(16):
        began = time.perf_counter()
        multiply(a, b).block_until_ready()
        seconds.append(time.perf_counter() - began)
    return 2 * rows * 2304 * 256 / statistics.median(seconds[1:])  # the first one compiles


def evaluation(options: argparse.Namespace) -> Iterator[Row]:
    """A row per size, pooling, padding and precision."""
    params = scale.at_hand(weights.load(weights.resolve()))
    for size, pooling, padding, precision in product(
        options.sizes, options.poolings, options.paddings, options.precisions
    ):
        pool: Any = POOLS[pooling]
        config = replace(Config(canvas=PIXELS), pool=pool, padding=padding, precision=precision)
        ours = Run(params, size, config)
        runs = [*rivals(params, one_step(ours, size), config, options.compile)]
        theirs = fastest(runs)
        tried = {str(run): min(run.seconds) for run in runs}
        theirs.seconds.clear()
        rate = gemm_rate(precision)
        for _ in range(options.repeats):
            ours.chunk()
            theirs.chunk()
        assert int(ours.state.status) == Status.RUNNING, "L-BFGS ended: take fewer --repeats"
        mine, its = statistics.median(ours.seconds), statistics.median(theirs.seconds)
        yield {
            **{"size": size, "pooling": pooling, "padding": padding, "precision": precision},
            "ours": mine,
            "torch": its,
            "ratio": mine / its,
            "setting": str(theirs),
            "floor": mine * rate / flops(size),
            "gflops": rate / 1e9,
            "tried": tried,
            "apart": theirs.apart,
            "all": [ours.seconds, theirs.seconds],
            "load": os.getloadavg(),
        }


def run(options: argparse.Namespace) -> Iterator[Row]:
    """Rows of whole runs."""
    race = Race(options.photo, options.painting, options.run_size, options.evaluations)
    return compete(race, options.objectives, options.repeats, device())


def memory(options: argparse.Namespace) -> Iterator[Row]:
    """Rows of one short run each of a large picture."""
    with TemporaryDirectory() as folder:
        paths = Path(folder, "photo.png"), Path(folder, "painting.png")
        for path, image in zip(paths, pictures(options.memory_size), strict=True):
            images.save(path, image)
        yield from compete(Race(*paths, options.memory_size, 4), ["default"], 1, device())


def machine() -> Row:
    """What the numbers depend on."""
    models = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "device": jax.devices()[0].device_kind,
        "openmp": os.environ.get("OMP_WAIT_POLICY"),
        "versions": {**record.versions(), "torch": torch.__version__},
        "load": os.getloadavg(),
    }


# Of each part: its rows, the names of their columns, and a line.
EVALUATION = (
    " size  pool  padding        precision    ours s   torch s  ours/torch  ours/floor  GFLOP/s"
    "  load  torch's setting",
    "{size:5}  {pooling:4}  {padding:13}  {precision:9}  {ours:8.4g}  {torch:8.4g}  {ratio:10.2f}"
    "  {floor:10.2f}  {gflops:7.0f}  {load[0]:4.1f}  {setting}",
)
WHOLE = (
    " size                                   name   seconds  to torch  peak MB  evaluations  loss",
    "{size:5}  {name:>37}  {seconds:8.1f}  {ratio:8.2f}  {peak:7.0f}  {done:11.0f}  {loss:.5g}",
)
PARTS: dict[str, tuple[Callable[[argparse.Namespace], Iterator[Row]], tuple[str, str]]] = {
    "evaluation": (evaluation, EVALUATION),
    "run": (run, WHOLE),
    "memory": (memory, WHOLE),
}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--what", nargs="+", choices=[*PARTS], default=[*PARTS])
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024])
    both = [*torch_reference.POOLS]
    parser.add_argument("--poolings", nargs="+", choices=both, default=both)
    parser.add_argument("--paddings", nargs="+", choices=PADDINGS, default=PADDINGS)
    parser.add_argument("--precisions", nargs="+", choices=[*RIVALS], help="default: all on GPU")
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, help="torch.compile too; on GPU unasked"
    )
    parser.add_argument("--photo", type=Path, default=ROOT / "examples" / "photo.jpg")
    parser.add_argument("--painting", type=Path, default=ROOT / "examples" / "painting.jpg")
    parser.add_argument("--objectives", nargs="+", choices=[*OBJECTIVES], default=["default"])
    numbers = {"repeats": 7, "run-size": 320, "evaluations": 100, "memory-size": 1024}
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures what is asked for; a row is printed and kept as soon as it is known."""
    options = parse(argv)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leave PyTorch some of a GPU
    if options.compile is None:
        options.compile = device() == "cuda"
    options.precisions = options.precisions or (["highest"] if device() == "cpu" else [*RIVALS])
    report: dict[str, Any] = {"machine": machine()}
    print(json.dumps(report["machine"]))
    for what in options.what:
        rows, (heading, line) = PARTS[what]
        report[what] = []
        print(f"\n{what}\n{heading}")
        for row in rows(options):
            print(line.format(**row), flush=True)
            report[what].append(row)
            if options.json:
                options.json.write_text(json.dumps(report, indent=1))
    return 0


if __name__ == "__main__":
    if "OMP_WAIT_POLICY" not in os.environ:  # read when PyTorch is loaded: start once more
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.execv(sys.executable, sys.orig_argv)
    raise SystemExit(main())
