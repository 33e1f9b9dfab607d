# SPDX-License-Identifier: Apache-2.0
"""Draw a set of digits that stands in for MNIST where no copy of it can be had.

The set has MNIST's shape (60,000 + 10,000 grey images of 28x28) and files, but it is NOT MNIST, and an accuracy on it
says nothing about handwriting. Verdicts name it ``generated``.

It is the same on every machine, bit for bit. So only operations are used whose results IEEE 754 fixes: + - * / and the
square root, element by element, in float64. No sine or exponential (C libraries differ in the last bit), no sum over an
axis and no matrix product (their order of addition depends on the processor). Random numbers are
``RandomState.random_sample``, which NumPy promises never to change.

How a digit is drawn: each digit has a few styles, each made of straight strokes. For each style the distance to the
nearest stroke is computed once on a fine grid. An image is that grid seen through a random distortion (turn, stretch,
slant, bend, shift), cut off at a random stroke width, with random ink, scratches and noise.

    python generate_digits.py --out DIR
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys

import numpy as np

SIDE = 28
GRID = 96  # points per side of the fine grid, which covers the square from -1.5 to 1.5
GRID_HALF_WIDTH = 1.5
CHUNK = 100
SETS = (("train", 60000, 20261), ("t10k", 10000, 20262))  # name, number of images, seed

#: Strokes as lists of points; x to the right and y down, both from -1 to 1. Several styles per digit.
STYLES = {
    0: (
        [[(0, -1), (0.5, -0.75), (0.62, 0), (0.5, 0.75), (0, 1), (-0.5, 0.75), (-0.62, 0),
          (-0.5, -0.75), (0, -1)]],
        [[(0.1, -0.9), (-0.35, -0.8), (-0.5, -0.1), (-0.35, 0.7), (0.05, 0.9), (0.45, 0.6),
          (0.5, -0.2), (0.1, -0.9)]],
        [[(0.3, -0.95), (-0.4, -0.6), (-0.6, 0.3), (-0.2, 0.95), (0.4, 0.6), (0.6, -0.3),
          (0.3, -0.95), (0.1, -0.7)]],
    ),
    1: (
        [[(0, -1), (0, 1)]],
        [[(-0.35, -0.6), (0.05, -1), (0.05, 1)]],
        [[(-0.4, -0.55), (0, -1), (0, 1)], [(-0.4, 1), (0.4, 1)]],
    ),
    2: (
        [[(-0.5, -0.6), (-0.2, -0.95), (0.3, -0.9), (0.5, -0.5), (0.3, -0.05), (-0.55, 0.95), (0.6, 0.95)]],
        [[(-0.45, -0.75), (0.1, -1), (0.5, -0.65), (0.2, 0.1), (-0.5, 0.9), (-0.1, 0.75), (0.6, 0.9)]],
        [[(-0.55, -0.9), (0.45, -0.9), (0.5, -0.1), (-0.5, 0.1), (-0.5, 0.9), (0.55, 0.9)]],
    ),
    3: (
        [[(-0.5, -0.85), (0.1, -1), (0.5, -0.6), (0.3, -0.15), (-0.1, 0), (0.4, 0.15),
          (0.55, 0.6), (0.1, 1), (-0.5, 0.85)]],
        [[(-0.5, -0.95), (0.5, -0.95), (-0.05, -0.15), (0.45, 0.1), (0.5, 0.65), (0.05, 1), (-0.5, 0.8)]],
        [[(-0.45, -0.9), (0.45, -0.8), (0.4, -0.1), (-0.2, 0), (0.45, 0.1), (0.45, 0.85), (-0.5, 0.95)]],
    ),
    4: (
        [[(0.25, 1), (0.25, -1), (-0.6, 0.3), (0.65, 0.3)]],
        [[(-0.4, -0.95), (-0.5, 0.05), (0.55, 0.05)], [(0.3, -0.95), (0.3, 1)]],
        [[(-0.3, -1), (-0.55, 0.2), (0.5, 0.1)], [(0.45, -0.7), (0.1, 1)]],
    ),
    5: (
        [[(0.5, -0.95), (-0.4, -0.95), (-0.45, -0.1), (0.1, -0.25), (0.55, 0.15), (0.45, 0.75),
          (0, 1), (-0.5, 0.8)]],
        [[(0.55, -0.9), (-0.35, -0.85), (-0.4, 0), (0.35, -0.05), (0.5, 0.5), (0.15, 0.95), (-0.55, 0.9)]],
        [[(0.4, -0.9), (-0.5, -0.8), (-0.4, -0.05), (0.4, 0.05), (0.5, 0.85), (-0.5, 0.95)]],
    ),
    6: (
        [[(0.4, -0.9), (-0.2, -0.55), (-0.5, 0.2), (-0.3, 0.85), (0.15, 1), (0.5, 0.6),
          (0.3, 0.15), (-0.15, 0.1), (-0.45, 0.4)]],
        [[(0.1, -1), (-0.4, -0.2), (-0.5, 0.6), (0, 1), (0.45, 0.75), (0.35, 0.25), (-0.45, 0.35)]],
        [[(-0.3, -1), (-0.5, 0.3), (-0.3, 0.95), (0.4, 0.9), (0.45, 0.2), (-0.4, 0.15)]],
    ),
    7: (
        [[(-0.55, -0.9), (0.55, -0.9), (-0.1, 1)]],
        [[(-0.5, -0.95), (0.5, -0.85), (0.1, 0.1), (0, 1)], [(-0.25, 0.05), (0.4, 0.05)]],
        [[(-0.55, -0.6), (-0.5, -0.95), (0.45, -0.9), (0.3, 0), (0.25, 1)]],
    ),
    8: (
        [
            [(0, -1), (0.4, -0.75), (0.35, -0.25), (0, 0), (-0.35, -0.25), (-0.4, -0.75), (0, -1)],
            [(0, 0), (0.45, 0.3), (0.45, 0.75), (0, 1), (-0.45, 0.75), (-0.45, 0.3), (0, 0)],
        ],
        [[(0.4, -0.8), (-0.1, -1), (-0.45, -0.6), (0.45, 0.5), (0.1, 1), (-0.45, 0.65),
          (0.4, -0.45), (0.4, -0.8)]],
        [[(0.35, -0.9), (-0.4, -0.8), (-0.3, -0.1), (0.4, 0.1), (0.45, 0.9), (-0.45, 0.9),
          (-0.4, 0.15), (0.4, -0.2), (0.35, -0.9)]],
    ),
    9: (
        [[(0.45, -0.4), (0.15, -0.1), (-0.3, -0.15), (-0.5, -0.6), (-0.15, -1), (0.3, -0.85),
          (0.5, -0.2), (0.2, 0.55), (-0.4, 0.9)]],
        [[(0.45, -0.35), (-0.35, -0.25), (-0.45, -0.75), (0, -1), (0.5, -0.6), (0.4, 0.2), (-0.1, 1)]],
        [[(0.4, -0.15), (-0.45, -0.2), (-0.4, -0.9), (0.3, -0.95), (0.5, -0.3), (0.3, 1)]],
    ),
}  # fmt: skip
STYLES_PER_DIGIT = 3


def distance_fields():
    """Return, for each style of each digit, the distance of each grid point to the nearest stroke, flat."""
    axis = (np.arange(GRID) / (GRID - 1.0) * 2 - 1) * GRID_HALF_WIDTH
    y, x = axis[:, None] + 0 * axis[None, :], axis[None, :] + 0 * axis[:, None]
    fields = []
    for digit in range(10):
        for strokes in STYLES[digit]:
            nearest = np.full((GRID, GRID), 9.0)
            for stroke in strokes:
                for (x0, y0), (x1, y1) in zip(stroke, stroke[1:]):
                    nearest = np.minimum(nearest, distance_to_segment(x, y, x0, y0, x1, y1))
            fields.append(nearest.reshape(-1))
    return np.concatenate(fields)


def distance_to_segment(x, y, x0, y0, x1, y1):
    """Return the distance of points to the straight line between two points."""
    dx, dy = x1 - x0, y1 - y0
    along = ((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy)
    along = np.minimum(np.maximum(along, 0.0), 1.0)
    ex, ey = x - x0 - along * dx, y - y0 - along * dy
    return np.sqrt(ex * ex + ey * ey)


def draw(random, count, fields):
    """Draw ``count`` images; return them as bytes with their labels."""

    def between(low, high):
        """One random number per image, as a column."""
        return low + (high - low) * random.random_sample((count, 1))

    digit = (10 * random.random_sample(count)).astype(np.int64)
    style = (STYLES_PER_DIGIT * random.random_sample(count)).astype(np.int64)

    # Where each pixel of an image lies in the drawing: the inverse of how the pen's owner distorted it.
    axis = (np.arange(SIDE) - (SIDE - 1) / 2.0) / 10.0  # a digit is about 20 pixels high
    u, v = (0 * axis[:, None] + axis[None, :]).reshape(1, -1), (axis[:, None] + 0 * axis[None, :]).reshape(1, -1)
    u, v = u - between(-0.25, 0.25), v - between(-0.25, 0.25)  # shift
    half_tangent = between(-0.16, 0.16)  # turn by up to 18 degrees; sine and cosine as fractions of it
    square = half_tangent * half_tangent
    cosine, sine = (1 - square) / (1 + square), 2 * half_tangent / (1 + square)
    u, v = cosine * u + sine * v, cosine * v - sine * u
    u = u + between(-0.35, 0.35) * v  # slant
    u, v = u * between(0.85, 1.4), v * between(0.9, 1.35)  # stretch
    u, v = u + between(-0.25, 0.25) * (v * v - 0.4), v + between(-0.25, 0.25) * (u * u - 0.2)  # bend
    u, v = u + between(-0.2, 0.2) * u * v, v + between(-0.2, 0.2) * u * v

    ink = look_up(fields, digit * STYLES_PER_DIGIT + style, u, v)
    ink = stroke(ink, between(0.07, 0.22)) * between(0.65, 1.0)
    scratch = distance_to_segment(u, v, between(-1.4, 1.4), between(-1.4, 1.4), between(-1.4, 1.4), between(-1.4, 1.4))
    ink = np.maximum(ink, stroke(scratch, between(-0.2, 0.1)) * between(0.3, 0.9))
    noise = random.random_sample(ink.shape) + random.random_sample(ink.shape) - 1
    ink = ink + between(0.0, 0.45) * noise
    pixels = np.floor(np.minimum(np.maximum(ink, 0.0), 1.0) * 255 + 0.5)
    return pixels.astype(np.uint8), digit.astype(np.uint8)


def stroke(distance, half_width):
    """Return the ink at a distance from a stroke's middle: 1 inside, 0 outside, a soft edge of one pixel between."""
    return np.minimum(np.maximum((half_width - distance) / 0.1 + 0.5, 0.0), 1.0)


