"""The reference from the library itself: `.. room:: attacks` shows what `advreg.attacks.__all__` names."""

import ast
import inspect
import re
from importlib import import_module
from types import ModuleType
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.domains.python import PyXRefRole
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode, nested_parse_with_titles

import advreg

ROOMS = {name: getattr(advreg, name) for name in advreg.__all__}
ROOMS = {name: room for name, room in ROOMS.items() if isinstance(room, ModuleType)}


def names_in(room: ModuleType) -> list[str]:
    """What a room offers: its `__all__`; a room of one file may do without, and offers what it defines."""
    own = (name for name, value in vars(room).items() if getattr(value, "__module__", "") == room.__name__)
    return list(getattr(room, "__all__", sorted(name for name in own if not name.startswith("_"))))


def path_of(room: str, name: str) -> str:
    """The one documented path of a name."""
    return f"advreg.{name}" if name in advreg.__all__ else f"advreg.{room}.{name}"


PATHS = {name: path_of(room, name) for room, module in ROOMS.items() for name in names_in(module)}
ALIASES = {  # of types, which signatures show by their names
    name: PATHS[name]
    for module in ROOMS.values()
    for name in names_in(module)
    if getattr(getattr(module, name), "__module__", "").startswith(("typing", "collections"))
}


def first_line(room: ModuleType) -> str:
    """The first line of a room's docstring."""
    return inspect.getdoc(room).splitlines()[0]


class Room(SphinxDirective):
    """What a room offers: functions, classes and data."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        module = ROOMS[name]
        groups: dict[str, list[str]] = {"Functions": [], "Classes": [], "Data": []}
        for each in names_in(module):
            value = getattr(module, each)
            ours = inspect.isclass(value) and value.__module__.startswith("advreg.")  # `Any` is a class too
            kind = "Functions" if inspect.isfunction(value) else "Classes" if ours else "Data"
            show = {"Functions": self.function, "Classes": self.class_, "Data": self.data}[kind]
            groups[kind] += [*show(module, each, path_of(name, each), value), ""]
        return [self.group(*group) for group in groups.items() if group[1]]

    def group(self, title: str, entries: list[str]) -> nodes.section:
        anchor = nodes.make_id(f"{self.arguments[0]} {title}")
        return nodes.section("", nodes.title("", title), *parsed(self, entries), ids=[anchor])

    def function(self, _: ModuleType, __: str, path: str, ___: Any) -> list[str]:
        return [f".. autofunction:: {path}"]

    def class_(self, _: ModuleType, __: str, path: str, value: type) -> list[str]:
        protocol = "()" if getattr(value, "_is_protocol", False) else ""  # which nobody makes
        lines = [f".. autoclass:: {path}{protocol}", "   :members:", "   :special-members: __call__"]
        if hasattr(value, "_fields"):  # of a named tuple; its docstring tells them
            lines.append(f"   :exclude-members: {', '.join(value._fields)}")
        if any(base.__module__.startswith("advreg.") and base.__name__ in PATHS for base in value.__bases__):
            lines.append("   :show-inheritance:")
        return lines

    def data(self, room: ModuleType, name: str, path: str, value: Any) -> list[str]:
        written, text = assigned(room, name)
        made = type(value).__module__.startswith("advreg.")  # a value such as `linf`, and no alias of types
        shown = [] if made else [f"   :value: {ast.unparse(written)}"]
        indented = [f"   {line}" for line in text.splitlines()]
        home, _, bare = path.rpartition(".")
        return [f".. py:data:: {bare}", f"   :module: {home}", *shown, "", *indented]


class Name(PyXRefRole):
    """What stands in single backticks: a link if it is a name that is documented, and code."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        if not re.fullmatch(r"[A-Za-z_][\w.]*", self.text):
            return [nodes.literal(self.rawtext, self.text)], []
        self.name = "py:obj"
        return super().run()


class House(SphinxDirective):
    """All rooms, a line for each, and which of their names stand at the top."""

    def run(self) -> list[nodes.Node]:
        lines: list[str] = []
        for name, room in ROOMS.items():
            top = [each for each in names_in(room) if each in advreg.__all__]
            links = ", ".join(f":py:obj:`{each} <advreg.{each}>`" for each in top)
            at_the_top = f" At the top: {links}." if top else ""
            lines += [f":doc:`advreg.{name} <{name}>`", f"    {first_line(room)}{at_the_top}", ""]
        return parsed(self, lines)


def parsed(directive: SphinxDirective, lines: list[str]) -> list[nodes.Node]:
    """The nodes of lines in reStructuredText."""
    node = nodes.section()
    node.document = directive.state.document
    nested_parse_with_titles(directive.state, StringList(lines, source="rooms"), node)
    return node.children


def assigned(module: ModuleType, name: str) -> tuple[ast.expr, str]:
    """What is assigned to a name, and the docstring after it, wherever the module has it from."""
    body = ast.parse(inspect.getsource(module)).body
    for node, after in zip(body, [*body[1:], ast.Pass()], strict=True):
        if isinstance(node, ast.ImportFrom) and any(alias.name == name for alias in node.names):
            return assigned(import_module(node.module), name)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            if not isinstance(after, ast.Expr):
                raise TypeError(f"{module.__name__}.{name} has no docstring")
            return node.value, inspect.cleandoc(after.value.value)
    raise KeyError(f"{module.__name__} has no {name}")


def where(target: str) -> str | None:
    """The documented path of what a reference means: `advreg.threats._threat.Threat` is `advreg.Threat`.

    A bare name counts where it cannot be taken for a parameter's.
    """
    *home, name = target.split(".")
    if name not in PATHS or (home and home[0] != "advreg"):
        return None
    return PATHS[name] if home or not name.islower() or "_" in name else None


def resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contents: nodes.TextElement
) -> nodes.Node | None:
    """Link a reference to a private path, or to a bare name, to where it is documented."""
    path = where(node.get("reftarget", "")) if node.get("refdomain") == "py" else None
    found = env.get_domain("py").objects.get(path)
    if found is None:
        return None
    return make_refnode(app.builder, node["refdoc"], found.docname, found.node_id, contents, path)


def setup(app: Sphinx) -> dict[str, bool]:
    """Make the directives and the role known to Sphinx."""
    app.add_role("name", Name())
    app.add_directive("room", Room)
    app.add_directive("house", House)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
