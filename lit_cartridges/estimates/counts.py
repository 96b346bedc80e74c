"""What training a cartridge costs, counted: weights, bytes in memory, FLOPs, bytes over the network.

Every formula is derived from what this package's code does with a frozen Llama, and held against it (FLOPs, bytes that
live, collectives) by `benchmarks._scaling_measured` and `tests/distributed/test_network_bytes.py`; `decode_bytes` alone is
not, since no counter sees what a GPU moves. No seconds here: those are `lit_cartridges.estimates.roofline`.

Letters:
    L layers · W width · M MLP width · H query heads · K key-value heads · D head dim · V vocabulary
    T tokens of a packed row · A answer tokens among them · P cartridge tokens · R rows of a generating batch
    e bytes of an element of the frozen model (bf16: 2) · n GPUs

FLOPs are counted as `torch.utils.flop_counter` counts them: 2 per multiplication and addition of a matrix product,
and causal attention as its whole square. A causal kernel does about half of that square.
"""

from __future__ import annotations

from lit_cartridges.estimates.shapes import Row, Shape
from lit_cartridges.losses import fp32_rows

FP32 = 4
# DeepSpeed's buckets for gradients, as Lightning's strategy sets them: two of so many fp32 elements (overlap_comm).
ZERO_BUCKET_ELEMENTS = 2 * 200_000_000
# `attend_plain` makes scores for so many queries at a time.
_SCORED_TOKENS, _MOST_SCORES = 1024, 2**28


# --- memory -----------------------------------------------------------------------------------------------------


def whole_weight_bytes(shape: Shape, element: int = 2) -> int:
    """The frozen model, whole on a GPU: DDP and ZeRO 0 to 2."""
    return shape.weights * element


def sharded_weight_bytes(shape: Shape, gpus: int, element: int = 2) -> float:
    """One GPU's share of what `ShardedWeights` spreads: the layers, and the embedding unless it is the head too."""
    return gathered_bytes(shape, element) / gpus


def kept_weight_bytes(shape: Shape, element: int = 2) -> int:
    """Whole on every GPU under ZeRO-3 all the same: the output head and the last norm."""
    return (shape.head_weights + shape.width) * element


def gathered_unit_bytes(shape: Shape, element: int = 2) -> int:
    """The largest of what `ShardedWeights` makes whole at a time: a layer or the embedding."""
    return max(shape.layer_weights, 0 if shape.tied else shape.head_weights) * element


def trained_elements(shape: Shape, tokens: int, frozen_tokens: int = 1) -> int:
    """Elements of a cartridge that are trained."""
    return shape.kv_elements * (tokens - frozen_tokens)


def cartridge_bytes(shape: Shape, tokens: int, frozen_tokens: int = 1) -> int:
    """In fp32, under DDP: of each trained element itself, its gradient, DDP's bucket for that, and Adam's two moments."""
    own = shape.kv_elements * tokens * FP32
    return own + trained_elements(shape, tokens, frozen_tokens) * 4 * FP32


def zero_cartridge_bytes(shape: Shape, tokens: int, gpus: int, frozen_tokens: int = 1) -> float:
    """In fp32, under ZeRO-2 and 3: whole elements, and a GPU's share of a copy of them, the moments and the gradient."""
    own = shape.kv_elements * tokens * FP32
    return own + trained_elements(shape, tokens, frozen_tokens) * 4 * FP32 / gpus


def exchange_bytes(
    shape: Shape,
    tokens: int,
    element: int = 2,
    frozen_tokens: int = 1,
    bucket_elements: int = ZERO_BUCKET_ELEMENTS,
) -> int:
    """Under ZeRO, at the end of the backward pass, when nothing else of the step is left: DeepSpeed's buckets, and the
    cartridge's gradients, in the model's dtype and in fp32. Autograd reaches all of them last, since the step began with
    handing the cartridge to the model."""
    trained = trained_elements(shape, tokens, frozen_tokens)
    return bucket_elements * FP32 + trained * (element + FP32)


