"""Init strategies compared: one recipe, trained from each of them, at several compressions, with several seeds.

Data flow: `ComparisonSettings` → `Recipe` (read and checked) → `Plan` of `ComparedRun`s → ``lit-cartridges fit``
processes → CSV files → `Measured`, one per run → `OverSeeds`, one per strategy and compression → ``comparison.json`` and
table, of which `lit_cartridges.report` makes a page.
"""

from lit_cartridges.comparison.comparison import ComparisonSettings, compare

__all__ = ["ComparisonSettings", "compare"]
