"""The examples in docstrings, run as they stand."""

import doctest
import importlib
import pkgutil

import pytest

import stylejax

MODULES = [module.name for module in pkgutil.walk_packages(stylejax.__path__, "stylejax.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    """A result that is not the one shown fails, and says which."""
    assert not doctest.testmod(importlib.import_module(name)).failed


def test_some_are_found():
    finder = doctest.DocTestFinder()
    found = [each for name in MODULES for each in finder.find(importlib.import_module(name))]
    assert sum(bool(each.examples) for each in found) >= 20
