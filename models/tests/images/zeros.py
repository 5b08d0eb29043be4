#!/usr/bin/env python3
"""Makes zeros.bin: JPEG files to tear holes into, and plain ones whose data is nearly all zeros or ones.

    python3 zeros.py    # needs libjpeg-turbo's cjpeg in the path, nothing else

The archive is laid out as variants.bin: a line of JSON (a list of name, bytes), a newline, the files one after the other.
"""
import itertools, json, math, os, random, subprocess, zlib

random.seed(29)
cases = []


def cjpeg(width, height, pixels, *options):
    ppm = b"P6 %d %d 255\n" % (width, height) + bytes(pixels)
    return subprocess.run(["cjpeg", *options], input=ppm, capture_output=True, check=True).stdout


def tissue(side):
    """Rose ground with waves, violet nuclei and noise."""
    nuclei = [(random.random() * side, random.random() * side, 3 + random.random() * 5) for _ in range(side * side // 700)]
    ground = [[(225, 170 + 20 * math.sin(x / 17 + y / 41), 205) for x in range(side)] for y in range(side)]
    for cx, cy, r in nuclei:
        for y in range(max(0, int(cy - r)), min(side, int(cy + r) + 1)):
            for x in range(max(0, int(cx - r)), min(side, int(cx + r) + 1)):
                if (x - cx) ** 2 + (y - cy) ** 2 < r * r:
                    ground[y][x] = (90, 60, 140)
    return [min(255, max(0, int(value + random.gauss(0, 6)))) for row in ground for pixel in row for value in pixel]


def add(name, data):
    cases.append((dict(name=name, bytes=len(data)), data))


picture = tissue(320)
KINDS = {"baseline": ["-baseline"], "optimised": ["-optimize"], "progressive": ["-progressive"]}
for kind, options in KINDS.items():
    add(f"tissue/{kind}", cjpeg(320, 320, picture, "-quality", "85", "-sample", "2x2", *options))
colours = dict(white=(255, 255, 255), black=(0, 0, 0), grey=(128, 128, 128), rose=(226, 171, 203))
for (colour, rgb), quality, sample, (kind, options) in itertools.product(colours.items(), (30, 75, 90, 100), ("1x1", "2x1", "2x2"), KINDS.items()):
    add(f"plain/{colour}-q{quality}-{sample}-{kind}", cjpeg(512, 264, rgb * (512 * 264), "-quality", str(quality), "-sample", sample, *options))
ramp = [value for y in range(256) for x in range(512) for value in (x // 2, y, 128)]
mosaic = [value for y in range(256) for x in range(512) for value in ((x // 8 * 37 + y // 8 * 11) % 128 * 2,) * 3]
dots = [value for y in range(256) for x in range(512) for value in ((0 if x % 8 == 0 and y % 8 == 0 else 255),) * 3]
for (name, pixels), quality, (kind, options) in itertools.product(dict(ramp=ramp, mosaic=mosaic, dots=dots).items(), (30, 50, 75, 90, 100), KINDS.items()):
    add(f"drawn/{name}-q{quality}-{kind}", cjpeg(512, 256, pixels, "-quality", str(quality), *options))
head = json.dumps([case for case, _ in cases]).encode() + b"\n"
out = os.path.join(os.path.dirname(os.path.abspath(__file__)), "zeros.bin")
with open(out, "wb") as file:
    file.write(zlib.compress(head + b"".join(data for _, data in cases), 9))
print(len(cases), "files,", os.path.getsize(out), "bytes")
