"""The other side of an adapter: transformers and PEFT on the same folders.

    python both_ways.py logits  --base DIR [--adapter DIR] --input FILE --output FILE
    python both_ways.py adapter --base DIR --kind lora|rslora|dora --seed N --output DIR

`logits` loads a checkpoint, with an adapter beside it or without, and writes the logits of one prompt; every key of the files must have
found its place. `adapter` writes an adapter with random values as PEFT saves it. Used by trainer/tests/commands/peft.rs.
"""
import argparse
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5_VLForConditionalGeneration

LANGUAGE = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


def load(folder):
    model, report = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        left = [key for key in report[kind] if key != "lm_head.weight" or not model.config.tie_word_embeddings]
        if left:
            sys.exit(f"{folder}: {kind}: {left}")
    return model.eval()


def with_adapter(model, folder):
    """PEFT says nothing when an adapter's keys do not fit: so every tensor of the file is looked for in the model."""
    model = PeftModel.from_pretrained(model, folder)
    loaded = {key.replace(".default", "").replace("lora_magnitude_vector.weight", "lora_magnitude_vector"): value
              for key, value in model.named_parameters() if "lora_" in key}
    stored = load_file(f"{folder}/adapter_model.safetensors")
    if set(loaded) != set(stored):
        sys.exit(f"{folder}: PEFT's tensors are not the file's: {sorted(set(loaded) ^ set(stored))[:4]}")
    for key, value in stored.items():
        if not torch.equal(loaded[key], value.float()):
            sys.exit(f"{folder}: PEFT did not load {key}")
    return model.eval()


def logits(options):
    model = load(options.base)
    if options.adapter:
        model = with_adapter(model, options.adapter)
    with safe_open(options.input, "pt") as file:
        inputs = {key: file.get_tensor(key) for key in file.keys()}
    image = inputs["input_ids"] == model.config.image_token_id
    with torch.no_grad():
        result = model(**inputs, attention_mask=torch.ones_like(inputs["input_ids"]), mm_token_type_ids=image.int())
    save_file({"logits": result.logits[0].contiguous()}, options.output)


def adapter(options):
    torch.manual_seed(options.seed)
    config = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM", target_modules=LANGUAGE,
                        use_rslora=options.kind == "rslora", use_dora=options.kind == "dora")
    model = get_peft_model(load(options.base), config)
    with torch.no_grad():
        for key, value in model.named_parameters():
            if "lora_B" in key:
                value.copy_(0.1 * torch.randn_like(value))
            elif "lora_magnitude" in key:
                value.mul_(1 + 0.1 * torch.randn_like(value))
    model.save_pretrained(options.output)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("logits")
    one.add_argument("--base", required=True)
    one.add_argument("--adapter")
    one.add_argument("--input", required=True)
    one.add_argument("--output", required=True)
    one.set_defaults(run=logits)
    two = commands.add_parser("adapter")
    two.add_argument("--base", required=True)
    two.add_argument("--kind", choices=("lora", "rslora", "dora"), required=True)
    two.add_argument("--seed", type=int, required=True)
    two.add_argument("--output", required=True)
    two.set_defaults(run=adapter)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
