"""The made-up dataset and the run of the fault tests, and a user's classifier, hardened."""

from pathlib import Path

import pytest

from faults.conftest import idx_folder, small_world, trained_run
from remedies.cases import command
from workflows.own_folder import PLACE, write_folder, write_net

__all__ = ["hardened_run", "idx_folder", "small_world", "trained_run"]


@pytest.fixture(scope="session")
def hardened_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a user's images, classifier, weights, and the run of their hardening."""
    root = tmp_path_factory.mktemp("hardened")
    write_net(root, write_folder(root / "shapes", train=4, test=1))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        quick = "--epochs 1 --attacks fgsm --images 2 --no-fine-tune"
        command(f"memdef harden {PLACE} --weights shapes.safetensors --data shapes --out run {quick}")
    return root
