"""transformers on PyTorch eager: SDPA attention, dynamic cache, logits of the last place alone."""

import torch
import transformers
from common import arguments, clock, decoding, prompts, version

given = arguments(dtype=dict(choices=["bf16", "f32"], required=True))
torch.set_num_threads(given.threads)
dtype = {"bf16": torch.bfloat16, "f32": torch.float32}[given.dtype]
model = transformers.AutoModelForCausalLM.from_pretrained(given.checkpoint, dtype=dtype).eval()


@torch.inference_mode()
def once(rows):
    ids = torch.from_numpy(prompts(rows, given.prompt))
    begun = clock()
    out = model(input_ids=ids, use_cache=True, logits_to_keep=1)
    token = out.logits[:, -1].argmax(-1, keepdim=True)
    read = clock()
    for _ in range(given.tokens):
        out = model(input_ids=token, past_key_values=out.past_key_values, use_cache=True, logits_to_keep=1)
        token = out.logits[:, -1].argmax(-1, keepdim=True)
    return read - begun, clock() - read


version(f"transformers {transformers.__version__}, torch {torch.__version__}")
decoding(given, once)
