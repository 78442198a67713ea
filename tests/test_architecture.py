"""The house as it was designed: who imports whom, what is public, how large things are."""

import ast
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

import knowledgestack_async as ks

PACKAGE = Path(ks.__file__).parent
NAME = PACKAGE.name

# Each may import what stands before it, however indirectly, and nothing that stands after it.
SPINE = [
    {"errors"},
    {"models"},
    {"_structuring"},
    {"_codec"},
    {"_dialects", "_wire"},
    {"_responses"},
    {"_retry", "_governor", "_problems", "_negotiation", "_settings"},
    {"_transport", "_transport_options", "_body"},
    {"_hearing", "_outcome"},
    {"_admission", "_routes"},
    {"_engine"},
    {"session", "_raw"},
    {"api"},
    {"cli"},
]
USING_THE_SANDBOX = {"cli", "pytest_plugin"}
WITH_HTTP = {
    "_transport",
    "_transport_options",
    "_hearing",
    "_outcome",
    "_admission",
    "_routes",
    "_engine",
    "session",
    "api",
    "sandbox",
    "__init__",
} | USING_THE_SANDBOX
MOST_LINES = 350
MOST_LINES_OF_A_FUNCTION = 40


@attrs.frozen
class Module:
    """One file of the package, and what it imports (ours without the package's name)."""

    name: str
    tree: ast.Module = attrs.field(repr=False)
    source: str = attrs.field(repr=False)
    ours: frozenset[str]
    foreign: frozenset[str]
    ours_at_the_top: frozenset[str]

    @property
    def part(self):
        return self.name.partition(".")[0]

    @property
    def full_name(self):
        return NAME if self.name == "__init__" else f"{NAME}.{self.name.removesuffix('.__init__')}"


def imported(module, statement):
    """The modules that an import statement names, in full."""
    if isinstance(statement, ast.Import):
        return [alias.name for alias in statement.names]
    if not statement.level:
        return [statement.module]
    above = [NAME, *module.split(".")][: -statement.level]
    if statement.module:
        return [".".join([*above, statement.module])]
    return [".".join([*above, alias.name]) for alias in statement.names]


def read_module(path):
    name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    source = path.read_text()
    tree = ast.parse(source)
    ours, foreign, at_the_top = set(), set(), set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        for found in imported(name, node):
            top, _, rest = found.partition(".")
            if top != NAME:
                foreign.add(top)
                continue
            ours.add(rest or "__init__")
            if node in tree.body:
                at_the_top.add(rest or "__init__")
    return Module(name, tree, source, frozenset(ours), frozenset(foreign), frozenset(at_the_top))


MODULES = {
    module.name: module
    for module in map(read_module, sorted(PACKAGE.rglob("*.py")))
    if "__pycache__" not in module.name
}
CORE = [module for module in MODULES.values() if module.part not in USING_THE_SANDBOX | {"sandbox"}]
EVERY_MODULE = pytest.mark.parametrize("module", MODULES.values(), ids=list(MODULES))
EVERY_CORE_MODULE = pytest.mark.parametrize("module", CORE, ids=[module.name for module in CORE])


def resolved(name):
    return name if name in MODULES else f"{name}.__init__"


def reached_from(name):
    """All modules of ours that an import of one brings along."""
    reached, ahead = set(), [name]
    while ahead:
        for other in MODULES[resolved(ahead.pop())].ours:
            if resolved(other) in MODULES and other not in reached:
                reached.add(other)
                ahead.append(other)
    return reached


def test_all_modules_of_the_house_were_found():
    assert {"errors", "models", "session", "api.workflows", "__init__"} <= set(MODULES)
    assert {"pages", "_windows", "monitor"} <= set(MODULES)
    assert MODULES["_retry"].foreign >= {"backoff", "attrs"}
    assert MODULES["_retry"].ours == {"_checks", "_responses", "_wire"}
    assert "api._calls" in MODULES["api.workflows"].ours
    assert "errors" in reached_from("session")


# Imports


@EVERY_CORE_MODULE
def test_no_module_imports_itself_by_a_detour(module):
    assert module.name not in reached_from(module.name)


