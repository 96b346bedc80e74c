"""Parsers, settings files and endings that all commands share."""

TRAINER_COMMANDS = {
    "fit": "Train a cartridge by a recipe.",
    "validate": "Score a trained cartridge on held-out conversations of its recipe.",
    "test": "The same, under Lightning's name for the final score.",
    "predict": "Losses of a trained cartridge, token by token.",
}
"""What LightningCLI runs, with what each does."""
