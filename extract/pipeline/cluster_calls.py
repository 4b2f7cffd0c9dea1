"""What is submitted to a cluster: the work behind these is imported where it is done.

A scheduler, which unpacks what it passes on, needs no networks, and a GiB less.
"""

from typing import Any

from extract.pipeline.cluster_task import Settings, UnitTask


def prepared(settings: Settings) -> dict[str, Any]:
    """What a worker answers to `cluster_worker.prepared`."""
    from extract.pipeline import cluster_worker

    return cluster_worker.prepared(settings)


def work(task: UnitTask) -> dict[str, Any]:
    """What a worker answers to `cluster_worker.work`."""
    from extract.pipeline import cluster_worker

    return cluster_worker.work(task)
