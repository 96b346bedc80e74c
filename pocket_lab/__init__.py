"""How the bundled model was made and is measured: pretraining, drills, its card. Not part of the package."""