def layer_kept_bytes(shape: Shape, row: Row) -> int:
    """What autograd keeps of one layer, beside the cartridge. Frozen weights want no gradient, so no matrix product
    keeps its input; what is kept is what other operations need:

    two norms, each its input in fp32 and a scale per token; query, key, value, output and the log-sum-exp (fp32) of the
    attention; of the MLP: the gate before and after SiLU, and the up projection.
    """
    e, heads = row.element_bytes, shape.heads * shape.head_dim
    attention = e * 2 * (heads + shape.kv_heads * shape.head_dim) + FP32 * shape.heads
    return row.tokens * (2 * _norm_kept_bytes(shape) + attention + e * 3 * shape.mlp_width)


def kept_bytes(shape: Shape, row: Row) -> int:
    """What is kept at the end of the forward pass until the backward pass.

    Of all layers, or with gradient checkpointing each layer's input only; the cartridge in the model's dtype; the last
    norm's; the rotary cosines and sines; the gradients of the answer tokens' hidden states. The first layer's norm keeps
    nothing, since nothing before it is trained.
    """
    e = row.element_bytes
    cartridge = shape.kv_elements * row.prefix_tokens * e
    if row.recompute:
        layers = shape.layers * row.tokens * shape.width * e
    else:
        layers = shape.layers * layer_kept_bytes(shape, row) - row.tokens * _norm_kept_bytes(shape)
    ends = row.tokens * (_norm_kept_bytes(shape) + 2 * shape.head_dim * e)
    return cartridge + layers + ends + row.answers * shape.width * e


def working_bytes(shape: Shape, row: Row) -> int:
    """The most that lives beside what is kept: the loss of a chunk of answers (of a block of them fp32 log-probabilities and
    twice their gradient, and where there are several the chunk's logits and their gradient), or the backward pass of a layer
    (four tensors of the MLP's width and four of the model's, and what the layer keeps if it is recomputed).
    """
    chunk = min(row.loss_chunk_tokens, row.answers)
    block = min(chunk, fp32_rows(shape.vocabulary))
    logits = 2 * row.element_bytes * chunk if block < chunk else 0
    loss = (logits + 3 * FP32 * block) * shape.vocabulary
    layer = 4 * row.element_bytes * row.tokens * (shape.mlp_width + shape.width)
    return max(loss, layer + (layer_kept_bytes(shape, row) if row.recompute else 0))


