"""One line out of what jsonargparse says of a wrong setting, which may be a page.

jsonargparse nests what it says: under a key the types that it has tried, under a class the key of its option, and so on,
each indented. The deepest is what went wrong; the keys on the way there are the setting's name.
"""

from __future__ import annotations

import builtins
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from lit_cartridges.settings.checked import described, type_hints

_KEY = re.compile(r'(?:Parser key|Validation failed for key|Key) "([^"]*)"(?: is required.*)?:?\s*')
_CLASS = re.compile(r"Problem with given class_path '([^']*)':\s*")
_NOISE = re.compile(
    r"Does not validate against any|Subtypes:|Errors:|Given value|Expected a <class 'NoneType'>|Validation failed|"
    r"Expected a path but"
)
_MOST_NAMES = 40


def condensed(message: str, roots: Mapping[str, Any], flags: Iterable[str] = ()) -> str:
    """``name=value why``, or a sentence.

    Args:
        message: of the parser.
        roots: the classes and functions whose arguments are settings, by the key that stands in front ("" for none).
        flags: all options of the command.
    """
    if unknown := re.match(r"[Uu]nrecognized arguments: (\S+)", message):
        return _unknown_option(unknown[1], flags)
    if lacking := re.match(r"the following arguments are required: (.*)", message):
        names = [_flag(name, roots, flags) for name in lacking[1].split(", ")]
        return f"{', '.join(names)}: must be given"
    if plain := re.match(r"argument ([^:]*?)(?:/[^:]*)?: (.*)", message, re.DOTALL):
        return _plain(plain[1].split("/")[-1], plain[2])
    if inner := re.search(r"Subcommand '[^']*' does not accept option '([^']*)'", message):
        return _unknown_option(f"--{inner[1]}", flags)
    path, leaf = _deepest(message)
    keys = [part for kind, part in path if kind == "key"]
    classes = [part for kind, part in path if kind == "class"]
    key = re.sub(r"\.?(init_args|dict_kwargs)(?=\.|$)", "", ".".join(keys))
    return _explained(key, leaf, message, classes[-1] if classes else None, roots)


def _deepest(message: str) -> tuple[list[tuple[str, str]], str]:
    """The keys and classes on the way to the deepest line that says something, and that line."""
    stack: list[tuple[int, str, str]] = []
    best: tuple[list[tuple[str, str]], str] = ([], "")
    for raw in filter(str.strip, message.splitlines()):
        line = raw.lstrip(" ").removeprefix("- ")
        indent = len(raw) - len(line)
        stack = [one for one in stack if one[0] < indent]
        while match := _KEY.match(line) or _CLASS.match(line):
            kind = "key" if match.re is _KEY else "class"
            stack.append((indent, kind, match[1]))
            line = line[match.end() :]
            if '" is ' in match[0] or line.startswith("is "):
                break
        path = [(kind, name) for _, kind, name in stack]
        if line and not _NOISE.match(line) and (not best[1] or len(path) > len(best[0])):
            best = (path, line)
    return best


def _explained(key: str, leaf: str, message: str, owner: str | None, roots: Mapping[str, Any]) -> str:
    if group := re.match(r"Group '([^']*)' does not accept option '([^']*)'", leaf):
        key = f"{key}.{group[1]}" if key else group[1]
        return f"--{key}: {_no_such_option(group[2], _class_in(_hint(key, owner, roots)))}: {group[2]}"
    hint = _hint(key, owner, roots)
    if option := re.match(
        r"Option '([^']*)' is not accepted|(?:Key )?.?\"?([\w.]+)\"? is not expected",
        leaf,
    ):
        name = option[1] or option[2]
        whole = f"{key}.{name}" if key and not key.endswith(name) else key or name
        base = _imported(owner) if owner else roots.get(key, _class_in(hint))
        return f"--{whole}: {_no_such_option(name.rpartition('.')[2], base)}"
    if lacking := re.match(r"the following arguments are required: (.*)", leaf):
        needed = ", ".join(f"--{key}.{name}" for name in lacking[1].split(", "))
        return f"{needed}: must be given with {(owner or key).rpartition('.')[2]}"
    base = roots.get(key) if hint is None else _class_in(hint)
    if base is not None and (
        named := re.search(r"^[ -]*(Expected a dot import path.*)", message, re.MULTILINE)
    ):
        leaf = named[1]
    if base is not None and leaf.startswith("Expected an instantiatable class"):
        return f"--{key}: must be given; {choices('', _known_classes(base))}"
    value = _told_value(leaf) or _told_value(message)
    if base is not None and re.match(
        r"Expected a dot import path|Import path|No module|Unable to import|Unexpected import", leaf
    ):
        return f"{key}={value}: there is no such {base.__name__}; {choices(value, _known_classes(base))}"
    if hint is not None and leaf.startswith("Expected a"):
        literal = described(hint)
        close = _nearest(value, re.findall(r"\w+", literal)) if literal.startswith("one of") else ""
        return f"{key}={value} must be {literal}" + (f"; did you mean {close}?" if close else "")
    if expected := re.findall(r"Expected a <class '(\w+)'>", message):
        nouns = dict.fromkeys(described(vars(builtins).get(name, type(None))) for name in expected)
        return f"{key}={value} must be {', or '.join(nouns)}"
    reason = re.sub(r"<class '(?:[\w.]*\.)?(\w+)'>", r"\1", leaf)
    return f"{key}={value}: {reason}" if key else reason


