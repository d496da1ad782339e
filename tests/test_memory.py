"""Free memory respects the limits on this process."""

from functools import partial

import pytest
import torch

from neuroscope.extraction.hardware import in_float64
from neuroscope.extraction.memory import free_memory

VERSION_2 = ("memory.max", "memory.current", "")
VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")


@pytest.mark.parametrize(
    ("line", "subfolder", "files"),
    [("0::/jobs/17", "", VERSION_2), ("4:cpu,memory:/jobs/17", "memory", VERSION_1)],
)
@pytest.mark.parametrize("limited", ["", "jobs", "jobs/17"])
def test_limits_of_control_groups_are_respected(tmp_path, line, subfolder, files, limited):
    own, groups = tmp_path / "own", tmp_path / "groups"
    own.write_text(f"1:name=systemd:/\n{line}\n")
    free = partial(free_memory, cgroups=groups, own=own)
    assert free() > 2**20
    limit, usage, prefix = files
    group = groups / subfolder / limited
    group.mkdir(parents=True)
    (group / limit).write_text("max\n")
    assert free() > 2**20
    (group / limit).write_text("1000\n")
    (group / usage).write_text("700\n")
    # cached pages of files are freed on demand
    cached = f"{prefix}inactive_file 200\n{prefix}active_file 150\n"
    (group / "memory.stat").write_text(f"anon 350\n{cached}")
    assert free() == 650
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("0::/jobs/18\n2:memory:/jobs/18\n")
    assert (free(own=elsewhere) > 2**20) == (limited == "jobs/17")
    assert (free(own=tmp_path / "not Linux") > 2**20) == (limited != "")


def test_memory_that_torch_keeps_on_a_gpu_is_free(monkeypatch):
    values = {"mem_get_info": (10, 100), "memory_reserved": 60, "memory_allocated": 20}
    for name, value in values.items():
        monkeypatch.setattr(f"torch.cuda.{name}", lambda device, value=value: value)
    assert free_memory("cuda:0") == 50


def test_a_device_without_float64_computes_it_on_the_cpu():
    class Values:
        """Tensor on an Apple GPU."""

        device = torch.device("mps")

        def cpu(self):
            return torch.ones(2)

    assert in_float64(Values()).dtype == torch.float64
    assert in_float64(torch.ones(2)).dtype == torch.float64
