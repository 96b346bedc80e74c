"""Cartridges in EleutherAI's lm-evaluation-harness: ``python -m lit_cartridges.lm_eval`` is its command, which knows them."""
