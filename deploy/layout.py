"""The rules of the house that a linter does not know, checked: `python -m deploy.layout`.

a function body over 60 lines fails (40 in the dispatcher); a file over 300 lines warns
SQL of a service stands in its store, queue and exchange names in libs/common/topology.py
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
CODE = ("libs", "services", "deploy", "client", "benchmarks")
FUNCTION_MAX = 60
FUNCTION_MAX_DISPATCHER = 40
FILE_WARN = 300

SQL = re.compile(r"\b(SELECT\s.+\sFROM|INSERT\s+INTO|UPDATE\s+\w+\s+SET|DELETE\s+FROM|CREATE\s+TABLE)\b", re.S)
QUEUE_NAME = re.compile(
    r"^(carillon\.(tasks|due|retry|events|fallback|digest|mailer|parking|dispatch)\b|FallbackAPIQueue$"
    r"|(scheduler|dispatcher|ingest|mailer)\.[a-z]+(-[a-z]+)*$)"
)
TOPOLOGY = "libs/common/topology.py"
# Day partitions and the pool's own check are the same SQL for every service.
SQL_ELSEWHERE = ("libs/common/partitions.py", "libs/common/postgres.py")


def main() -> int:
    failures: list[str] = []
    for path in sorted(path for folder in CODE for path in (ROOT / folder).glob("**/*.py")):
        name = path.relative_to(ROOT).as_posix()
        text = path.read_text()
        if (lines := text.count("\n")) > FILE_WARN:
            print(f"warning: {name} has {lines} lines; has it one job?")
        tree = ast.parse(text)
        failures += [*long_functions(name, tree), *stray_names(name, tree)]
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    return 1 if failures else 0


def long_functions(name: str, tree: ast.AST) -> Iterator[str]:
    limit = FUNCTION_MAX_DISPATCHER if name.startswith("services/dispatcher/") else FUNCTION_MAX
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            if body and (size := (node.end_lineno or 0) - body[0].lineno + 1) > limit:
                yield f"{name}:{node.lineno} {node.name} has a body of {size} lines, the limit is {limit}"


def stray_names(name: str, tree: ast.AST) -> Iterator[str]:
    may_sql = (
        Path(name).name.startswith("store") or name in SQL_ELSEWHERE or not name.startswith(("libs/", "services/"))
    )
    docstrings = {id(node.body[0].value) for node in ast.walk(tree) if _has_docstring(node)}  # type: ignore[attr-defined]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or id(node) in docstrings:
            continue
        if SQL.search(node.value) and not may_sql:
            yield f"{name}:{node.lineno} SQL outside a store"
        if QUEUE_NAME.search(node.value) and name not in (TOPOLOGY, "deploy/layout.py"):
            yield f"{name}:{node.lineno} the name '{node.value}' belongs into {TOPOLOGY}"


def _has_docstring(node: ast.AST) -> bool:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return isinstance(node, kinds) and ast.get_docstring(node) is not None


if __name__ == "__main__":
    sys.exit(main())
