"""Phantoms: synthetic mid-sagittal T2 images of the lumbar spine with exact disc contours.

`anatomy.spine` gives the shapes; this module paints them. Each edge is blended over one pixel (partial
volume) along the shape's own analytic edge, so the outlines returned are the ones painted. Soft tissues are
laid out in a frame that follows the spine: `s` mm down along the back of the column and `t` mm behind it
(negative in front).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import interpolate, ndimage  # type: ignore[import-untyped]  # scipy ships no types
from scipy.spatial import KDTree  # type: ignore[import-untyped]  # as above

from lumbar_disk.data import _anatomy as anatomy
from lumbar_disk.data._anatomy import Plate, Spine
from lumbar_disk.data._discs import LEVELS, Slice, cropped
from lumbar_disk.data._listing import Item, Listing, Options, Source
from lumbar_disk.data._outlines import Array

SHAPE = (352, 224)
PIXEL_MM = 0.7
# T2 signal of each tissue against that of CSF.
CSF, FAT, MARROW, CORD, BOWEL = 1.0, 0.75, 0.4, 0.4, 0.35
MUSCLE, ANNULUS, BLOOD, CORTEX = 0.2, 0.1, 0.07, 0.04
NUCLEUS = 0.5  # what a fully hydrated nucleus adds to the annulus


def find(_: Path, options: Options) -> Listing:
    """List the phantoms to draw."""

    def item(index: int) -> Item:
        return Item(
            f"phantom {index}",
            (),
            lambda: cropped(phantom(options.seed, index), options.size, upright=options.upright),
        )

    return Listing(tuple(map(item, range(options.patients))))


SOURCE = Source("phantom", find, options=("patients", "upright"))


def phantoms(count: int, seed: int) -> list[Slice]:
    """Draw synthetic patients `0 .. count - 1`; patient `i` depends on the seed and `i` alone.

    Example:
        >>> few, more = phantoms(1, seed=3), phantoms(2, seed=3)
        >>> bool((few[0].image == more[0].image).all()), sorted(few[0].outlines)
        (True, ['L1/L2', 'L2/L3', 'L3/L4', 'L4/L5', 'L5/S1'])

    Args:
        count: How many patients.
        seed: Chooses the population.

    Returns:
        Slices of 352 x 224 pixels of 0.7 mm, each with five outlines.
    """
    return [phantom(seed, index) for index in range(count)]


def phantom(seed: int, index: int) -> Slice:
    """Draw one synthetic patient; see `phantoms`."""
    rng = np.random.default_rng([seed, index])
    spine = anatomy.spine(rng, (SHAPE[1] * PIXEL_MM, SHAPE[0] * PIXEL_MM))
    y, x = np.indices(SHAPE) * PIXEL_MM
    s, t = _frame(spine.wall, x, y)
    backs, _ = _frame(spine.wall, *np.array([body.at(1.0, 0.0) for body in spine.bodies]).T)
    down = dict(zip(anatomy.BODIES, backs.tolist(), strict=True))
    skin = _skin(s - down["L5"], rng)
    image = np.zeros(SHAPE)
    _belly(image, spine, (x, y, s, t), down, rng)
    _back(image, t, skin, s - down["L5"], rng)
    _canal(image, s, t, down, rng)
    _air(image, t - skin)
    for plate in (*anatomy.spinous(spine.bodies, rng), *spine.bodies):
        _bone(image, plate, rng)
    for plate, wet in zip(spine.discs, spine.hydration, strict=True):
        _disc(image, plate, float(wet), rng)
    image *= _coil(x, y, skin - t, rng)
    outlines = {level: spine.discs[anatomy.DISCS.index(level)].outline() / PIXEL_MM for level in LEVELS}
    return Slice(f"phantom-{seed}-{index:03d}", _scan(image, rng), PIXEL_MM, outlines)


def _frame(wall: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """Each pixel's place along (s) and behind (t) a smooth curve through the wall's points, in mm."""
    knots = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(wall, axis=0), axis=1))])
    curve = interpolate.make_smoothing_spline(knots, wall, lam=300.0)
    along = np.arange(0.0, knots[-1], 0.5)
    points = curve(along)
    tangents = curve.derivative()(along)
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    pixels = np.stack([x.ravel(), y.ravel()], axis=1)
    nearest = KDTree(points).query(pixels)[1]
    offset, tangent = pixels - points[nearest], tangents[nearest]
    s = along[nearest] + np.einsum("ij,ij->i", offset, tangent)
    t = offset[:, 0] * tangent[:, 1] - offset[:, 1] * tangent[:, 0]
    return s.reshape(x.shape), t.reshape(x.shape)


def _belly(
    image: Array, spine: Spine, at: tuple[Array, ...], down: dict[str, float], rng: np.random.Generator
) -> None:
    """Paint what lies in front: the belly, fat with bowel in the pelvis, and vessels along the column."""
    x, y, s, t = at
    mottle, coarse = texture(image.shape, 6.0, rng), texture(image.shape, 14.0, rng)
    sacrum = spine.bodies[7].centre
    pelvis = ramp(y - sacrum[1] + 0.5 * (sacrum[0] - x), 12.0)
    loops = step(texture(image.shape, 8.0, rng) - 0.9, 0.1)
    paint(image, BOWEL * (0.5 + 0.12 * mottle + 0.15 * coarse), 1 - pelvis)
    paint(image, FAT * (0.8 + 0.1 * mottle) * (1 - 0.85 * loops), pelvis)
    # From the column forward: a dark ligament, uneven fat, the great vessels, which end at L4, fat.
    ligament = -t - spine.bodies[4].depth
    front = ligament - 2.0 * np.sin(s / 17.0 + rng.uniform(0, 6)) + 1.5 * mottle
    vessel = band(front, 6.0, 6.0 + rng.uniform(8.0, 15.0), 1.5) * ramp(down["L4"] - s, 6.0)
    paint(image, FAT * (0.6 + 0.12 * mottle), step(front + 8.0, 0.7) * step(9.0 + 3.0 * mottle - front, 3.0))
    paint(image, BLOOD + 0.05 * mottle, rng.uniform(0.4, 1.0) * vessel)
    paint(image, CORTEX, band(ligament, -0.3, 1.3, 0.5) * (1 - pelvis))


def _back(image: Array, t: Array, skin: Array, low: Array, rng: np.random.Generator) -> None:
    """Paint what lies behind: muscle and ligaments, streaked with fat; fat with septa under the skin."""
    fibres, mottle = texture(image.shape, (1.0, 3.0), rng), texture(image.shape, 6.0, rng)
    streaks = 0.4 * step(mottle + 0.3 * fibres - 0.6, 0.6)
    paint(image, MUSCLE * (1 + 0.45 * fibres) + streaks, step(t + 8.0, 0.7))
    under = skin - rng.uniform(6.0, 12.0) - rng.uniform(5.0, 18.0) * bump(low, 45.0)
    septa = 1 - 0.5 * step(0.12 - np.abs(texture(image.shape, 3.0, rng)), 0.1)
    paint(image, CORTEX, step(t - under + 2.5, 0.7))
    paint(image, FAT * septa, step(t - under, 0.7))


def _canal(image: Array, s: Array, t: Array, down: dict[str, float], rng: np.random.Generator) -> None:
    """Paint the canal down to S2: ligaments, epidural fat, most behind the discs, and the thecal sac."""
    tail = ramp(s - down["L5"], 9.0)
    front = 1.3 + rng.uniform(2.0, 6.0) * tail
    width = rng.uniform(12.5, 16.5) + rng.uniform(-1.5, 1.5) * np.sin(s / 40.0) - 5.0 * tail
    back = front + width
    interval = np.cos(2 * np.pi * (s - down["L3"]) / (down["L4"] - down["L3"]))
    fat = back + 1.0 + np.clip(rng.uniform(0.5, 3.5) - 3.0 * interval, 0.0, 5.0) + 3.0 * tail
    above = ramp(down["S2"] + 6.0 - s, 3.0)
    paint(image, 0.7 * MARROW, band(t, -6.0, 1.0, 0.5))
    paint(image, CORTEX, band(t, -0.3, fat + 1.5, 0.5) * above)
    paint(image, FAT * 0.9, band(t, 1.3 - 0.5 * tail, fat, 0.5) * above)
    paint(image, CORTEX, band(t, front - 0.7, back + 0.7, 0.4) * above)
    sac = _sac(s, (t - front) / width, down["L1"] + rng.uniform(-10.0, 14.0), rng)
    paint(image, sac, band(t, front, back, PIXEL_MM) * above)


def _air(image: Array, outside: Array) -> None:
    """Paint a thin skin and the air behind it."""
    paint(image, 0.35, step(outside, 0.5))
    paint(image, 0.0, step(outside - 1.5, 0.5))


def _sac(s: Array, depth: Array, conus: float, rng: np.random.Generator) -> Array:
    """The signal in the sac: CSF, the cord down to `conus`, roots; depth is 0 in front, 1 behind."""
    roots = ndimage.gaussian_filter(rng.standard_normal((40, 60)), (2.0, 0.9), mode="wrap")
    roots /= roots.std()
    rows = np.stack([s / 8.0, np.clip(depth, 0, 1) * 30.0])
    strands = step(ndimage.map_coordinates(roots, rows, order=1, mode="grid-wrap") - 0.5, 0.5)
    signal = CSF * (1 - 0.5 * strands * ramp(depth - 0.42, 0.1) * ramp(s - conus + 25.0, 12.0))
    half = 0.21 * ramp(conus - s, 8.0)
    paint(signal, CORD, step(half - np.abs(depth - 0.55), 0.05) * step(half - 0.03, 0.03))
    return signal


def _bone(image: Array, plate: Plate, rng: np.random.Generator) -> None:
    """Paint a bone: dark cortex around mottled marrow, fatty patches under worn end plates."""
    window, level, edge = _edge(plate, image.shape)
    marrow = MARROW * (1 + 0.1 * texture(level.shape, 1.2, rng) + 0.1 * texture(level.shape, 5.0, rng))
    marrow *= rng.normal(1.0, 0.05)
    marrow += 0.15 * ramp(level + rng.uniform(-0.1, 0.4), 0.05) * (rng.random() < 0.25)
    paint(image[window], CORTEX, step(-edge, PIXEL_MM))
    paint(image[window], marrow, step(-edge - 0.9, PIXEL_MM))


def _disc(image: Array, plate: Plate, wet: float, rng: np.random.Generator) -> None:
    """Paint a disc: dark annulus, a nucleus as bright as it is hydrated, its cleft."""
    window, level, edge = _edge(plate, image.shape)
    core = Plate(
        plate.centre,
        plate.tilt,
        0.78 * plate.depth,
        0.8 * plate.height,
        0.8 * plate.wedge,
        plate.dome,
        plate.bend,
        power=2.5,
    )
    inner = core.level(*_points(window))
    cleft = Plate(
        plate.centre, plate.tilt, 0.6 * plate.depth, 0.18 * plate.height, bend=plate.bend, power=2.0
    )
    signal = np.full_like(level, ANNULUS + 0.06 * wet)
    paint(signal, ANNULUS + NUCLEUS * wet**1.3, ramp(-inner - 0.15, 0.12))
    paint(signal, signal * 0.65, ramp(-cleft.level(*_points(window)), 0.3) * ramp(wet - 0.4, 0.1))
    signal *= 1 + 0.12 * texture(level.shape, 1.0, rng)
    paint(image[window], CORTEX, step(0.8 - edge, PIXEL_MM))
    paint(image[window], signal, step(-edge, PIXEL_MM))


def _skin(low: Array, rng: np.random.Generator) -> Array:
    """How far behind the column the skin lies, in mm, by the distance `low` down from L5."""
    seat = rng.uniform(2.0, 16.0) * bump(low, 50.0)
    return np.asarray(rng.normal(58.0, 4.0) + seat + 1.5 * np.sin(low / 23.0 + rng.uniform(0, 6)))


def _coil(x: Array, y: Array, depth: Array, rng: np.random.Generator) -> Array:
    """The surface coil's sensitivity: falls with the depth under the skin, and varies smoothly."""
    u, v = x / x.max() - 0.5, y / y.max() - 0.5
    a, b, c = rng.normal(0.0, 0.25, 3)
    reach = rng.uniform(110.0, 260.0)
    smooth = a * u + b * v + c * u * v - 0.8 * np.abs(v) ** 3
    return np.asarray(np.exp(smooth - np.clip(depth, 0, None) / reach))


