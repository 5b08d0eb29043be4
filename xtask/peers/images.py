"""What a plain program does with an image before the networks: Pillow, the processor of transformers, VGG16's 224 x 224 pixels.

Without arguments of its own a bench of just that: seconds an image, with the processor's better variant."""

import os

import numpy as np
import torch
from common import arguments, clock, emit, version, watched
from PIL import Image

MEAN, DEVIATION = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
SIDE = 252


def files(folder):
    return sorted(os.path.join(folder, name) for name in os.listdir(folder))


def processors(checkpoint):
    """The processors of transformers by name: on numpy and Pillow, and on torch."""
    found = {}
    from transformers.models.qwen2_vl import image_processing_qwen2_vl as torch_side

    found["torch"] = torch_side.Qwen2VLImageProcessor.from_pretrained(checkpoint)
    try:
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        found["pil"] = Qwen2VLImageProcessorPil.from_pretrained(checkpoint)
    except ImportError:
        pass  # transformers before 5 has one processor, which is on numpy and Pillow
    return found


def opened(path):
    return Image.open(path).convert("RGB")


def describers(processor, image):
    """Patches and grid of an image at the size that the bundle has."""
    return processor(images=[image.resize((SIDE, SIDE), Image.BICUBIC)], return_tensors="pt")


def classifiers(image):
    """VGG16's pixels `[3, 224, 224]`."""
    pixels = np.asarray(image.resize((224, 224), Image.BILINEAR), np.float32) / 255
    return torch.from_numpy(((pixels - MEAN) / DEVIATION).transpose(2, 0, 1).copy())


def main():
    given = arguments(images=dict(required=True))
    torch.set_num_threads(given.threads)
    import transformers

    version(f"transformers {transformers.__version__}, torch {torch.__version__}")
    paths = files(given.images)[:8]
    best = None
    for processor in processors(given.checkpoint).values():

        def prepare():
            begun = clock()
            for path in paths:
                image = opened(path)
                describers(processor, image)
                classifiers(image)
            return (clock() - begun) / len(paths)

        prepare()
        seconds, waited = watched(prepare)
        best = min(best or (seconds, waited), (seconds, waited))
    emit("preparation", *best)


if __name__ == "__main__":
    main()
