"""The published library as the oracle: writes folders of small random models of every family, each as
`save_pretrained` does, with `ids.json` and `logits.f32` beside it. The one argument is where."""

import json
import os
import sys

import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

VOCAB = 320
TOKENS = 60
BASE = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def rope(kind, base=10000.0, **more):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": base, **more}}


def yarn(**more):
    return rope("yarn", factor=4.0, original_max_position_embeddings=32, **more)


LLAMA3 = rope("llama3", 5e5, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)
GEMMA = {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 16}
FULL, NEAR = "full_attention", "sliding_attention"
LONG = rope(
    "longrope",
    partial_rotary_factor=0.75,
    original_max_position_embeddings=64,
    short_factor=[1.0 + 0.1 * i for i in range(12)],
    long_factor=[1.5 + 0.3 * i for i in range(12)],
)
TWO_ROPES = {
    "rope_parameters": {
        FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        NEAR: {"rope_type": "default", "rope_theta": 1e4},
    }
}
LLAMA = (LlamaForCausalLM, LlamaConfig)
MISTRAL = (MistralForCausalLM, MistralConfig)
QWEN2 = (Qwen2ForCausalLM, Qwen2Config)
QWEN3 = (Qwen3ForCausalLM, Qwen3Config)
GEMMA2 = (Gemma2ForCausalLM, Gemma2Config)
GEMMA3 = (Gemma3ForCausalLM, Gemma3TextConfig)
PHI3 = (Phi3ForCausalLM, Phi3Config)

CASES = {
    "llama": (LLAMA, {}),
    "llama-biases": (LLAMA, {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "head_dim": 32}),
    "llama-3": (LLAMA, LLAMA3),
    "llama-linear": (LLAMA, rope("linear", factor=4.0)),
    "llama-dynamic": (LLAMA, rope("dynamic", factor=4.0)),
    "llama-yarn": (LLAMA, yarn()),
    "llama-yarn-scales": (LLAMA, yarn(mscale=0.7, mscale_all_dim=0.3, beta_fast=16.0, beta_slow=2.0)),
    "llama-yarn-attention": (LLAMA, yarn(attention_factor=1.25)),
    "mistral": (MISTRAL, {"sliding_window": None, "head_dim": 16}),
    "mistral-window": (MISTRAL, {"sliding_window": 64, "head_dim": 16}),
    "qwen2": (QWEN2, {}),
    "qwen2-yarn": (QWEN2, rope("yarn", 1e6, factor=2.0, original_max_position_embeddings=64)),
    "qwen3": (QWEN3, {"head_dim": 32}),
    "qwen3-biases": (QWEN3, {"head_dim": 32, "attention_bias": True, "tie_word_embeddings": True}),
    "gemma2": (GEMMA2, GEMMA),
    "gemma2-caps": (GEMMA2, {**GEMMA, "attn_logit_softcapping": 4.0, "final_logit_softcapping": 3.0}),
    "gemma3": (GEMMA3, {**GEMMA, "num_hidden_layers": 7}),
    "gemma3-layers": (GEMMA3, {**GEMMA, **TWO_ROPES, "num_hidden_layers": 4, "layer_types": [FULL, NEAR, NEAR, FULL]}),
    "phi3": (PHI3, {"sliding_window": 24}),
    "phi3-long": (
        PHI3,
        {
            **LONG,
            "hidden_size": 128,
            "partial_rotary_factor": 0.75,
            "original_max_position_embeddings": 64,
            "tie_word_embeddings": True,
        },
    ),
}


def fill(model, generator):
    """Weights that keep numbers of order one, and norms and biases that are felt."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if p.dim() == 1 and not name.endswith("bias"):
                p.add_(noise * 0.2)
            elif p.dim() == 1:
                p.copy_(noise * 0.2)
            elif "emb" in name or "wte" in name or "wpe" in name:
                p.copy_(noise * 0.5)
            else:
                p.copy_(noise * (1.2 / p.shape[1] ** 0.5))


def tokenizer():
    """256 bytes and a few merges."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in plain]
    letters = {**{b: chr(b) for b in plain}, **{b: chr(256 + i) for i, b in enumerate(rest)}}
    vocab = {text: i for i, text in enumerate(["<unk>", "<s>", "</s>"])}
    special = list(vocab.items())
    for byte in range(256):
        vocab[letters[byte]] = len(vocab)
    merges = [["t", "h"], ["th", "e"], [letters[32], "the"], ["i", "n"]]
    for left, right in merges:
        vocab[left + right] = len(vocab)
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": text, **flags} for text, i in special],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    }


def write(folder, model, generator):
    os.makedirs(folder, exist_ok=True)
    model = model.float().eval()
    fill(model, generator)
    model.save_pretrained(folder)
    with open(os.path.join(folder, "tokenizer.json"), "w") as file:
        json.dump(tokenizer(), file)
    ids = torch.randint(3, VOCAB, (1, TOKENS), generator=generator)
    with torch.no_grad():
        logits = model(ids).logits[0].float().numpy()
    with open(os.path.join(folder, "ids.json"), "w") as file:
        json.dump(ids[0].tolist(), file)
    logits.tofile(os.path.join(folder, "logits.f32"))


def main():
    root = sys.argv[1]
    for name, ((model, config), more) in CASES.items():
        generator = torch.Generator().manual_seed(1)
        write(os.path.join(root, name), model(config(**{**BASE, **more})), generator)
    gpt2 = GPT2Config(vocab_size=VOCAB, n_embd=64, n_layer=3, n_head=4, n_positions=128, bos_token_id=1, eos_token_id=2)
    write(os.path.join(root, "gpt2"), GPT2LMHeadModel(gpt2), torch.Generator().manual_seed(1))


if __name__ == "__main__":
    main()
