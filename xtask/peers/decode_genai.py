"""onnxruntime-genai: its builder's int4 graph (round to nearest, blocks of 32, accuracy level 4) and its own generator."""

import os
import sys

import numpy as np
from common import arguments, clock, decoding, prompts, version

given = arguments(options=dict(default="", help="further options of the builder"))
folder = os.path.join(given.work, "genai_int4" + "".join(letter for letter in given.options if letter.isalnum()))
if given.convert:
    # This process becomes the builder, so that whoever watches its memory sees the builder's.
    words = ["-m", "onnxruntime_genai.models.builder", "-i", given.checkpoint, "-o", folder, "-p", "int4", "-e", "cpu"]
    words += ["--extra_options", "int4_accuracy_level=4", "int4_block_size=32", *given.options.split()]
    os.execv(sys.executable, [sys.executable, *words])

import onnxruntime_genai as genai

config = genai.Config(folder)
config.overlay('{"model":{"decoder":{"session_options":{"intra_op_num_threads":%d}}}}' % given.threads)
model = genai.Model(config)


def once(rows):
    length = given.prompt + given.tokens + 1
    settings = genai.GeneratorParams(model)
    settings.set_search_options(batch_size=rows, max_length=length, min_length=length, do_sample=False)
    generator = genai.Generator(model, settings)
    ids = prompts(rows, given.prompt).astype(np.int32)
    begun = clock()
    generator.append_tokens(ids)
    generator.generate_next_token()
    read = clock()
    for _ in range(given.tokens):
        generator.generate_next_token()
    return read - begun, clock() - read


version(f"onnxruntime-genai {genai.__version__}")
decoding(given, once)
