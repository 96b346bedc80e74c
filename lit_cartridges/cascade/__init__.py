"""The cascading KV cache (arXiv 2406.17808): a frozen RoPE model streams text without end in a cache of fixed size.

    cache = CascadingCache(config=model.config, sink_tokens=4, cascades=4, total_tokens=1028, stride_tokens=512)
    cascade_prefill(model, cache, long_ids[:, :-1])            # linear in the length
    with reads_cascades(model):
        model.generate(long_ids, **cache_argument(cache))      # or any forward call
    with decodes_cascade(model, cache) as step:                # single tokens, by CUDA graphs
        logits = step(token_ids)
    cache.to_cartridge(model)                                  # what it kept, as a cartridge
    cache.save("stream.safetensors")

Words: *sinks* never leave; *sub-cache* (or level) 0 is the newest and C-1 the oldest; a *stride* is read at once and then
inserted; a *token set* is what one KV head holds, or all heads of a layer together.

Data flow of one stride in one layer:

    `reads_cascades`   no rotation by the model; a `CascadeReading` per forward call (see `model_calls`)
    `CascadeStep`      from token counts alone, once per shape: positions, masks, query weights, `InsertionPlan`;
                       those of full cascades are kept (`SteadySteps`)
    `Rotation`         the model's own RoPE at re-indexed positions: held tokens at 0..n-1, the stride from n on
    `attend`           one softmax gives the output and, per key, the weighted sum of its probabilities
    `CascadeLayer`     scores ← decayed scores + sums, reduced over heads; `InsertionPlan.columns` picks who stays

Single tokens in a full cascade are read by slots instead: `RingClock` says on the device which slots a token moves, and in a
`Ring` nothing else is written.

`streamed_logprobs` scores every token of a text once, for perplexity.
"""

from lit_cartridges.cascade.cascading_cache import CascadingCache
from lit_cartridges.cascade.decoding import DecodingStep, decodes_cascade
from lit_cartridges.cascade.prefill import cascade_prefill, streamed_logprobs
from lit_cartridges.cascade.reading import reads_cascades
from lit_cartridges.cascade.shape import CascadeShape
from lit_cartridges.cascade.state import CascadeFileError

__all__ = [
    "CascadeFileError",
    "CascadeShape",
    "CascadingCache",
    "DecodingStep",
    "cascade_prefill",
    "decodes_cascade",
    "reads_cascades",
    "streamed_logprobs",
]