def look_up(fields, which, u, v):
    """Read the distance fields at points between the grid's, by bilinear interpolation."""
    last = GRID - 1.0
    column = np.minimum(np.maximum((u / GRID_HALF_WIDTH + 1) * (last / 2), 0.0), last - 0.001)
    row = np.minimum(np.maximum((v / GRID_HALF_WIDTH + 1) * (last / 2), 0.0), last - 0.001)
    left, top = column.astype(np.int64), row.astype(np.int64)
    right_share, bottom_share = column - left, row - top
    corner = which[:, None] * (GRID * GRID) + top * GRID + left
    above = fields[corner] * (1 - right_share) + fields[corner + 1] * right_share
    below = fields[corner + GRID] * (1 - right_share) + fields[corner + GRID + 1] * right_share
    return above * (1 - bottom_share) + below * bottom_share


def idx_header(*sizes):
    """Return the header of an IDX file of unsigned bytes."""
    return np.array([0x800 + len(sizes), *sizes], dtype=">u4").tobytes()


def generate(directory):
    """Write the four IDX files into ``directory``; return ``{file name: SHA-256}``."""
    fields = distance_fields()
    sums = {}
    for name, count, seed in SETS:
        random = np.random.RandomState(seed)
        images, labels = [idx_header(count, SIDE, SIDE)], [idx_header(count)]
        for _ in range(count // CHUNK):
            pixels, digits = draw(random, CHUNK, fields)
            images.append(pixels.tobytes())
            labels.append(digits.tobytes())
        for file_name, parts in ((f"{name}-images-idx3-ubyte", images), (f"{name}-labels-idx1-ubyte", labels)):
            content = b"".join(parts)
            with open(os.path.join(directory, file_name), "wb") as stream:
                stream.write(content)
            sums[file_name] = hashlib.sha256(content).hexdigest()
    return sums


def main():
    parser = argparse.ArgumentParser(description="Draw a set of digits that stands in for MNIST.")
    parser.add_argument("--out", required=True, help="existing directory for the four files")
    options = parser.parse_args()
    try:
        print(json.dumps(generate(options.out), sort_keys=True))
    except OSError as error:
        print(f"cannot write the digits: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
