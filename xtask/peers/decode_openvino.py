"""OpenVINO: optimum-intel's export with weights in 4 bits, stateful, plain infer requests; --pipeline: openvino-genai's pipeline instead."""

import os
import sys

import numpy as np
import openvino as ov
from common import arguments, clock, decoding, prompts, version

given = arguments(group=dict(type=int, default=128), pipeline=dict(action="store_true"))
folder = os.path.join(given.work, f"openvino_int4_{given.group}")
if given.convert:
    from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig

    how = OVWeightQuantizationConfig(bits=4, sym=True, group_size=given.group, ratio=1.0)
    OVModelForCausalLM.from_pretrained(given.checkpoint, export=True, compile=False, quantization_config=how).save_pretrained(folder)
    sys.exit()


def requests():
    """One infer request, steps by hand."""
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": given.threads, "KV_CACHE_PRECISION": "u8"}
    compiled = ov.Core().compile_model(os.path.join(folder, "openvino_model.xml"), "CPU", settings)
    names = {name for port in compiled.inputs for name in port.names}

    def once(rows):
        request = compiled.create_infer_request()

        def step(ids, past):
            feed = {
                "input_ids": ids,
                "attention_mask": np.ones((rows, past + ids.shape[1]), np.int64),
                "position_ids": np.tile(np.arange(past, past + ids.shape[1]), (rows, 1)),
                "beam_idx": np.arange(rows, dtype=np.int32),
            }
            request.infer({name: feed[name] for name in feed if name in names}, share_inputs=True, share_outputs=True)
            return request.get_tensor("logits").data[:, -1].argmax(-1)[:, None].astype(np.int64)

        ids = prompts(rows, given.prompt)
        begun = clock()
        token = step(ids, 0)
        read = clock()
        for at in range(given.tokens):
            token = step(token, given.prompt + at)
        return read - begun, clock() - read

    return once


def pipeline():
    """Continuous batching with paged attention; it keeps prompts unless told not to, and would then read none."""
    import openvino_genai as genai

    scheduler = genai.SchedulerConfig()
    scheduler.enable_prefix_caching = False
    scheduler.cache_size = 1
    scheduler.max_num_batched_tokens = 512
    pipe = genai.LLMPipeline(folder, "CPU", ATTENTION_BACKEND="PA", INFERENCE_NUM_THREADS=given.threads, scheduler_config=scheduler)

    def once(rows):
        ids = prompts(rows, given.prompt)
        inputs = genai.TokenizedInputs(ov.Tensor(ids), ov.Tensor(np.ones_like(ids)))
        seconds = []
        for tokens in (1, given.tokens + 1):
            settings = genai.GenerationConfig(max_new_tokens=tokens, ignore_eos=True, do_sample=False, apply_chat_template=False)
            begun = clock()
            pipe.generate(inputs, settings)
            seconds.append(clock() - begun)
        return seconds[0], seconds[1] - seconds[0]

    return once


version(f"openvino {ov.__version__.split('-')[0]}")
decoding(given, pipeline() if given.pipeline else requests())
