"""The oldest versions that are tested are those that pyproject.toml allows."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent


def test_oldest_versions_are_the_floors():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    named = [*project["dependencies"], *extras["train"], *extras["serve"], *extras["app"], *extras["otel"]]
    oldest = {}
    for line in (ROOT / "constraints-oldest.txt").read_text().splitlines():
        if not line.startswith("#"):
            name, version = line.split("==")
            oldest[canonicalize_name(name)] = Version(version)
    for requirement in map(Requirement, named):
        floor = next(Version(each.version) for each in requirement.specifier if each.operator == ">=")
        assert oldest[canonicalize_name(requirement.name)] == floor, requirement
    newest = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {canonicalize_name(line.split("==")[0]) for line in newest if "==" in line}
    assert pinned >= {canonicalize_name(Requirement(each).name) for each in named} - {"tiger-recommender"}
