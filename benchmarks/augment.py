"""What a virtual sample costs: our splines and rasteriser against others', on the same shapes and images.

A sample is a thin-plate spline from a virtual shape to a real one (176 landmarks and 16 anchors), evaluated
at each of 128 x 128 pixels and used to resample one image. All methods run in every round, in turning order,
on the samples one at a time and in batches of `--batch`. Ratios to ours are taken within a round and at the
same size of batch; the tables give medians and quartiles. Errors are the largest over all samples and pixels,
in pixels, against our exact evaluation in float64, which the tests compare with scipy.

- ours: `fit` and `warp`; ours, exact: with `exact=True`.
- direct: pseudo-inverse of the full system in float64, all kernels at all pixels (the study's released code's
  method, written anew), `grid_sample`.
- kornia: `get_tps_transform`, `warp_image_tps`, in float32.
- scikit-image: `ThinPlateSplineTransform.from_estimate`, `warp`, one sample after the other.
- polygons: `advreg.metrics.rasterise` against `skimage.draw.polygon2mask` one after the other.

    python benchmarks/augment.py [--data ../shared/data/spider] [--batch 16] [--samples 32] [--rounds 7]
"""

import argparse
import importlib
import json
import os
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from advreg import __version__
from advreg.metrics import rasterise
from lumbar_disk.data import crops, phantoms, read_spider
from lumbar_disk.virtual import ShapeModel, Stream, border_anchors, fit_splines, warp

SIZE = (128, 128)
PIXELS = torch.stack(torch.meshgrid(torch.arange(128.0), torch.arange(128.0), indexing="xy"), -1).double()


def installed(name):
    """The module, or None where the peer is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def direct(kernel):
    """The released code's method: a pseudo-inverse in float64, then every kernel at every pixel."""

    def radial(one, other):
        distance = torch.cdist(one, other)
        return torch.xlogy(distance.square(), distance) if kernel == "r2logr" else distance

    def coordinates(virtual, real):
        ones = torch.ones_like(virtual[..., :1])
        linear = torch.cat([ones, virtual], -1)
        system = torch.cat(
            [
                torch.cat([radial(virtual, virtual), linear], 2),
                functional.pad(linear.mT, (0, 3)),
            ],
            1,
        )
        weights = torch.linalg.pinv(system) @ functional.pad(real, (0, 0, 0, 3))
        grid = PIXELS.view(1, -1, 2).expand(len(virtual), -1, -1)
        features = torch.cat([radial(grid, virtual), torch.ones_like(grid[..., :1]), grid], 2)
        return (features @ weights).view(-1, *SIZE, 2)

    def sample(images, virtual, real):
        grid = coordinates(virtual, real) * (2 / 127) - 1
        return functional.grid_sample(images, grid.float(), align_corners=True, padding_mode="border")

    return sample, coordinates


def ours(kernel, *, exact):
    def sample(images, virtual, real):
        return warp(images, fit_splines(virtual, real, kernel=kernel), exact=exact)

    return sample, lambda virtual, real: fit_splines(virtual, real, kernel=kernel).grid(SIZE, exact=exact)


def kornia():
    """kornia's functions as its documentation composes them.

    Its kernels are centred on the target points, not on the source points. It meets its landmarks, but it is
    not the spline of least bending energy, and with landmarks a pixel apart it is far from it between them.
    """
    module = installed("kornia.geometry.transform")
    if module is None:
        return None

    def normalised(points):
        return (points * (2 / 127) - 1).float()

    def sample(images, virtual, real):
        centres = normalised(real)
        weights, affine = module.get_tps_transform(normalised(virtual), centres)
        return module.warp_image_tps(images, centres, weights, affine, align_corners=True)

    def coordinates(virtual, real):
        centres = normalised(real)
        weights, affine = module.get_tps_transform(normalised(virtual), centres)
        grid = normalised(PIXELS).view(1, -1, 2).expand(len(virtual), -1, -1)
        found = module.warp_points_tps(grid, centres, weights, affine).double()
        return ((found + 1) * (127 / 2)).view(-1, *SIZE, 2)

    return sample, coordinates


def scikit_image():
    module = installed("skimage.transform")
    if module is None:
        return None

    def estimate(virtual, real):
        return module.ThinPlateSplineTransform.from_estimate(virtual.numpy(), real.numpy())

    def sample(images, virtual, real):
        return [
            module.warp(image[0].numpy(), estimate(*pair), order=1, mode="edge")
            for image, *pair in zip(images, virtual, real, strict=True)
        ]

    def coordinates(virtual, real):
        flat = PIXELS.view(-1, 2).numpy()
        found = [estimate(*pair)(flat) for pair in zip(virtual, real, strict=True)]
        return torch.from_numpy(np.stack(found)).view(-1, *SIZE, 2)

    return sample, coordinates


def samples(options):
    """Images, virtual shapes and real shapes: SSM-P10 of the data, and images drawn at random."""
    slices = read_spider(options.data) if options.data else phantoms(30, seed=0)
    discs = crops(slices)
    stream = Stream(discs, ShapeModel.fit(discs.contours, 10))
    drawn = stream.at(torch.arange(options.samples))
    anchors = border_anchors(SIZE).expand(len(drawn.index), -1, -1)
    virtual = torch.cat([drawn.contours.double(), anchors], 1)
    real = torch.cat([discs.contours[drawn.source].double(), anchors], 1)
    return discs.images[drawn.source], virtual, real, discs.contours


