"""A plain loop over transformers and PyTorch eager: image, description, classes, one image after the other.

Qwen2.5-VL in the type given, VGG16, BERT-base and fusion in f32. Figures: start-up, first token with an image, images an hour."""

import os
import sys

import torch
import transformers
from common import arguments, clock, emit, version, watched

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from images import classifiers, describers, files, opened, processors
from torch_classify import Classifier

given = arguments(dtype=dict(choices=["bf16", "f32"], required=True), images=dict(required=True), question=dict(required=True))
torch.set_num_threads(given.threads)
paths = files(given.images)[:4]
begun = clock()
dtype = {"bf16": torch.bfloat16, "f32": torch.float32}[given.dtype]
model = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(given.checkpoint, dtype=dtype).eval()
tokenizer = transformers.AutoTokenizer.from_pretrained(given.checkpoint)
processor = list(processors(given.checkpoint).values())[-1]
classifier = Classifier().eval()
image_token = tokenizer.convert_tokens_to_ids("<|image_pad|>")


def prompt(image):
    pixels = describers(processor, image)
    places = int(pixels["image_grid_thw"].prod()) // 4
    text = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
        + "<|image_pad|>" * places
        + f"<|vision_end|>{given.question}<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    if ids.shape[1] != given.prompt:
        sys.exit(f"the prompt has {ids.shape[1]} tokens, ours {given.prompt}")
    inputs = dict(input_ids=ids, attention_mask=torch.ones_like(ids), image_grid_thw=pixels["image_grid_thw"])
    if int(transformers.__version__.split(".")[0]) >= 5:
        inputs["mm_token_type_ids"] = (ids == image_token).to(torch.int32)
    return dict(inputs, pixel_values=pixels["pixel_values"].to(dtype))


def describe(image, tokens):
    """The text's tokens, exactly so many."""
    out = model.generate(**prompt(image), max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)
    if out.shape[1] != given.prompt + tokens:
        sys.exit(f"{out.shape[1] - given.prompt} tokens were written instead of {tokens}")
    return out[0, given.prompt :]


def assess(path):
    image = opened(path)
    tokenizer.decode(describe(image, given.tokens))
    # The ids of the text stand for themselves: BERT takes as long for any.
    ids = torch.randint(30_000, (1, 128))
    return classifier(classifiers(image)[None], ids, torch.ones_like(ids))


def first_token():
    images = [opened(path) for path in paths[:3]]
    begun = clock()
    for image in images:
        describe(image, 1)
    return (clock() - begun) / len(images)


def loop():
    begun = clock()
    for path in paths:
        assess(path)
    return len(paths) * 3600 / (clock() - begun)


with torch.inference_mode():
    describe(opened(paths[0]), 2)
    emit("start-up", clock() - begun)
    assess(paths[0])
    emit("first token", *watched(first_token))
    emit("pipeline", *watched(loop))
version(f"transformers {transformers.__version__}, torch {torch.__version__}")
