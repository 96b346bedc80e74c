"""Read a text four times as long as the cache, and answer from what the cache keeps: `python examples/stream_with_cascade.py`.

The cascading KV cache (arXiv 2406.17808) beside StreamingLLM at the same size, on the bundled model; seconds.
"""

from __future__ import annotations

import torch

from lit_cartridges import CascadingCache
from lit_cartridges.attention.cache_argument import cache_argument
from lit_cartridges.cascade import cascade_prefill, reads_cascades
from lit_cartridges.models import load_model, load_tokenizer
from lit_cartridges.pocket import World

MODEL = "package:lit_cartridges.pocket/model"


def main() -> None:
    """Twenty facts at even distances, each asked for at the end of the whole text."""
    model, tokenizer = load_model(MODEL), load_tokenizer(MODEL)
    text = World(7).corpus(1500)
    facts = text.facts[:: len(text.facts) // 20][:20]
    for name, cascades in (("StreamingLLM", 1), ("cascade", 4)):
        right = 0
        for fact in facts:
            chat = [
                {"role": "system", "content": text.text},
                {"role": "user", "content": f"of {fact.name} tell me the {fact.attribute} ."},
            ]
            options = {"add_generation_prompt": True, "return_dict": True, "return_tensors": "pt"}
            ids = tokenizer.apply_chat_template(chat, **options)["input_ids"]  # [1, tokens]
            cache = CascadingCache(
                config=model.config, cascades=cascades, sink_tokens=4, total_tokens=388, stride_tokens=128
            )
            cascade_prefill(model, cache, ids[:, :-1])
            with reads_cascades(model), torch.no_grad():
                out = model.generate(ids, **cache_argument(cache), max_new_tokens=24, do_sample=False)
            right += fact.value in tokenizer.decode(out[0, ids.shape[1] :]).split()
        kept = cache.to_cartridge(model).num_tokens
        print(f"{name}: {kept} of {ids.shape[1]:,} positions kept, {right} of {len(facts)} facts answered")


if __name__ == "__main__":
    main()
