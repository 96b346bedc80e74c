"""All tables by name. A file of this folder with a subclass of `Reproduction` is all that a further one takes."""

from lit_cartridges.found_classes import found_classes
from lit_cartridges.reproductions.reproduction import Reproduction

TABLES = {
    kind.name: kind
    for kind in sorted(found_classes(__name__, Reproduction).values(), key=lambda kind: kind.name)
}
