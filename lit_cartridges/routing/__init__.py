"""Whether a question is about a cartridge's corpus: a router beside the cartridge (Cartridges++), read before each answer.

recorded questions, general requests → `make_router` → `Router` → ``router.safetensors`` → `best_route` → with or without
"""

from lit_cartridges.routing.router import Route, Router, RouterError
from lit_cartridges.routing.router_file import load_router, save_router

__all__ = ["Route", "Router", "RouterError", "load_router", "save_router"]
