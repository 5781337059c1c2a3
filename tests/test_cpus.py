"""The CPUs a process may use."""

from __future__ import annotations

import os

import pytest

from hookpool import _cpus
from hookpool._cpus import cpu_count


@pytest.fixture
def cgroup(tmp_path, monkeypatch):
    """A directory that stands for /sys/fs/cgroup, and 64 CPUs by affinity."""
    monkeypatch.delenv(_cpus.VARIABLE, raising=False)
    monkeypatch.setattr(_cpus, "_CGROUP", str(tmp_path))
    monkeypatch.setattr(_cpus, "_affinity", lambda: 64)
    return tmp_path


def test_without_limits_it_is_the_affinity(cgroup):
    assert cpu_count() == 64


def test_affinity_is_what_the_system_says():
    assert 1 <= _cpus._affinity() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("text", "cpus"), [("max 100000", 64), ("400000 100000", 4), ("150000 100000", 2), ("", 64)]
)
def test_a_quota_of_cgroup_version_2_counts(cgroup, text, cpus):
    (cgroup / "cpu.max").write_text(text)

    assert cpu_count() == cpus


@pytest.mark.parametrize(("quota", "cpus"), [("-1", 64), ("300000", 3)])
def test_a_quota_of_cgroup_version_1_counts(cgroup, quota, cpus):
    (cgroup / "cpu").mkdir()
    (cgroup / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (cgroup / "cpu" / "cpu.cfs_period_us").write_text("100000")

    assert cpu_count() == cpus


def test_the_variable_limits(cgroup, monkeypatch):
    monkeypatch.setenv(_cpus.VARIABLE, "3")

    assert cpu_count() == 3


@pytest.mark.parametrize("text", ["0", "-2", "many", "1.5"])
def test_a_senseless_variable_is_an_error_that_names_it(cgroup, monkeypatch, text):
    monkeypatch.setenv(_cpus.VARIABLE, text)

    with pytest.raises(ValueError, match=_cpus.VARIABLE):
        cpu_count()