def generating_bytes(
    shape: Shape, *, chunk_tokens: int, rows: int, prompt_tokens: int, new_tokens: int, element: int = 2
) -> int:
    """The most that `LocalTeacher` holds: the chunk's keys and values, and the most of its prefill, the reading of the
    prompts, and the decoding: the rows' own keys and values, and the logits (in fp32 too) or a layer's that grows.
    """
    kv = shape.kv_elements * element
    prompts = rows * prompt_tokens * kv + _reading_bytes(shape, rows * prompt_tokens, element)
    own = rows * (prompt_tokens + new_tokens) * kv
    logits = rows * shape.vocabulary * (element + FP32)
    prefill = _reading_bytes(shape, chunk_tokens, element)
    return chunk_tokens * kv + max(prefill, prompts, own + max(own // shape.layers, logits))


def plain_attention_bytes(shape: Shape, *, rows: int, tokens: int, keys: int, element: int = 2) -> int:
    """On a GPU, rows of padded prompts have no fused kernel (`attend_plain`): keys and values repeated for each query head
    of a group, then three times the fp32 scores, or twice with the values in fp32."""
    wide = rows * keys * shape.heads * shape.head_dim
    repeated = 0 if shape.heads == shape.kv_heads else 2 * element * wide
    one = rows * shape.heads * keys
    scores = FP32 * one * min(tokens, _SCORED_TOKENS, max(1, _MOST_SCORES // max(1, one)))
    return repeated + max(3 * scores, 2 * scores + FP32 * wide)


def _norm_kept_bytes(shape: Shape) -> int:
    """Per token."""
    return FP32 * shape.width + FP32


def _reading_bytes(shape: Shape, tokens: int, element: int) -> int:
    """A layer's forward pass without gradients: hidden states, and the most of the MLP (gate, up, product) and the merging
    of two attentions (query and both outputs; in fp32 the outputs and their mean)."""
    merged = (3 * element + (1 if element == FP32 else 3) * FP32) * shape.heads * shape.head_dim
    return tokens * (4 * element * shape.width + max(3 * element * shape.mlp_width, merged))


# --- FLOPs ------------------------------------------------------------------------------------------------------


def forward_flops(shape: Shape, row: Row) -> int:
    """Layers for all tokens, attention to the cartridge and inside each sequence; for answer tokens the output head, and its
    gradient as well, which `chunked_loss` takes at once."""
    layers = 2 * shape.layers * shape.layer_matrices * row.tokens + _attention_flops(shape, row)
    return layers + 4 * shape.head_weights * row.answers


def backward_flops(shape: Shape, row: Row) -> int:
    """To the activations only: as much as forward for the matrices, 2.5 times for attention.

    Not through the first layer's query, key and value, before which nothing is trained. With gradient checkpointing the
    layers run forward again, up to the last product, whose result nothing needs.
    """
    layers = 2 * (shape.layers * shape.layer_matrices - shape.qkv_weights) * row.tokens
    total = layers + 5 * _attention_flops(shape, row) // 2
    if row.recompute:
        last = shape.width * shape.mlp_width
        total += 2 * shape.layers * (shape.layer_matrices - last) * row.tokens + _attention_flops(shape, row)
    return total


def prefill_flops(shape: Shape, tokens: int) -> int:
    """A chunk, read once (`prefill`): no output head."""
    return 2 * shape.layers * shape.layer_matrices * tokens + _products(shape, tokens * tokens)


def completion_flops(
    shape: Shape, *, prefix_tokens: int, rows: int, prompt_tokens: int, new_tokens: int
) -> int:
    """``rows`` prompts behind one prefix, and the decoding of ``new_tokens`` each (`LocalTeacher`)."""
    read = rows * (prompt_tokens - 1)  # a prompt's last token is decoding's first
    total = 2 * shape.layers * shape.layer_matrices * read
    total += _products(shape, read * (prefix_tokens + prompt_tokens - 1))
    for step in range(new_tokens):
        total += decode_flops(shape, prefix_tokens=prefix_tokens, rows=rows, own_tokens=prompt_tokens + step)
    return total


def decode_flops(shape: Shape, *, prefix_tokens: int, rows: int, own_tokens: int) -> int:
    """One token of each row."""
    weights = shape.layers * shape.layer_matrices + shape.head_weights
    return 2 * weights * rows + _products(shape, rows * (prefix_tokens + own_tokens))


def decode_bytes(shape: Shape, *, prefix_tokens: int, rows: int, own_tokens: int, element: int = 2) -> int:
    """GPU memory read and written for one token of each row: weights and prefix once, own keys and values per row.

    Appending reads and writes the rows' own; since padded rows have no fused kernel on a GPU (`attend_plain`), they are
    then repeated for each query head of their group and widened to fp32: 1 + 6 H/K times their bytes.
    """
    weights = (shape.layers * shape.layer_matrices + shape.head_weights) * element
    prefix, own = (n * shape.kv_elements * element for n in (prefix_tokens, rows * own_tokens))
    return weights + prefix + own * (3 + 6 * shape.heads // shape.kv_heads)


def _attention_flops(shape: Shape, row: Row) -> int:
    pairs = row.tokens * row.prefix_tokens + sum(length * length for length in row.lengths)
    return _products(shape, pairs)


def _products(shape: Shape, pairs: int) -> int:
    """Scores and weighted values of so many (query, key) pairs, in all layers."""
    return 4 * shape.layers * shape.heads * shape.head_dim * pairs


# --- network ----------------------------------------------------------------------------------------------------


def gathered_bytes(shape: Shape, element: int = 2) -> int:
    """What one forward call makes whole under ZeRO-3: every layer, and the embedding unless it is the head too."""
    return (shape.layers * shape.layer_weights + (0 if shape.tied else shape.head_weights)) * element


def gathered_for_training_bytes(shape: Shape, element: int = 2) -> int:
    """Per micro-batch: every layer forward and again backward, the embedding once. Recomputing adds nothing: the layer
    that runs again is the one that the backward pass needs anyway."""
    return gathered_bytes(shape, element) + shape.layers * shape.layer_weights * element


def received_bytes(payload: float, gpus: int) -> float:
    """By each GPU when a payload that is spread evenly is made whole on all."""
    return payload * (gpus - 1) / gpus


def ddp_payload_bytes(shape: Shape, tokens: int, frozen_tokens: int = 1) -> int:
    """An optimizer step's all-reduce of the cartridge's gradient; a GPU receives (and sends) twice its share of it."""
    return trained_elements(shape, tokens, frozen_tokens) * FP32