def seconds(function, batch, *tensors):
    """Seconds per sample over all samples, given in batches."""
    parts = list(zip(*(torch.split(tensor, batch) for tensor in tensors), strict=True))
    began = time.perf_counter()
    for part in parts:
        function(*part)
    return (time.perf_counter() - began) / len(tensors[0])


def compare(methods, tensors, options):
    """Seconds per sample of each method in each round, by the size of the batch."""
    for function in methods.values():
        function(*(tensor[:2] for tensor in tensors))  # warm up
    times = {batch: {name: [] for name in methods} for batch in (1, options.batch)}
    for number in range(options.rounds):
        names = list(methods)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            for batch, table in times.items():
                table[name].append(seconds(methods[name], batch, *tensors))
    return times


def rows(times, baseline, errors):
    """One row per method: time per sample and ratio to the baseline by size of batch; largest error."""
    for name in next(iter(times.values())):
        ratios = {
            batch: [time / base for time, base in zip(table[name], table[baseline], strict=True)]
            for batch, table in times.items()
        }
        yield {
            "method": name,
            "ms": {batch: 1e3 * statistics.median(table[name]) for batch, table in times.items()},
            "ratio": {batch: statistics.quantiles(values, n=4) for batch, values in ratios.items()},
            "error_px": errors.get(name),
        }


def splines(options):
    """The comparison of splines, one table per kernel."""
    images, virtual, real, _ = samples(options)
    for kernel in ("r2logr", "r"):
        methods = {
            "ours": ours(kernel, exact=False),
            "ours, exact": ours(kernel, exact=True),
            "direct, pseudo-inverse in float64": direct(kernel),
        }
        if kernel == "r2logr":
            methods |= {"kornia": kornia(), "scikit-image": scikit_image()}
        missing = [name for name, method in methods.items() if method is None]
        methods = {name: method for name, method in methods.items() if method is not None}
        exact = torch.cat([methods["ours, exact"][1](*pair) for pair in pairs(virtual, real)])
        errors = {
            name: max(
                float((coordinates(*pair) - truth[None]).norm(dim=-1).max())
                for pair, truth in zip(pairs(virtual, real), exact, strict=True)
            )
            for name, (_, coordinates) in methods.items()
        }
        table = compare(
            {name: sample for name, (sample, _) in methods.items()}, (images, virtual, real), options
        )
        yield f"splines, kernel {kernel}", [*rows(table, "ours", errors)], missing


def pairs(*tensors):
    """The samples one at a time, as batches of one."""
    return zip(*(torch.split(tensor, 1) for tensor in tensors), strict=True)


def polygons(options):
    """The comparison of rasterisers."""
    contours = samples(options)[3][: options.samples]
    draw = installed("skimage.draw")
    methods = {"advreg rasterise": lambda part: rasterise(part, SIZE)}
    if draw is not None:
        methods["scikit-image polygon2mask"] = lambda part: [
            draw.polygon2mask(SIZE, contour.flip(-1).numpy()) for contour in part
        ]
    table = compare(methods, (contours,), options)
    yield (
        "polygons",
        [*rows(table, "advreg rasterise", {})],
        [] if draw else ["scikit-image polygon2mask"],
    )


def markdown(title, table, missing):
    """One table, with the peers that are missing named below it."""
    batches = list(table[0]["ms"])
    heads = [f"ms a sample, batch {batch} | time over ours" for batch in batches]
    lines = [f"## {title}", "", f"| method | {' | '.join(heads)} | largest error, px |"]
    lines.append("|---" * (2 + 2 * len(batches)) + "|")
    for row in table:
        cells = [
            "{:.3f} | {:.2f} ({:.2f} to {:.2f})".format(
                row["ms"][b], *(row["ratio"][b][i] for i in (1, 0, 2))
            )
            for b in batches
        ]
        error = "" if row["error_px"] is None else f"{row['error_px']:.2g}"
        lines.append(f"| {row['method']} | {' | '.join(cells)} | {error} |")
    lines += ["", *(f"{name}: not installed, not compared." for name in missing)]
    return "\n".join(lines).rstrip() + "\n"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="a SPIDER folder; without it, synthetic discs")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "augment")
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("--rounds must be at least 2, for quartiles")

    results = [*splines(options), *polygons(options)]
    setting = (
        f"advreg {__version__}, torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads; {'SPIDER' if options.data else 'synthetic discs'}, "
        f"{options.samples} samples, batches of 1 and {options.batch}, {options.rounds} rounds; "
        "medians (quartiles)"
    )
    text = "\n".join([setting + "\n", *(markdown(*result) for result in results)])
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.with_suffix(".md").write_text(text)
    keys = ("title", "rows", "not_installed")
    tables = [dict(zip(keys, result, strict=True)) for result in results]
    record = {"setting": setting, "tables": tables}
    options.out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    print(text, f"wrote {options.out}.md and .json", sep="\n")


if __name__ == "__main__":
    main()
