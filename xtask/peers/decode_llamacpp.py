"""llama.cpp by llama-cpp-python's lower interface; the model is written as GGUF and quantised by llama.cpp itself."""

import ctypes
import json
import os
import sys

import llama_cpp as llama
import numpy as np
from common import arguments, clock, decoding, prompts, version

given = arguments(type=dict(choices=["q4_0", "q8_0"], required=True))
with open(os.path.join(given.checkpoint, "config.json")) as file:
    config = json.load(file)
vocabulary = config["vocab_size"]
quiet = llama.llama_log_callback(lambda *_: None)
llama.llama_log_set(quiet, ctypes.c_void_p(0))
llama.llama_backend_init()

OUTER = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}
INNER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write(path):
    import gguf
    import torch
    from safetensors import safe_open

    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_vocab_size(vocabulary)
    writer.add_tokenizer_model("none")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    with safe_open(os.path.join(given.checkpoint, "model.safetensors"), "pt") as tensors:
        for key in tensors.keys():
            name = OUTER.get(key)
            if name is None:
                _, _, layer, rest = key.split(".", 3)
                stem, kind = rest.rsplit(".", 1)
                name = f"blk.{layer}.{INNER[stem]}.{kind}"
            tensor = tensors.get_tensor(key)
            writer.add_tensor(name, tensor.to(torch.float32 if tensor.ndim == 1 else torch.float16).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


path = os.path.join(given.work, given.type + ".gguf")
if given.convert:
    source = os.path.join(given.work, "f16.gguf")
    if not os.path.exists(source):
        write(source)
    how = llama.llama_model_quantize_default_params()
    how.ftype = {"q4_0": llama.LLAMA_FTYPE_MOSTLY_Q4_0, "q8_0": llama.LLAMA_FTYPE_MOSTLY_Q8_0}[given.type]
    how.nthread = given.threads
    sys.exit(llama.llama_model_quantize(source.encode(), path.encode(), ctypes.byref(how)))
model = llama.llama_model_load_from_file(path.encode(), llama.llama_model_default_params())


def once(rows):
    settings = llama.llama_context_default_params()
    settings.n_ctx = rows * ((given.prompt + given.tokens + 256) // 256 * 256)
    settings.n_batch = settings.n_ubatch = 512
    settings.n_seq_max = rows
    settings.n_threads = settings.n_threads_batch = given.threads
    context = llama.llama_init_from_model(model, settings)
    batch = llama.llama_batch_init(max(512, rows), 0, 1)

    def put(place, token, position, row, wanted):
        batch.token[place], batch.pos[place], batch.n_seq_id[place], batch.logits[place] = int(token), position, 1, wanted
        batch.seq_id[place][0] = row

    def run(places):
        batch.n_tokens = places
        if llama.llama_decode(context, batch) != 0:
            raise RuntimeError("llama_decode failed")

    def likeliest(place):
        return np.ctypeslib.as_array(llama.llama_get_logits_ith(context, place), (vocabulary,)).argmax()

    ids, last = prompts(rows, given.prompt), given.prompt - 1
    tokens = []
    begun = clock()
    for row in range(rows):
        for first in range(0, given.prompt, 512):
            places = range(first, min(first + 512, given.prompt))
            for at in places:
                put(at - first, ids[row, at], at, row, at == last)
            run(len(places))
        tokens.append(likeliest(last % 512))
    read = clock()
    for step in range(given.tokens):
        for row in range(rows):
            put(row, tokens[row], given.prompt + step, row, True)
        run(rows)
        tokens = [likeliest(row) for row in range(rows)]
    end = clock()
    llama.llama_batch_free(batch)
    llama.llama_free(context)
    return read - begun, end - read


version(f"llama-cpp-python {llama.__version__}")
decoding(given, once)
