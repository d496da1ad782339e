"""The baseline of a model in the home folder."""

import numpy as np
import pytest

import neuroscope as ns
from neuroscope.extraction.baseline import is_complete
from neuroscope.studies.compare.experiment import compare_experiment

DAMAGES = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "flipped": lambda content: content[:300] + bytes([content[300] ^ 255]) + content[301:],
    "foreign": lambda content: b"not a baseline",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_baseline_is_computed_again(damage, family_folder, home):
    group = {"texts": ["the cat sits .", "the dog sits ."]}
    experiment = compare_experiment([str(family_folder("bert"))], group)
    (first,) = ns.run_comparison(experiment)
    (path,) = (home / "baseline").iterdir()
    content = path.read_bytes()
    path.write_bytes(damage(content))
    assert not is_complete(path)
    (second,) = ns.run_comparison(experiment)
    assert is_complete(path)
    assert second.rows == first.rows


def test_a_baseline_without_arrays_is_not_complete(tmp_path):
    np.savez(tmp_path / "none.npz")
    assert not is_complete(tmp_path / "none.npz")
    assert not is_complete(tmp_path / "missing.npz")