@pytest.mark.parametrize("place", range(len(SPINE)))
def test_imports_run_one_way_along_the_spine(place):
    later = set().union(*SPINE[place + 1 :])
    found = [module for module in MODULES.values() if module.part in SPINE[place]]
    assert found or SPINE[place] == {"cli"}
    for module in found:
        parts = {name.partition(".")[0] for name in reached_from(module.name)}
        assert not parts & later, f"{module.name} reaches {parts & later}"


@EVERY_CORE_MODULE
def test_what_knows_no_http_reaches_none(module):
    if module.part in WITH_HTTP:
        return
    assert "aiohttp" not in module.foreign
    for name in reached_from(module.name):
        assert name.partition(".")[0] not in WITH_HTTP - {"sandbox"}
        assert "aiohttp" not in MODULES[resolved(name)].foreign


HANDED_WHAT_THEY_CALL = {"pages", "_windows", "monitor", "watching", "bulk", "runner", "_journal"}


@pytest.mark.parametrize("name", sorted(HANDED_WHAT_THEY_CALL & set(MODULES)))
def test_walks_waits_and_bulk_are_handed_what_they_call(name):
    parts = {reached.partition(".")[0] for reached in reached_from(name)}
    assert not parts & {"session", "_transport", "_engine", "api", "cli", "sandbox"}


@pytest.mark.parametrize(
    ("library", "homes"),
    [
        ("aiohttp", {"_transport", "_transport_options", "session"}),
        ("backoff", {"_retry"}),
        ("cattrs", {"_structuring"}),
        ("click", set()),
        ("rich", set()),
    ],
)
def test_a_library_has_its_home(library, homes):
    assert {module.name for module in CORE if library in module.foreign} == homes


def names_used(tree, library):
    """The names that are looked up on a library, outside of annotations."""
    annotations = set()
    for node in ast.walk(tree):
        for field in ("annotation", "returns"):
            annotation = getattr(node, field, None)
            if annotation is not None:
                annotations |= set(ast.walk(annotation))
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == library
        and node not in annotations
    }


def test_the_session_names_aiohttp_only_in_its_annotations():
    assert names_used(MODULES["session"].tree, "aiohttp") == set()
    assert "ClientSession" in names_used(MODULES["_transport"].tree, "aiohttp")


def test_the_models_take_only_a_mark_from_msgspec():
    assert names_used(MODULES["models"].tree, "msgspec") == {"Meta"}


CODECS = {"_codec", "_journal", "_structuring"}


@EVERY_CORE_MODULE
def test_only_codecs_read_and_write_with_msgspec(module):
    used = names_used(module.tree, "msgspec")
    if module.name in CODECS:
        assert used & {"json", "convert"}
    elif module.name != "models":
        assert used <= {"Struct", "field", "structs"}


@EVERY_MODULE
def test_the_sandbox_shares_nothing_with_the_client(module):
    if module.part == "sandbox":
        assert {name.partition(".")[0] for name in module.ours_at_the_top} <= {"sandbox"}
    elif module.part not in USING_THE_SANDBOX:
        assert "sandbox" not in {name.partition(".")[0] for name in module.ours}


IMPORT_EACH = """
import importlib, sys, types
package, path, *names = sys.argv[1:]
for name in names:
    for loaded in list(sys.modules):
        if loaded.split(".")[0] == package:
            del sys.modules[loaded]
    if name != package:
        stub = sys.modules[package] = types.ModuleType(package)
        stub.__path__ = [path]
    importlib.import_module(name)
"""


def run_python(*arguments):
    return subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=PACKAGE.parent,
        timeout=60,
    )


def test_every_module_imports_alone_without_a_warning():
    # A package that is empty stands in for ours, whose __init__ would bring all of it along.
    names = [module.full_name for module in MODULES.values() if module.part != "cli"]
    done = run_python("-c", IMPORT_EACH, NAME, str(PACKAGE), *names)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_package_brings_neither_the_sandbox_nor_the_command_line_along():
    script = f"import sys, {NAME}; print(*(n for n in sys.modules if n.startswith({NAME!r})))"
    done = run_python("-c", script)
    assert done.stderr == ""
    parts = {name.split(".")[1] for name in done.stdout.split() if "." in name}
    assert "session" in parts
    assert not parts & ({"sandbox"} | USING_THE_SANDBOX)