def _told_value(leaf: str) -> str:
    found = re.search(r"(?:Got value|path string|Given value): (.*)", leaf)
    return (found[1] or "''").strip() if found else ""


def _hint(key: str, owner: str | None, roots: Mapping[str, Any]) -> Any:
    """The annotation of the setting ``key``, or None."""
    parts = key.split(".")
    if owner is not None and (found := _hints(_imported(owner)).get(parts[-1])) is not None:
        return found
    for root, component in roots.items():
        own = parts[1:] if root and parts[0] == root else parts if not root else []
        found = None
        while own:
            found = _hints(component).get(own.pop(0))
            component = _class_in(found)
        if found is not None:
            return found
    return None


def _hints(component: Any) -> dict[str, Any]:
    if component is None:
        return {}
    function = component.__init__ if inspect.isclass(component) else component
    try:
        return type_hints(inspect.unwrap(function))
    except (NameError, TypeError):
        return {}


def _class_in(hint: Any) -> Any:
    """The class of which a setting with this annotation is an instance, if it is one."""
    if get_origin(hint) in (Union, UnionType, Annotated, list):
        return next((found for inner in get_args(hint) if (found := _class_in(inner)) is not None), None)
    plain = (str, int, float, bool, type(None))
    return hint if inspect.isclass(hint) and hint not in plain and hint.__module__ != "pathlib" else None


def _known_classes(base: type) -> list[str]:
    """Names of what may be given for ``base``: all loaded subclasses that are no bases themselves."""
    found, queue = set(), [base]
    while queue:
        one = queue.pop()
        queue += one.__subclasses__()
        if not inspect.isabstract(one) and not one.__name__.startswith("_"):
            found.add(one.__name__)
    return sorted(found)


def _no_such_option(name: str, owner: Any) -> str:
    if owner is None:
        return "there is no such option"
    known = [
        parameter
        for parameter in inspect.signature(owner).parameters.values()
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    names = [parameter.name for parameter in known]
    if not names:
        return f"{owner.__name__} has no options"
    return f"{owner.__name__} has no such option; {choices(name, names)}"


def _unknown_option(argument: str, flags: Iterable[str]) -> str:
    flag = argument.partition("=")[0]
    if not flag.startswith("-"):
        return f"{argument!r}: there is no such argument; options begin with --"
    known = sorted(one for one in flags if one.startswith("--") and not one.endswith((".help", "+")))
    group, dot, name = flag.rpartition(".")
    beside = [one.rpartition(".")[2] for one in known if dot and one.rpartition(".")[0] == group]
    same = [one for one in known if one.rpartition(".")[2].lstrip("-") == name.lstrip("-")]
    if close := _nearest(name, beside):
        mend = f"did you mean {group}.{close}?"
    elif beside and not same:
        mend = choices(name, beside)
    elif close := next(iter(same), _nearest(flag, known)):
        mend = f"did you mean {close}?"
    else:
        mend = "--help lists those that there are"
    return f"{flag}: there is no such option; {mend}"


def choices(name: str, known: Sequence[str]) -> str:
    """What may stand in the place of a wrong name, the nearest first."""
    close = _nearest(name.rpartition(".")[2], known)
    mean = f"did you mean {close}? " if close else ""
    rest = "" if len(known) <= _MOST_NAMES else ", …"
    return f"{mean}there are {', '.join(known[:_MOST_NAMES])}{rest}"


def _nearest(name: str, known: Sequence[str]) -> str:
    """The most alike, or one that begins with the name; none where all are far."""
    close = get_close_matches(name, known, 1) or [
        one for one in known if name and one.lower().startswith(name.lower())
    ]
    return close[0] if close else ""


def _plain(flag: str, reason: str) -> str:
    """Of argparse."""
    return f"{flag}: {'needs a value' if reason.startswith('expected ') else reason}"


def _flag(name: str, roots: Mapping[str, Any], flags: Iterable[str]) -> str:
    command, _, rest = name.partition(".")
    if rest and command not in roots and rest.partition(".")[0] in roots:
        name = rest
    return f"--{name}" if "." in name or f"--{name}" in flags else name


def _imported(path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        return None