def _scan(image: Array, rng: np.random.Generator) -> NDArray[np.float32]:
    """Blur by the scanner's point spread, add Rician noise, and scale to raw intensities."""
    image = ndimage.gaussian_filter(image, rng.uniform(0.25, 0.5))
    noise = rng.uniform(0.008, 0.025) * rng.standard_normal((2, *image.shape))
    magnitude = rng.uniform(300.0, 900.0) * np.hypot(image + noise[0], noise[1])
    return np.asarray(magnitude, dtype=np.float32)


def _edge(plate: Plate, shape: tuple[int, ...]) -> tuple[tuple[slice, slice], Array, Array]:
    """A window around a plate, and in it the edge function and the distance to the edge.

    The distance is in mm, negative inside, and infinite where the edge is farther than 4 mm.
    """
    reach = 0.5 * np.hypot(plate.depth + 2 * plate.back, plate.height + 2 * abs(plate.dome)) + 3.0
    low = np.clip((plate.centre - reach) / PIXEL_MM, 0, np.array(shape[::-1]) - 2).astype(int)
    high = np.clip((plate.centre + reach) / PIXEL_MM, low + 2, shape[::-1]).astype(int)
    window = (slice(low[1], high[1]), slice(low[0], high[0]))
    level = plate.level(*_points(window))
    x, y = _points(window)
    distance = KDTree(plate.outline()).query(np.stack([x, y], axis=-1), distance_upper_bound=4.0)[0]
    return window, level, np.copysign(distance, level)


