"""What all peers of `cargo xtask bench serve` share: arguments, clock, one JSON line a figure."""

import argparse
import json
import time

import numpy as np

clock = time.perf_counter


def arguments(**extra):
    """The options that `cargo xtask bench serve` gives; `extra` are a script's own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint", required=True, help="the folder in the hub's layout")
    parser.add_argument("--work", required=True, help="converted models are kept here")
    parser.add_argument("--prompt", type=int, default=300, help="tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of a description")
    parser.add_argument("--rows", default="1,4,16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--convert", action="store_true", help="make what is kept below --work, and end")
    for name, settings in extra.items():
        parser.add_argument("--" + name, **settings)
    given = parser.parse_args()
    given.rows = [int(rows) for rows in given.rows.split(",")]
    return given


def prompts(rows, length):
    """Ids of ordinary tokens, `[rows, length]`; each row has its own."""
    return np.random.default_rng(0).integers(1000, 100_000, size=(rows, length), dtype=np.int64)


def stalled():
    """Microseconds in which some process of the machine waited for a core; None where the kernel does not say."""
    try:
        with open("/proc/pressure/cpu") as pressure:
            return int(pressure.readline().rsplit("=", 1)[1])
    except OSError:
        return None


def watched(work):
    """What `work` gives, and the share of its time in which some process waited for a core."""
    before, begun = stalled(), clock()
    found = work()
    after = stalled()
    waited = None if before is None or after is None else (after - before) / 1e6 / (clock() - begun)
    return found, waited


def emit(figure, value, waited=None):
    print(json.dumps({"figure": figure, "value": value, "waited": waited}), flush=True)


def version(text):
    print(json.dumps({"version": text}), flush=True)


def decoding(given, once):
    """Figures of a decoder. `once(rows)` gives the seconds of the prompts and those of `given.tokens` steps after them."""
    for rows in [1] + [rows for rows in given.rows if rows != 1]:
        once(rows)
        (prefill, decode), waited = watched(lambda: once(rows))
        if rows == 1:
            emit("prompt", given.prompt / prefill, waited)
        if rows in given.rows:
            emit(f"decode {rows}", rows * given.tokens / decode, waited)
