"""The few models that no tiny one is made of here, each with its reason; their number may not grow unseen."""

from __future__ import annotations

NOT_BUILT = {
    **dict.fromkeys(
        ("fast_vlm", "perception_lm"), "its vision tower needs timm, which the tests do not install"
    ),
    "gemma4_assistant": "a draft model that reads the keys and values of another model",
    "evolla": "AutoModelForImageTextToText does not make it",
}