def _points(window: tuple[slice, slice]) -> tuple[Array, Array]:
    """X and y in mm of a window's pixels."""
    y, x = np.mgrid[window] * PIXEL_MM
    return x, y


def paint(image: Array, signal: float | Array, cover: Array) -> None:
    """Lay a tissue over the picture, in place, where `cover` is 1; blend where it is between 0 and 1."""
    image += cover * (signal - image)


def step(depth: Array, width: float) -> Array:
    """The share of a pixel inside an edge: linear over `width`, 0.5 on the edge."""
    return np.asarray(np.clip(depth / width + 0.5, 0.0, 1.0))


def band(t: Array, low: Array | float, high: Array | float, width: float) -> Array:
    """The share of each pixel between two edges."""
    return step(t - low, width) * step(high - t, width)


def ramp(depth: Array | float, width: float) -> Array:
    """A smooth change from 0 to 1 around `depth` 0."""
    return np.asarray(0.5 + 0.5 * np.tanh(np.asarray(depth) / width))


def bump(offset: Array, width: float) -> Array:
    """A smooth hill of height 1."""
    return np.asarray(np.exp(-((offset / width) ** 2)))


def texture(shape: tuple[int, ...], grain: float | tuple[float, float], rng: np.random.Generator) -> Array:
    """Smooth noise of mean 0 and deviation about 1, `grain` pixels fine."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), grain, mode="wrap")
    return np.asarray(noise / noise.std())
