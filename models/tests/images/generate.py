#!/usr/bin/env python3
"""Makes variants.bin: small image files of many layouts and damages, and what independent decoders make of them.

    pip install pillow tifffile imagecodecs numpy && python3 generate.py

Pillow (libjpeg-turbo), tifffile and numpy give the expected pixels, libjpeg-turbo's djpeg (in the path) says which streams it
would warn about; nothing of this project takes part. The archive is a line of JSON (a list of name, bytes, and either codes or
width, height, sha256 of the RGB pixels), a newline, and the files one after the other.
"""
import hashlib, io, itertools, json, os, struct, subprocess, sys, zlib
import imagecodecs, numpy as np, tifffile
from PIL import Image, ImageFilter

rng = np.random.default_rng(13)
cases = []


def picture(width, height, channels=3):
    noise = rng.integers(0, 256, (height // 6 + 3, width // 6 + 3, channels), dtype=np.uint8)
    planes = [Image.fromarray(noise[..., c]).resize((width, height), Image.BICUBIC) for c in range(channels)]
    return np.stack([np.asarray(p) for p in planes], -1)


def ok(name, data, rgb):
    rgb = np.ascontiguousarray(rgb, dtype=np.uint8)
    if rgb.ndim == 2:
        rgb = np.repeat(rgb[..., None], 3, -1)
    cases.append((dict(name=name, bytes=len(data), width=rgb.shape[1], height=rgb.shape[0], sha256=hashlib.sha256(rgb.tobytes()).hexdigest()), data))


def bad(name, data, *codes):
    cases.append((dict(name=name, bytes=len(data), codes=list(codes)), data))


def over_white(rgb, alpha):
    c, a = rgb.astype(np.int64), alpha.astype(np.int64)[..., None]
    return ((c * a + 255 * (255 - a) + 127) // 255).astype(np.uint8)


def to8(values, most=65535):
    return ((values.astype(np.int64) * 255 + most // 2) // most).astype(np.uint8)


# ---- JPEG ------------------------------------------------------------------------------------------------------------
def pillow(data):
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def rgb_of(data):
    return np.asarray(pillow(data).convert("RGB"))


def jpeg(array, mode="RGB", **options):
    out = io.BytesIO()
    Image.fromarray(array.squeeze() if mode == "L" else array, mode).save(out, "JPEG", **options)
    return out.getvalue()


def segments(data):
    """(marker, start, end) of everything, scans with their data."""
    at, found = 2, []
    while at < len(data):
        marker = data[at + 1]
        if marker == 0xD9:
            return found + [(marker, at, at + 2)]
        end = at + 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
        if marker == 0xDA:
            while not (data[end] == 0xFF and data[end + 1] not in (0, *range(0xD0, 0xD8))):
                end += 1
        found.append((marker, at, end))
        at = end
    return found


class Bits:
    def __init__(self):
        self.bits = []

    def put(self, value, count):
        self.bits += [(value >> (count - 1 - i)) & 1 for i in range(count)]

    def bytes(self):
        bits = self.bits + [1] * (-len(self.bits) % 8)
        raw = bytes(sum(b << (7 - i) for i, b in enumerate(bits[at : at + 8])) for at in range(0, len(bits), 8))
        return raw.replace(b"\xff", b"\xff\0")


def codes_of(data):
    tables = {}
    for marker, start, end in segments(data):
        if marker == 0xC4:
            body = data[start + 4 : end]
            while body:
                counts, code, at, table = body[1:17], 0, 17, {}
                for length, count in enumerate(counts, 1):
                    for _ in range(count):
                        table[body[at]] = (code, length)
                        code, at = code + 1, at + 1
                    code <<= 1
                tables[body[0]] = table
                body = body[17 + sum(counts) :]
    return tables


ZIGZAG = sorted(range(64), key=lambda i: (i // 8 + i % 8, i // 8 if (i // 8 + i % 8) % 2 else i % 8))
STANDARD = jpeg(picture(16, 16), quality=90)
DCT = np.array([[np.cos((2 * x + 1) * u * np.pi / 16) * (np.sqrt(1 / 8) if u == 0 else 0.5) for x in range(8)] for u in range(8)])


def encode(planes, factors, size, interleaved=True, restart=0, step=12, ids=None, extra=b""):
    """A sequential JPEG of given component planes and sampling factors, with the standard's Huffman tables."""
    width, height = size
    tables = codes_of(STANDARD)
    most_h, most_v = max(f[0] for f in factors), max(f[1] for f in factors)
    wide, high = -(-width // (8 * most_h)), -(-height // (8 * most_v))
    blocks = []
    for plane, (h, v) in zip(planes, factors):
        rows, columns = v * high * 8, h * wide * 8
        padded = np.pad(plane.astype(float), ((0, max(0, rows - plane.shape[0])), (0, max(0, columns - plane.shape[1]))), "edge")
        padded = padded[:rows, :columns] - 128
        grid = padded.reshape(rows // 8, 8, columns // 8, 8).transpose(0, 2, 1, 3)
        blocks.append(np.rint(np.einsum("ux,abxy,vy->abuv", DCT, grid, DCT) / step).astype(int))
    ids = ids or list(range(1, len(planes) + 1))

    def block(bits, coefficients, last, chroma):
        values = [int(coefficients.reshape(-1)[i]) for i in ZIGZAG]
        difference = values[0] - last
        put(bits, tables[chroma], abs(difference).bit_length(), 0, difference)
        zeros = 0
        for value in values[1:]:
            if value == 0:
                zeros += 1
                continue
            while zeros > 15:
                bits.put(*tables[16 + chroma][0xF0])
                zeros -= 16
            put(bits, tables[16 + chroma], abs(value).bit_length(), zeros, value)
            zeros = 0
        if zeros:
            bits.put(*tables[16 + chroma][0])
        return values[0]

    def put(bits, table, size, run, value):
        bits.put(*table[run << 4 | size])
        bits.put(value if value > 0 else value + (1 << size) - 1, size)

    def scan(members):
        units = []
        if len(members) == 1:
            (c,) = members
            w, h = -(-width * factors[c][0] // most_h), -(-height * factors[c][1] // most_v)
            units = [[(c, y, x)] for y in range(-(-h // 8)) for x in range(-(-w // 8))]
        else:
            for y, x in itertools.product(range(high), range(wide)):
                units.append([(c, y * factors[c][1] + j, x * factors[c][0] + i) for c in members for j in range(factors[c][1]) for i in range(factors[c][0])])
        head = bytes([len(members)]) + b"".join(bytes([ids[c], 0x11 if c else 0]) for c in members) + b"\0\x3f\0"
        out, bits, last, mark = b"\xff\xda" + struct.pack(">H", len(head) + 2) + head, Bits(), {}, 0
        for number, unit in enumerate(units):
            if restart and number and number % restart == 0:
                out += bits.bytes() + bytes([0xFF, 0xD0 + mark % 8])
                bits, last, mark = Bits(), {}, mark + 1
            for c, y, x in unit:
                last[c] = block(bits, blocks[c][y, x], last.get(c, 0), 1 if c else 0)
        return out + bits.bytes()

    out = b"\xff\xd8" + extra + b"\xff\xdb\0\x43\0" + bytes([step] * 64)
    out += b"\xff\xc0" + struct.pack(">HBHHB", 8 + 3 * len(planes), 8, height, width, len(planes))
    out += b"".join(bytes([ids[c], h << 4 | v, 0]) for c, (h, v) in enumerate(factors))
    out += b"".join(STANDARD[a:b] for m, a, b in segments(STANDARD) if m == 0xC4)
    if restart:
        out += b"\xff\xdd\0\4" + struct.pack(">H", restart)
    members = list(range(len(planes)))
    out += scan(members) if interleaved else b"".join(scan([c]) for c in members)
    return out + b"\xff\xd9"


def jpegs():
    sizes = [(48, 40), (57, 43), (9, 8), (33, 17)]
    for (w, h), sub, progressive, quality in itertools.product(sizes, (0, 1, 2), (False, True), (60, 95)):
        data = jpeg(picture(w, h), quality=quality, subsampling=sub, progressive=progressive)
        ok(f"jpeg/{w}x{h}-s{sub}-p{int(progressive)}-q{quality}", data, rgb_of(data))
    for (w, h), progressive in itertools.product(sizes, (False, True)):
        data = jpeg(picture(w, h, 1), "L", quality=88, progressive=progressive)
        ok(f"jpeg/grey-{w}x{h}-p{int(progressive)}", data, rgb_of(data))
        data = jpeg(picture(w, h, 4), "CMYK", quality=90, progressive=progressive)
        ok(f"jpeg/cmyk-{w}x{h}-p{int(progressive)}", data, rgb_of(data))
        data = jpeg(picture(w, h), quality=85, restart_marker_blocks=3, progressive=progressive)
        ok(f"jpeg/restart-{w}x{h}-p{int(progressive)}", data, rgb_of(data))
        data = jpeg(picture(w, h), quality=85, optimize=True, keep_rgb=True, progressive=progressive)
        ok(f"jpeg/rgb-{w}x{h}-p{int(progressive)}", data, rgb_of(data))
    layouts = {
        "420": [(2, 2), (1, 1), (1, 1)], "422": [(2, 1), (1, 1), (1, 1)], "440": [(1, 2), (1, 1), (1, 1)], "411": [(4, 1), (1, 1), (1, 1)],
        "410": [(4, 2), (1, 1), (1, 1)], "444x2": [(2, 2), (2, 2), (2, 2)], "luma-low": [(1, 1), (2, 2), (2, 2)], "cb-low": [(2, 2), (1, 2), (2, 1)],
        "1x4": [(1, 4), (1, 1), (1, 1)], "3x1": [(3, 1), (1, 1), (1, 1)],
    }
    for name, factors in layouts.items():
        most_h, most_v = max(f[0] for f in factors), max(f[1] for f in factors)
        for (w, h), interleaved, restart in itertools.product(sizes[:3], (True, False), (0, 2)):
            if interleaved and sum(a * b for a, b in factors) > 10:
                continue
            image = picture(w, h)
            planes = [np.asarray(Image.fromarray(image[..., c]).resize((-(-w * f[0] // most_h), -(-h * f[1] // most_v)))) for c, f in enumerate(factors)]
            data = encode(planes, factors, (w, h), interleaved, restart)
            ok(f"jpeg/{name}-{w}x{h}-i{int(interleaved)}-r{restart}", data, rgb_of(data))
    image = picture(40, 40)
    planes = [image[..., c] for c in range(3)]
    full = [(1, 1)] * 3
    for name, extra, ids in (("ids-RGB", b"", [82, 71, 66]), ("ids-odd", b"", [5, 9, 7]), ("adobe-0", b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\0", None), ("adobe-1", b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\1", None)):
        data = encode(planes, full, (40, 40), ids=ids, extra=extra)
        ok(f"jpeg/{name}", data, rgb_of(data))
    data = encode(planes, [(2, 2), (2, 1), (1, 2)], (40, 40), False)
    ok("jpeg/mixed-factors", data, rgb_of(data))
    bad("jpeg/factors-3-2", encode(planes, [(3, 1), (2, 1), (1, 1)], (40, 40), False), "unsupported")


def warnings(data):
    """What libjpeg-turbo's djpeg says about a file."""
    return subprocess.run(["djpeg", "-outfile", os.devnull], input=data, capture_output=True, check=False).stderr.decode()


def jpeg_damage():
    base = {
        "plain": jpeg(picture(56, 48), quality=90, subsampling=0), "420": jpeg(picture(56, 48), quality=90, subsampling=2),
        "restart": jpeg(picture(56, 48), quality=90, subsampling=0, restart_marker_blocks=3), "progressive": jpeg(picture(56, 48), quality=90, progressive=True),
    }
    for name, data in base.items():
        parts = segments(data)
        scans = [p for p in parts if p[0] == 0xDA]
        start, end = scans[-1][1] + 14, scans[-1][2]
        for percent in (5, 30, 60, 90):
            cut = end - max(4, (end - start) * percent // 100)
            bad(f"jpeg/{name}-cut-{percent}", data[:cut].rstrip(b"\xff") + data[end:], "damaged")
        for at in (0.2, 0.5, 0.8):
            place = start + int((end - start) * at)
            lost, added = data[:place] + data[place + 9 :], data[:place] + b"\x12\x34\x56\x78\x9a\xbc\xde" + data[place:]
            for change, damaged in (("lost", lost), ("added", added)):
                # Some streams are valid again after a few codes: then libjpeg-turbo has nothing to warn about either.
                if warnings(damaged):
                    bad(f"jpeg/{name}-{change}-{at}", damaged, "damaged")
                else:
                    ok(f"jpeg/{name}-{change}-{at}", damaged, rgb_of(damaged))
        bad(f"jpeg/{name}-no-end", data[:-2], "truncated")
        bad(f"jpeg/{name}-half", data[: len(data) // 2], "truncated")
        ok(f"jpeg/{name}-trailer", data + bytes(70000) + b"trailer", rgb_of(data))
        first = parts[0][2]
        ok(f"jpeg/{name}-stray", data[:first] + b"\x12\x34" + data[first:], rgb_of(data))
        ok(f"jpeg/{name}-fill", data[:first] + b"\xff" * 200 + data[first:], rgb_of(data))
    data = base["progressive"]
    for number, (_, a, b) in enumerate([p for p in segments(data) if p[0] == 0xDA]):
        bad(f"jpeg/scan-{number}-missing", data[:a] + data[b:], "damaged")
    data = encode([picture(40, 40)[..., c] for c in range(3)], [(1, 1)] * 3, (40, 40), False)
    for number, (_, a, b) in enumerate([p for p in segments(data) if p[0] == 0xDA]):
        bad(f"jpeg/component-{number}-missing", data[:a] + data[b:], "damaged")
    data = base["restart"]
    marks = [i for i in range(len(data) - 1) if data[i] == 0xFF and 0xD0 <= data[i + 1] <= 0xD7]
    bad("jpeg/restart-mark-lost", data[: marks[1]] + data[marks[1] + 2 :], "damaged")
    bad("jpeg/restart-interval-lost", data[: marks[1]] + data[marks[2] :], "damaged")
    bad("jpeg/restart-mark-changed", data[: marks[1] + 1] + b"\xd6" + data[marks[1] + 2 :], "damaged")
    a = base["plain"].index(b"\xff\xc0")
    for marker in (0xC3, 0xC5, 0xC9, 0xCA, 0xCB, 0xF7):
        bad(f"jpeg/sof-{marker:x}", base["plain"][: a + 1] + bytes([marker]) + base["plain"][a + 2 :], "unsupported")
    bad("jpeg/12-bit", base["plain"][: a + 4] + b"\x0c" + base["plain"][a + 5 :], "unsupported")
    bad("jpeg/ls", imagecodecs.jpegls_encode(picture(40, 40)), "unsupported")
    bad("jpeg/lossless", imagecodecs.ljpeg_encode(picture(40, 40)[..., 0]), "unsupported")
    bad("jpeg/12-bit-true", imagecodecs.jpeg8_encode(picture(40, 40)[..., 0].astype(np.uint16) * 16, bitspersample=12), "unsupported")


# ---- TIFF ------------------------------------------------------------------------------------------------------------
def tiff(array, **options):
    out = io.BytesIO()
    options.setdefault("metadata", None)
    with tifffile.TiffWriter(out, bigtiff=options.pop("bigtiff", False), byteorder=options.pop("byteorder", "<")) as writer:
        writer.write(array, **options)
    return out.getvalue()


def tiffs():
    for (w, h), compression, predictor, layout, order, planar in itertools.product(
        [(40, 34), (37, 29)], (None, "lzw", "zlib", "packbits"), (False, True), ("strip", "tile"), "<>", ("contig", "separate")
    ):
        if predictor and compression not in ("lzw", "zlib"):
            continue
        for bits in (8, 16):
            if bits == 16 and (order == "<") != (layout == "tile"):
                continue
            image = picture(w, h)
            stored = image if bits == 8 else image.astype(np.uint16) * 257 - rng.integers(0, 100, image.shape).astype(np.uint16) * (image > 0)
            options = dict(rowsperstrip=11) if layout == "strip" else dict(tile=(16, 32))
            array = np.moveaxis(stored, -1, 0) if planar == "separate" else stored
            data = tiff(array, photometric="rgb", planarconfig=planar, compression=compression, predictor=predictor or None, byteorder=order, **options)
            ok(f"tiff/{w}x{h}-{compression}-{int(predictor)}-{layout}-{order}-{planar}-{bits}", data, image if bits == 8 else to8(stored))
    image = picture(45, 37)
    grey = image[..., 0]
    for photometric in ("minisblack", "miniswhite"):
        for dtype in (np.uint8, np.uint16):
            stored = grey if dtype == np.uint8 else grey.astype(np.uint16) * 257
            data = tiff(stored, photometric=photometric)
            ok(f"tiff/{photometric}-{np.dtype(dtype)}", data, grey if photometric == "minisblack" else 255 - grey)
    bilevel = grey > 127
    for photometric in ("minisblack", "miniswhite"):
        ok(f"tiff/bilevel-{photometric}", tiff(bilevel, photometric=photometric), np.where(bilevel ^ (photometric == "miniswhite"), 255, 0))
    for bits in (2, 4, 6, 10, 12, 14):
        values = (grey.astype(np.int64) * ((1 << bits) - 1) // 255).astype(np.uint8 if bits < 8 else np.uint16)
        rows = b""
        for row in values:
            line = Bits()
            for value in row:
                line.put(int(value), bits)
            line.put(0, -len(line.bits) % 8)
            rows += bytes(int("".join(map(str, line.bits[at : at + 8])), 2) for at in range(0, len(line.bits), 8))
        data = raw_tiff([(256, 45), (257, 37), (258, bits), (259, 1), (262, 1), (273, None), (277, 1), (278, 37), (279, len(rows))], rows)
        ok(f"tiff/grey-{bits}-bit", data, to8(values.astype(np.int64), (1 << bits) - 1))
    alpha = picture(45, 37, 1)[..., 0]
    straight = np.dstack([image, alpha])
    associated = np.dstack([(image.astype(int) * alpha[..., None] // 255).astype(np.uint8), alpha])
    for planar in ("contig", "separate"):
        move = (lambda a: np.moveaxis(a, -1, 0)) if planar == "separate" else (lambda a: a)
        ok(f"tiff/straight-{planar}", tiff(move(straight), photometric="rgb", planarconfig=planar, extrasamples=["unassalpha"]), over_white(image, alpha))
        expected = np.minimum(associated[..., :3].astype(int) + 255 - alpha[..., None], 255)
        ok(f"tiff/associated-{planar}", tiff(move(associated), photometric="rgb", planarconfig=planar, extrasamples=["assocalpha"]), expected)
        ok(f"tiff/unspecified-{planar}", tiff(move(straight), photometric="rgb", planarconfig=planar, extrasamples=["unspecified"]), image)
    ok("tiff/grey-straight", tiff(np.dstack([grey, alpha]), photometric="minisblack", planarconfig="contig", extrasamples=["unassalpha"]), over_white(np.repeat(grey[..., None], 3, -1), alpha))
    ok("tiff/big", tiff(image, photometric="rgb", bigtiff=True), image)
    inks = picture(45, 37, 4)
    ok("tiff/cmyk", tiff(inks, photometric="separated"), to8((255 - inks[..., :3].astype(int)) * (255 - inks[..., 3:].astype(int)), 65025))
    palette = Image.fromarray(image).quantize(64)
    out = io.BytesIO()
    palette.save(out, "TIFF", compression="tiff_lzw")
    ok("tiff/palette", out.getvalue(), np.asarray(palette.convert("RGB")))
    jpegs_in_tiff(image)
    faults_in_tiff(image)


def jpegs_in_tiff(image):
    for layout, (tables, subsampling), quality in itertools.product(("strip", "tile"), ((False, (1, 1)), (False, (2, 2)), (False, (2, 1))), (75, 95)):
        options = dict(rowsperstrip=16) if layout == "strip" else dict(tile=(32, 32))
        data = tiff(image, photometric="ycbcr", compression="jpeg", compressionargs=dict(level=quality), subsampling=subsampling, **options)
        ok(f"tiff/jpeg-{layout}-{subsampling}-{quality}", data, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    for quality in (70, 92):
        out = io.BytesIO()
        Image.fromarray(image).save(out, "TIFF", compression="jpeg", quality=quality)
        ok(f"tiff/jpeg-tables-{quality}", out.getvalue(), rgb_of(out.getvalue()))
        out = io.BytesIO()
        Image.fromarray(image[..., 0]).save(out, "TIFF", compression="jpeg", quality=quality)
        ok(f"tiff/jpeg-tables-grey-{quality}", out.getvalue(), rgb_of(out.getvalue()))
    with tifffile.TiffFile(io.BytesIO(out.getvalue())) as file:
        at, count = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
    data = bytearray(out.getvalue())
    cut = at + count // 2
    data[cut : at + count] = b"\xff\xd9" + bytes(at + count - cut - 2)
    bad("tiff/jpeg-cut", bytes(data), "damaged", "truncated")


def raw_tiff(tags, data, extra=b"", big_end=False):
    """A TIFF from (tag, number or numbers); None stands for the data's offset."""
    mark = ">" if big_end else "<"
    body, tail, first = b"", b"", 8 + 2 + 12 * len(tags) + 4
    outside = {tag: values for tag, values in tags if isinstance(values, (list, tuple)) and len(values) > 1}
    place, offsets = first, {}
    for tag, values in outside.items():
        offsets[tag] = place
        tail += struct.pack(f"{mark}{len(values)}I", *values)
        place += 4 * len(values)
    for tag, value in sorted(tags, key=lambda t: t[0]):
        if tag in outside:
            body += struct.pack(mark + "HHII", tag, 4, len(outside[tag]), offsets[tag])
        else:
            body += struct.pack(mark + "HHII", tag, 4, 1, place if value is None else value)
    head = b"MM\0*" if big_end else b"II*\0"
    return head + struct.pack(mark + "IH", 8, len(tags)) + body + struct.pack(mark + "I", 0) + tail + data


def faults_in_tiff(image):
    h, w, _ = image.shape
    raw = image.tobytes()
    tags = [(256, w), (257, h), (258, (8, 8, 8)), (259, 1), (262, 2), (273, None), (277, 3), (278, h), (279, len(raw))]
    without = lambda *gone: [t for t in tags if t[0] not in gone]
    for big_end in (False, True):
        ok(f"tiff/raw-{int(big_end)}", raw_tiff(tags, raw, big_end=big_end), image)
        ok(f"tiff/no-counts-{int(big_end)}", raw_tiff(without(279), raw, big_end=big_end), image)
        packed = zlib.compress(raw)
        ok(f"tiff/no-counts-deflate-{int(big_end)}", raw_tiff([(259, 8) if t[0] == 259 else t for t in without(279)], packed, big_end=big_end), image)
    ok("tiff/small-count", raw_tiff([(279, 99) if t[0] == 279 else t for t in tags], raw), image)
    bad("tiff/offset-0", raw_tiff([(273, 0) if t[0] == 273 else t for t in tags], raw), "decode_failed", "damaged")
    bad("tiff/cut", raw_tiff(tags, raw)[:-50], "truncated")
    packed = bytearray(zlib.compress(raw, 9))
    packed[len(packed) // 2] ^= 0x55
    bad("tiff/deflate-changed", raw_tiff([(259, 8) if t[0] == 259 else (279, len(packed)) if t[0] == 279 else t for t in tags], bytes(packed)), "damaged", "decode_failed")
    reduced = np.asarray(Image.fromarray(image).resize((w // 2, h // 2), Image.BOX))
    other = picture(w, h)
    for name, pages, expected in (
        ("thumbnail-flagged", [(image, 0), (other[: h // 2, : w // 2], 1)], image), ("thumbnail-first", [(other[: h // 2, : w // 2], 1), (image, 0)], image),
        ("pyramid-unflagged", [(image, 0), (reduced, 0)], image), ("same-twice", [(image, 0), (image, 0)], image), ("mask", [(image, 0), (other[..., 0] > 127, 4)], image),
        ("two-patients", [(image, 0), (other, 0)], None), ("two-sizes", [(image, 0), (other[:30, :30], 0)], None),
    ):
        out = io.BytesIO()
        with tifffile.TiffWriter(out) as writer:
            for page, kind in pages:
                writer.write(page, photometric="rgb" if page.ndim == 3 else "mask", subfiletype=kind, metadata=None)
        if expected is None:
            bad(f"tiff/{name}", out.getvalue(), "several_pages")
        else:
            ok(f"tiff/{name}", out.getvalue(), expected)
    out = io.BytesIO()
    tifffile.imwrite(out, np.moveaxis(image, -1, 0), imagej=True, metadata=dict(axes="CYX", mode="composite"))
    ok("tiff/imagej-composite", out.getvalue(), image)
    out = io.BytesIO()
    tifffile.imwrite(out, np.moveaxis(image, -1, 0), imagej=True, metadata=dict(axes="ZYX"))
    bad("tiff/imagej-stack", out.getvalue(), "several_pages")
    bad("tiff/12-in-16", tiff(image.astype(np.uint16) * 16, photometric="rgb"), "unsupported")
    twelve = image.astype(np.uint16) * 4095 // 255
    ok("tiff/12-in-16-stated", tiff(twelve, photometric="rgb", extratags=[(281, 3, 3, (4095,) * 3, True)]), to8(twelve, 4095))
    bad("tiff/float", tiff(image.astype(np.float32), photometric="rgb"), "unsupported")
    bad("tiff/signed", tiff(image.astype(np.int16), photometric="rgb"), "unsupported")
    for compression in ("zstd", "lzma", "jpeg2000", "webp"):
        bad(f"tiff/{compression}", tiff(image, photometric="rgb", compression=compression), "unsupported")


# ---- PNG and BMP -----------------------------------------------------------------------------------------------------
def pngs_and_bmps():
    for w, h in ((48, 40), (41, 33)):
        image, alpha = picture(w, h), picture(w, h, 1)[..., 0]
        for mode, array, expected in (
            ("RGB", image, image), ("L", image[..., 0], image[..., 0]), ("RGBA", np.dstack([image, alpha]), over_white(image, alpha)),
            ("LA", np.dstack([image[..., 0], alpha]), over_white(np.repeat(image[..., :1], 3, -1), alpha)),
        ):
            array = np.ascontiguousarray(array)
            data = imagecodecs.png_encode(array)
            ok(f"png/{mode}-{w}", data, expected)
            wide = array.astype(np.uint16) * 257
            ok(f"png/{mode}16-{w}", imagecodecs.png_encode(wide), expected)
            bad(f"png/{mode}-{w}-cut", data[: len(data) // 2], "truncated")
            changed = bytearray(data)
            changed[len(data) // 2] ^= 0x41
            bad(f"png/{mode}-{w}-changed", bytes(changed), "decode_failed", "damaged")
            ok(f"png/{mode}-{w}-trailer", data + b"trailer" * 20000 if w == 41 else data + b"x", expected)
        bad(f"png/12-in-16-{w}", imagecodecs.png_encode(image.astype(np.uint16) * 16), "unsupported")
        for colours in (2, 4, 16, 256):
            out = io.BytesIO()
            palette = Image.fromarray(image).quantize(colours)
            palette.save(out, "PNG")
            ok(f"png/palette-{colours}-{w}", out.getvalue(), np.asarray(palette.convert("RGB")))
            out = io.BytesIO()
            palette.save(out, "BMP")
            ok(f"bmp/palette-{colours}-{w}", out.getvalue(), np.asarray(palette.convert("RGB")))
        out = io.BytesIO()
        Image.fromarray(image).save(out, "BMP")
        data = out.getvalue()
        ok(f"bmp/rgb-{w}", data, image)
        for off in (-2, 2, 1000):
            ok(f"bmp/size-{off}-{w}", data[:2] + struct.pack("<I", len(data) + off) + data[6:], image)
        ok(f"bmp/size-none-{w}", data[:2] + bytes(4) + data[6:], image)
        ok(f"bmp/reserved-{w}", data[:6] + b"\1\2\3\4" + data[10:], image)
        ok(f"bmp/trailer-{w}", data + bytes(99), image)
        bad(f"bmp/cut-{w}", data[:-20], "truncated")
        for mode in ("1", "L"):
            out = io.BytesIO()
            converted = Image.fromarray(image).convert(mode)
            converted.save(out, "BMP")
            ok(f"bmp/{mode}-{w}", out.getvalue(), np.asarray(converted.convert("RGB")))


if __name__ == "__main__":
    jpegs(), jpeg_damage(), tiffs(), pngs_and_bmps()
    with open(sys.argv[1] if len(sys.argv) > 1 else "variants.bin", "wb") as out:
        plain = json.dumps([case for case, _ in cases], separators=(",", ":")).encode() + b"\n" + b"".join(data for _, data in cases)
        out.write(zlib.compress(plain, 9))
    print(len(cases), "variants,", len(plain), "bytes")
