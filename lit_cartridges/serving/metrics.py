"""What the server counts, for Prometheus: ``GET /metrics``."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
_RATES = (1, 3, 10, 30, 100, 300, 1000)


class Metrics:
    """One server's; no label is a text of a client's."""

    def __init__(self) -> None:
        self.registry = known = CollectorRegistry()
        prefix = "lit_cartridges_"
        self.answers = Counter(
            f"{prefix}answers", "Answers by route and status.", ["route", "status"], registry=known
        )
        self.refusals = Counter(f"{prefix}refusals", "Refusals by reason.", ["code"], registry=known)
        self.loads = Counter(
            f"{prefix}cartridge_loads", "Cartridges and compositions read from files.", registry=known
        )
        self.hits = Counter(f"{prefix}cartridge_hits", "Requests whose cartridge was there.", registry=known)
        self.routed = Counter(
            f"{prefix}routed",
            "Chats that a router was asked about, by what was read.",
            ["read"],
            registry=known,
        )
        self.prompt_tokens = Counter(
            f"{prefix}prompt_tokens", "Tokens of prompts, those of cartridges not counted.", registry=known
        )
        self.tokens = Counter(f"{prefix}generated_tokens", "Tokens generated.", registry=known)
        self.first_token = Histogram(
            f"{prefix}time_to_first_token_seconds",
            "From a request's arrival to its first token.",
            buckets=_SECONDS,
            registry=known,
        )
        self.rate = Histogram(
            f"{prefix}request_tokens_per_second",
            "Tokens a second of each request.",
            buckets=_RATES,
            registry=known,
        )

    def watch(self, name: str, told: str, value: Callable[[], float]) -> None:
        """A gauge whose value is asked for when somebody looks."""
        Gauge(f"lit_cartridges_{name}", told, registry=self.registry).set_function(value)

    @property
    def text(self) -> bytes:
        """As Prometheus reads it."""
        return generate_latest(self.registry)
