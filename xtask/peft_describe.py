"""Steps of LoRA tuning with transformers and PEFT, the other side of `cargo xtask bench describe`.

Prints one JSON object a step ({"seconds", "tokens", "loss"}), and one with the process's peak memory in bytes.
Needs torch, transformers, peft and Pillow. Same base, image, text, rank and optimiser as our side; gradient checkpointing
without reentrance, so that adapters in the first layer learn; the vision tower is frozen, as on our side.
"""

import argparse
import json
import resource
import time

import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil


def sample(base, image, answer, prompt):
    """Ids, labels and image tensors of one row, by the chat template."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    processor = Qwen2VLImageProcessorPil.from_pretrained(base)
    pixels = processor(images=[Image.open(image).convert("RGB")], return_tensors="pt")
    places = int(pixels["image_grid_thw"].prod()) // 4
    start = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
        + "<|image_pad|>" * places
        + f"<|vision_end|>{prompt}<|im_end|>\n<|im_start|>assistant\n"
    )
    before = tokenizer(start)["input_ids"]
    after = tokenizer(answer)["input_ids"] + [tokenizer.convert_tokens_to_ids("<|im_end|>")]
    ids = torch.tensor([before + after])
    labels = torch.tensor([[-100] * len(before) + after])
    image_id = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    return ids, labels, pixels, (ids == image_id).to(torch.int32)


def main():
    parser = argparse.ArgumentParser()
    for name in ["base", "image", "answer", "prompt"]:
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--dtype", choices=["bf16", "f32"], default="bf16")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(args.base, dtype={"bf16": torch.bfloat16, "f32": torch.float32}[args.dtype])
    targets = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    config = LoraConfig(r=args.rank, lora_alpha=2 * args.rank, lora_dropout=0.0, target_modules=targets, task_type="CAUSAL_LM")
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.config.use_cache = False
    model = get_peft_model(model, config)
    model.train()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, weight_decay=0.0)
    ids, labels, pixels, types = sample(args.base, args.image, args.answer, args.prompt)
    extra = {"mm_token_type_ids": types}
    for _ in range(args.steps):
        begun = time.perf_counter()
        loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels, **extra, **pixels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        seconds = time.perf_counter() - begun
        print(json.dumps({"seconds": seconds, "tokens": ids.shape[1], "loss": loss.item()}), flush=True)
    print(json.dumps({"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}), flush=True)


main()
