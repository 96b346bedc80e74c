"""The few models that no tiny one is made of here, each with its reason; their number may not grow unseen."""

from __future__ import annotations

_TIMM = "its vision tower needs timm, which the tests do not install"
_THINKER = "transformers' own generate fails on its config alone (vision_start_token_id)"
_ASSISTANT = "a draft model that reads the keys and values of another model"

NOT_BUILT = {
    **dict.fromkeys(("gemma3n", "fast_vlm", "perception_lm"), _TIMM),
    "inkling_mm_model": "its audio tower needs scipy, which the tests do not install",
    **dict.fromkeys(("gemma4_assistant", "gemma4_unified_assistant"), _ASSISTANT),
    **dict.fromkeys(("qwen2_5_omni_thinker", "qwen3_omni_moe_thinker"), _THINKER),
    **dict.fromkeys(
        ("musicgen", "musicgen_melody"), "reads codes of sound, and its decoder has a config of its own"
    ),
    "evolla": "AutoModelForImageTextToText does not make it",
}
