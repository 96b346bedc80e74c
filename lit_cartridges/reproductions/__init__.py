"""The papers' tables, one command each: ``lit-cartridges reproduce NAME``.

A table is a `Reproduction`: a file of ``tables/`` with its settings, the paper's figures (`Published`) and two methods.
``cells()`` gives independent units of work (`Cell`: a row and a column of the table), and ``measure(cell)`` gives what one came
to (`Measured`: a value per question). `reproduce` does the rest:

    settings → cells → measure → cells/NAME.json, each as soon as it is known → result.json (`Result`) → table.md, plot.svg

The same command goes on where it was killed; other settings in the same folder are refused. Errors are over questions, or over
clusters of them (`clustered`): samples of one question are averaged first. ``lit-cartridges leaderboard FOLDER`` puts many
``result.json`` side by side. A table that asks questions about a corpus is an `AskedReproduction`.
"""

from lit_cartridges.reproductions.reproduction import Cell, Measured, Published, Reproduction
from lit_cartridges.reproductions.result import Figure, Result
from lit_cartridges.reproductions.run import reproduce

__all__ = ["Cell", "Figure", "Measured", "Published", "Reproduction", "Result", "reproduce"]
