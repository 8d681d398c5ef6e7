"""What every test sees: several simulated devices, and real data where there is any."""

import os
from pathlib import Path

# Before the first import of jax: four devices on one CPU.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import pytest

ROOT = Path(__file__).resolve().parent.parent
REAL_DATA = Path(os.environ.get("JDANCE_TEST_DATA", ROOT.parent / "shared"))


@pytest.fixture(scope="session")
def real_data():
    """A function from a name to the path of real test data; skips the test where it is absent."""

    def find(name: str) -> Path:
        path = REAL_DATA / name
        if not path.exists():
            pytest.skip(f"real test data {name!r} is not here (JDANCE_TEST_DATA names its folder)")
        return path

    return find
