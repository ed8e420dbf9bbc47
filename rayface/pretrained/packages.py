"""Data files of installed packages, found without importing the packages."""

import importlib.util
from pathlib import Path

from rayface.errors import RayfaceError

HOW_TO_INSTALL = "pip install 'rayface[pretrained]'"


def data_file(package: str, pattern: str) -> Path:
    """The one file of an installed package that matches a glob, "models/*.pth".

    The package's own code is not run (some are broken on current setuptools). Raises RayfaceError when the package is
    absent or holds no such file.
    """
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or []) if spec else []
    found = [path for folder in folders for path in sorted(Path(folder).glob(pattern))]
    if len(found) != 1:
        problem = "is not installed" if not folders else f"holds {len(found)} files {pattern!r}, not one"
        raise RayfaceError(f"the package {package} {problem}; run: {HOW_TO_INSTALL}", kind="missing-package")
    return found[0]