# What is public


def declared_names(module):
    """The names in a module's ``__all__``, in order; None if it has none."""
    for node in module.tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return None


def test_what_is_exported_is_what_is_imported():
    bound = {
        alias.asname or alias.name
        for node in ast.walk(MODULES["__init__"].tree)
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
    }
    assert set(ks.__all__) == bound
    assert all(hasattr(ks, name) for name in ks.__all__)
    assert set(ks.__all__) <= set(dir(ks))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        ks.nothing  # noqa: B018


@EVERY_MODULE
def test_what_a_module_offers_is_sorted_and_there(module):
    names = declared_names(module)
    if names is None:
        return
    assert names == sorted(names, key=lambda name: (not name.isupper(), name))
    assert len(names) == len(set(names))
    bound = {
        name
        for node in ast.walk(module.tree)
        for name in (
            [node.name]
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            else [alias.asname or alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom | ast.Import)
            else [node.id]
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
            else []
        )
    }
    assert set(names) <= bound


@EVERY_CORE_MODULE
def test_every_module_says_what_it_offers(module):
    defines = any(
        isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        for node in module.tree.body
    )
    assert not defines or declared_names(module) is not None


@EVERY_MODULE
def test_what_is_private_to_a_module_is_left_to_it(module):
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        for alias in node.names:
            is_private = alias.name.startswith("_") and not alias.name.startswith("__")
            [source, *_] = imported(module.name, node)
            submodule = f"{source}.{alias.name}".removeprefix(f"{NAME}.")
            assert not is_private or submodule in MODULES or node.module is None


# No state of the module's own

MUTABLE_DISPLAYS = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
CHANGING_METHODS = {"append", "extend", "insert", "pop", "popitem", "clear", "update", "add"} | {
    "discard",
    "remove",
    "setdefault",
    "sort",
    "reverse",
}
MUTABLE_TYPES = {"list", "dict", "set", "deque", "defaultdict", "Counter", "bytearray", "WeakSet"}


def is_mutable(value):
    if isinstance(value, ast.Call):
        return ast.unparse(value.func).rpartition(".")[2] in MUTABLE_TYPES
    return isinstance(value, MUTABLE_DISPLAYS)


def changed_names(tree):
    """The names of what is changed in place anywhere in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
            yield ast.unparse(node.value)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in CHANGING_METHODS:
                yield ast.unparse(node.func.value)
        elif isinstance(node, ast.AugAssign):
            yield ast.unparse(node.target)


@EVERY_MODULE
def test_a_module_has_no_state_of_its_own(module):
    for node in ast.walk(module.tree):
        assert not isinstance(node, ast.Global), f"line {node.lineno}"
    changed = set(changed_names(module.tree))
    for node in module.tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value and is_mutable(node.value):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            name = ast.unparse(target)
            assert name == "__all__" or name.isupper(), f"{name} is no constant"
            assert name not in changed


# Sizes


def lines_of_code(source, nodes):
    """The lines that hold code: no blank ones, comments or docstrings."""
    texts = set()
    for node in ast.walk(ast.Module(nodes, [])):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            texts |= set(range(node.lineno, node.end_lineno + 1))
    first = min((node.lineno for node in nodes), default=1)
    last = max((node.end_lineno for node in nodes), default=0)
    lines = source.splitlines()
    return sum(
        bool(lines[number - 1].strip()) and not lines[number - 1].lstrip().startswith("#")
        for number in range(first, last + 1)
        if number not in texts
    )


@EVERY_MODULE
def test_a_module_is_not_too_long(module):
    assert lines_of_code(module.source, module.tree.body) <= MOST_LINES


@EVERY_MODULE
def test_a_function_is_not_too_long(module):
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = lines_of_code(module.source, node.body)
            assert length <= MOST_LINES_OF_A_FUNCTION, f"{node.name}: {length} lines"
