"""VGG16, BERT-base and fusion in PyTorch eager: images a second, Pillow's preparation included; the better of one image and eight at once."""

import os
import sys

import torch
import transformers
from common import arguments, clock, emit, version, watched

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from images import classifiers, files, opened
from torch_classify import Classifier

given = arguments(dtype=dict(choices=["bf16", "f32"], required=True), images=dict(required=True))
torch.set_num_threads(given.threads)
dtype = {"bf16": torch.bfloat16, "f32": torch.float32}[given.dtype]
model = Classifier().eval().to(dtype)
images = [opened(path) for path in files(given.images)[:8]]


def rate(rows, turns):
    """Images a second of batches of so many."""
    begun = clock()
    for turn in range(turns):
        pixels = torch.stack([classifiers(images[(turn * rows + row) % len(images)]) for row in range(rows)])
        ids = torch.randint(30_000, (rows, 128))
        model(pixels.to(dtype), ids, torch.ones_like(ids))
    return rows * turns / (clock() - begun)


version(f"torch {torch.__version__}, transformers {transformers.__version__}")
with torch.inference_mode():
    found = []
    for rows, turns in [(1, 8), (8, 2)]:
        rate(rows, 1)
        found.append(watched(lambda: rate(rows, turns)))
    emit("classifier", *max(found))
