"""Shapes of a synthetic lumbar spine in the mid-sagittal plane.

Lengths are in mm, x to posterior and y to inferior from the image's top-left pixel. The spine is a chain of
frames: bodies and discs alternate from T11 down to S3, each turned by its own angle; a disc's wedge is the
turn between its neighbours, so that end plates and discs fit. Every shape is a curved box with an analytic
edge (`Plate`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lumbar_disk.data._outlines import Array

# From top to bottom; the five lumbar discs are named by the paper's levels.
BODIES = ("T11", "T12", "L1", "L2", "L3", "L4", "L5", "S1", "S2", "S3")
DISCS = ("T11/T12", "T12/L1", "L1/L2", "L2/L3", "L3/L4", "L4/L5", "L5/S1", "S1/S2", "S2/S3")
_BODY_HEIGHT = np.array([24.0, 25.0, 26.5, 27.0, 27.5, 27.5, 27.0, 27.0, 20.0, 17.0])
_BODY_DEPTH = np.array([30.0, 31.5, 33.0, 34.0, 35.0, 35.5, 35.0, 32.0, 23.0, 18.0])
_DISC_HEIGHT = np.array([5.0, 6.0, 7.8, 9.0, 10.0, 10.8, 9.8, 2.6, 1.8])
# Angle of a body's depth axis against the horizontal in degrees, positive when its front hangs down.
_TILT = np.array([-16.0, -15.0, -13.0, -9.0, -3.0, 4.0, 15.0, 33.0, 44.0, 54.0])
# Half the angle between a body's end plates in degrees; positive when the body is higher in front.
_TAPER = np.array([-1.0, -1.0, -0.5, 0.0, 0.5, 1.5, 4.0, 1.0, 0.0, 0.0])


@dataclass(frozen=True)
class Plate:
    """Plate, a curved box: the bodies, the discs and the spinous processes.

    In its own frame, `u` in [-1, 1] from front to back and `v` from top to bottom, it fills `|u|**power
    + |(v - middle(u)) / half(u)|**power < 1` with the half-height `half(u) = height / 2 + wedge * u + dome
    * (1 - u**2)` and `middle(u) = bend * (1 - u**2)`, and its depth is pinched by the share `waist`
    half-way up.

    Attributes:
        centre: `(2,)` place of the frame's origin.
        tilt: Angle of the depth axis in radians; positive when the front hangs down.
        depth: Front to back.
        height: Mean height at the ends.
        wedge: Half the height gained towards the back (negative: higher in front).
        dome: Half the height added in the middle; negative makes the end plates concave.
        bend: Shift of the middle line, down.
        waist: Share of the depth lost half-way up.
        power: 2 is an ellipse; larger is squarer.
        back: Extra depth of the back half alone: a bulge.
    """

    centre: Array
    tilt: float
    depth: float
    height: float
    wedge: float = 0.0
    dome: float = 0.0
    bend: float = 0.0
    waist: float = 0.0
    power: float = 4.0
    back: float = 0.0

    def outline(self, points: int = 1000) -> NDArray[np.float64]:
        """`(points, 2)` points of the exact edge, closed, the first not repeated."""
        angle = np.arange(points) * (2 * np.pi / points)
        u, v = np.cos(angle), np.sin(angle)
        reach = (np.abs(u) ** self.power + np.abs(v) ** self.power) ** (1 / self.power)
        return self._place(u / reach, v / reach)

    def at(self, u: float, v: float) -> NDArray[np.float64]:
        """The point at `u` (-1 front, 1 back) and `v` (-1 top edge, 1 bottom edge)."""
        place: NDArray[np.float64] = self._place(np.array([u]), np.array([v]))[0]
        return place

    def level(self, x: Array, y: Array) -> NDArray[np.float64]:
        """The edge function at points (x, y): 0 on the edge, negative inside, -1 at the centre."""
        dx, dy = x - self.centre[0], y - self.centre[1]
        across = dx * np.cos(self.tilt) - dy * np.sin(self.tilt)
        down = dx * np.sin(self.tilt) + dy * np.cos(self.tilt)
        reach = self.depth / 2 + np.where(across > 0, self.back, 0.0)
        rough = np.clip(across / reach, -1, 1)
        v = (down - self.bend * (1 - rough**2)) / self._half(rough)
        u = across / (reach * self._pinch(np.clip(v, -1, 1)))
        v = (down - self.bend * (1 - np.clip(u, -1, 1) ** 2)) / self._half(np.clip(u, -1, 1))
        return np.asarray((np.abs(u) ** self.power + np.abs(v) ** self.power) ** (1 / self.power) - 1)

    def _half(self, u: Array) -> Array:
        return self.height / 2 + self.wedge * u + self.dome * (1 - u**2)

    def _pinch(self, v: Array) -> Array:
        return 1 - self.waist * (1 - v**2)

    def _place(self, u: Array, v: Array) -> NDArray[np.float64]:
        across = u * (self.depth / 2 + np.where(u > 0, self.back, 0.0)) * self._pinch(v)
        down = self.bend * (1 - u**2) + v * self._half(u)
        x = across * np.cos(self.tilt) + down * np.sin(self.tilt)
        y = -across * np.sin(self.tilt) + down * np.cos(self.tilt)
        return np.asarray(np.stack([x, y], axis=-1) + self.centre)


@dataclass(frozen=True)
class Spine:
    """Spine of one synthetic patient: bodies and discs, from top to bottom (`BODIES`, `DISCS`).

    Attributes:
        bodies: The vertebral bodies.
        discs: The discs between them.
        hydration: `(9,)` each disc's nucleus, 0 (black, degenerated) to 1 (bright, healthy).
        wall: `(n, 2)` points down the back of bodies and discs: where the canal begins.
    """

    bodies: tuple[Plate, ...]
    discs: tuple[Plate, ...]
    hydration: NDArray[np.float64]
    wall: NDArray[np.float64]


def spine(rng: np.random.Generator, extent: tuple[float, float]) -> Spine:
    """Draw one patient's spine.

    Args:
        rng: The patient's own source of chance.
        extent: Width and height of the picture in mm; L3 comes to lie near its middle.

    Returns:
        The spine, placed in the picture.
    """
    scale = rng.normal(1.0, 0.05)
    heights = _BODY_HEIGHT * scale * rng.normal(1.0, 0.03, len(BODIES))
    depths = _BODY_DEPTH * scale * rng.normal(1.0, 0.05) * rng.normal(1.0, 0.015, len(BODIES))
    tilts = np.radians(
        _TILT * rng.normal(1.0, 0.2) + rng.normal(0.0, 3.0) + rng.normal(0.0, 1.5, len(BODIES))
    )
    taper = np.radians(_TAPER)
    # Degeneration: a patient's age and a disc's own fate, worst in the low lumbar discs.
    low = np.array([0.0, 0.0, 0.0, 0.05, 0.1, 0.25, 0.25, 0.0, 0.0])
    worn = np.clip(rng.beta(1.5, 1.7) + rng.normal(0.0, 0.22, len(DISCS)) + low - 0.1, 0.0, 1.0)
    disc_heights = _DISC_HEIGHT * scale * rng.normal(1.0, 0.09, len(DISCS)) * (1.0 - 0.5 * worn**1.5)
    cup = np.abs(rng.normal(1.2, 0.5, len(DISCS))) * np.where(np.arange(len(DISCS)) > 6, 0.2, 1.0)
    bulge = np.abs(rng.normal(0.0, 0.8, len(DISCS))) + 2.2 * worn * rng.random(len(DISCS))
    bulge[7:] = 0.0

    bodies: list[Plate] = []
    discs: list[Plate] = []
    place = np.zeros(2)
    for i in range(len(BODIES)):
        top, bottom = cup[max(i - 1, 0)], cup[min(i, len(cup) - 1)]
        body_down = np.array([np.sin(tilts[i]), np.cos(tilts[i])])
        place = place + body_down * heights[i] / 2
        bodies.append(
            Plate(
                centre=place,
                tilt=tilts[i],
                depth=depths[i],
                height=heights[i],
                dome=-(top + bottom) / 2,
                bend=(top - bottom) / 2,
                waist=rng.uniform(0.06, 0.13) if i < 7 else 0.04,
                power=rng.uniform(6.0, 9.0),
                wedge=-np.tan(taper[i]) * depths[i] / 2,
            )
        )
        place = place + body_down * heights[i] / 2
        if i == len(DISCS):
            break
        above, below = tilts[i] + taper[i], tilts[i + 1] - taper[i + 1]
        tilt = (above + below) / 2
        depth = min(depths[i], depths[i + 1]) * rng.normal(1.0, 0.015)
        # The neighbours' turn opens the disc in front; a collapsed disc stays 45% of its height behind.
        most = 0.55 * disc_heights[i]
        opening = np.clip((below - above) * depth / 2, -most, most)
        down = np.array([np.sin(tilt), np.cos(tilt)])
        forward = np.array([-np.cos(tilt), np.sin(tilt)])
        slip = rng.normal(0.0, 0.5)
        place = place + down * disc_heights[i] / 2 + forward * slip
        discs.append(
            Plate(
                centre=place,
                tilt=tilt,
                depth=depth,
                height=disc_heights[i],
                wedge=-opening / 2,
                dome=cup[i] * rng.uniform(0.75, 1.0),
                bend=rng.normal(0.0, 0.5),
                power=rng.uniform(3.2, 6.0),
                back=bulge[i],
            )
        )
        place = place + down * disc_heights[i] / 2

    middle = np.array([extent[0] * rng.normal(0.38, 0.015), extent[1] * rng.normal(0.45, 0.02)])
    shift = middle - bodies[4].centre
    bodies = [replace(plate, centre=plate.centre + shift) for plate in bodies]
    discs = [replace(plate, centre=plate.centre + shift) for plate in discs]
    return Spine(tuple(bodies), tuple(discs), 1.0 - worn, _wall(bodies, discs))


def spinous(bodies: Sequence[Plate], rng: np.random.Generator) -> list[Plate]:
    """The spinous processes: a plate behind and below each body down to L5."""
    plates = []
    for body in bodies[:7]:
        tilt = body.tilt - np.radians(rng.normal(16.0, 5.0))
        reach = body.depth / 2 + rng.uniform(33.0, 37.0)
        centre = body.centre + reach * np.array([np.cos(tilt), -np.sin(tilt)])
        plates.append(
            Plate(
                centre,
                tilt,
                rng.uniform(26.0, 31.0),
                rng.uniform(15.0, 20.0),
                wedge=rng.uniform(1.0, 4.0),
                power=4.0,
            )
        )
    return plates


def _wall(bodies: list[Plate], discs: list[Plate]) -> NDArray[np.float64]:
    """Points down the back of the column: three on each body, one on each disc."""
    points = []
    for i, body in enumerate(bodies):
        points += [body.at(1.0, -0.7), body.at(1.0, 0.0), body.at(1.0, 0.7)]
        if i < len(discs):
            points.append(discs[i].at(1.0, 0.0))
    return np.array(points)
