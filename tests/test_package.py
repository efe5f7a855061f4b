import ast
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import coterie


def test_every_promised_name_is_there_and_listed():
    for name in coterie.__all__:
        assert getattr(coterie, name) is not None
    assert set(coterie.__all__) <= set(dir(coterie))
    assert coterie.__version__ == version("coterie")


def test_type_checkers_see_the_names_that_python_gives():
    tree = ast.parse(Path(coterie.__file__).read_text())
    declared = {
        alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert declared == coterie._MODULE_OF
    assert {*declared, "__version__"} == set(coterie.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Recomender'"):
        _ = coterie.Recomender


def test_importing_the_package_is_instant_and_loads_nothing_heavy():
    code = (
        "import sys; before = set(sys.modules); import coterie; print(*set(sys.modules) - before)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"torch", "numpy", "polars", "scipy", "pydantic", "pyarrow"} & set(loaded)
    assert len(loaded) < 40
