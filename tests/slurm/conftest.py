"""One cluster for all tests of this folder, and one run that nothing disturbs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.distributed.conftest import pytest_collection_modifyitems, pytest_configure
from tests.slurm.cluster import Cluster, slurm_cluster
from tests.slurm.runs import Run

# The tiers are declared there, and pytest reads that file only where it looks for tests.
__all__ = ["pytest_collection_modifyitems", "pytest_configure"]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with slurm_cluster() as cluster:
        yield cluster


ZERO3 = ("--config", "deepspeed/zero3.yaml")


@pytest.fixture(scope="session")
def undisturbed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """ZeRO-3 across both nodes, to the end."""
    run = Run(tmp_path_factory.mktemp("undisturbed") / "a")
    job = run.submit(cluster, "train.sbatch", *ZERO3)
    assert cluster.wait_for(job) == "COMPLETED", run.said()
    return run
