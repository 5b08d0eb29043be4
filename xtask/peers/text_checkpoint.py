"""Writes the language model of a Qwen2.5-VL checkpoint as a plain Qwen2 with the same weights: what peers without a vision tower read.

On text alone the three streams of positions are one, so that the networks are the same. Needs torch and safetensors."""

import json
import os
import shutil
import sys

from safetensors import safe_open
from safetensors.torch import save_file

KEPT = ["hidden_act", "hidden_size", "intermediate_size", "max_position_embeddings", "num_attention_heads", "num_hidden_layers",
        "num_key_value_heads", "rms_norm_eps", "rope_theta", "tie_word_embeddings", "vocab_size", "bos_token_id", "eos_token_id",
        "initializer_range", "attention_dropout", "use_cache"]


def main(source, target):
    os.makedirs(target, exist_ok=True)
    with open(os.path.join(source, "config.json")) as file:
        config = json.load(file)
    text = {key: config[key] for key in KEPT}
    text.update(architectures=["Qwen2ForCausalLM"], model_type="qwen2", torch_dtype="bfloat16", use_sliding_window=False)
    tensors = {}
    for name in sorted(os.listdir(source)):
        if name.endswith(".safetensors"):
            with safe_open(os.path.join(source, name), "pt") as file:
                tensors.update({key: file.get_tensor(key) for key in file.keys() if not key.startswith("visual.")})
        elif name.startswith("tokenizer") or name in ("vocab.json", "merges.txt", "generation_config.json"):
            shutil.copy(os.path.join(source, name), target)
    save_file(tensors, os.path.join(target, "model.safetensors"), metadata={"format": "pt"})
    with open(os.path.join(target, "config.json"), "w") as file:
        json.dump(text, file, indent=1)


main(*sys.argv[1:])
