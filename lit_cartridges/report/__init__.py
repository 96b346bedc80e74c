"""One page about runs: what they reached, how they trained, what they know of each part of the corpus, what they answered.

Data flow: run folders, a comparison's folder, evaluation files → `gathering.gather` → `RunFacts` → `page.write_page` → one HTML
file that asks for nothing else. `page` and `figures` need plotly, of the extra [report]. The card of
a cartridge is made of the same `CartridgeFacts` (`lit_cartridges.cartridge_files.facts`).
"""
