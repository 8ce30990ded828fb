"""Keeps a running Flow whole: a process that has died is started again, with the same arguments, on the same port."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from itertools import chain
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

from models.errors import one_line

if TYPE_CHECKING:
    from jina import Flow
    from jina.orchestrate.deployments import Deployment
    from jina.orchestrate.pods import Pod

LONGEST_PAUSE = 60.0
"""Seconds between two attempts to start what does not start."""


def ports(flow: Flow) -> dict[str, int]:
    """The ports on which the processes of a Flow that is built listen, by their names; without the gateway's."""
    args = [
        one
        for deployment in _deployments(flow)
        if deployment.name != "gateway"
        for one in (deployment.pod_args["head"], *chain(*deployment.pod_args["pods"].values()))
        if one is not None
    ]
    return {one.name: one.port[0] for one in args}


def require_all_shards() -> None:
    """Let a question to several shards fail if one of them does, in this process and those forked from it.

    Jina's heads answer with what the other shards know, and say so in a log only.
    """
    from jina.proto.jina_pb2 import StatusProto
    from jina.serve.runtimes.head.request_handling import HeaderRequestHandler

    gather = HeaderRequestHandler._gather_worker_tasks

    async def gather_all(head: Any, *args: Any, **kwargs: Any) -> Any:
        answers, errors, *numbers = await gather(head, *args, **kwargs)
        if errors:
            raise errors[0]
        failed = [answer for answer in answers if answer[0].status.code == StatusProto.ERROR]
        return failed[:1] or answers, errors, *numbers

    HeaderRequestHandler._gather_worker_tasks = gather_all


def supervise(flow: Flow) -> None:
    """Watch a Flow that runs, for ever. To be called in the main thread: what is started here dies with it.

    Jina starts its processes once and never looks at them again; there is nothing in it that could be asked to restart
    one. A process is started from this one by spawning, not forking: by now gRPC has threads here, and a fork of them
    may hang.
    """
    multiprocessing.set_start_method("spawn", force=True)
    pauses: dict[str, float] = {}
    while True:
        wait([pod.worker.sentinel for pod, _ in _pods(flow)])
        for pod, put in [(pod, put) for pod, put in _pods(flow) if not pod.worker.is_alive()]:
            print(f"{pod.name} has died (exit code {pod.worker.exitcode}): it is started again", file=sys.stderr)
            pod.is_shutdown.set()  # it cannot say so itself, and closing it would wait for that
            time.sleep(pauses.get(pod.name, 0.0))
            if _restart(pod, put):
                print(f"{pod.name} is back", file=sys.stderr)
                pauses.pop(pod.name, None)
            else:
                pauses[pod.name] = min(LONGEST_PAUSE, 2 * pauses.get(pod.name, 0.5))


def _restart(pod: Pod, put: Callable[[Pod], object]) -> bool:
    """Put a new process into the place of one that is dead; returns whether it has started."""
    from jina.orchestrate.pods.factory import PodFactory

    new = PodFactory.build_pod(pod.args)
    new.worker = multiprocessing.Process(target=_run, args=(os.getpid(),), kwargs=new.worker._kwargs, name=new.name)
    put(new)
    try:
        new.start()
        new.wait_start_success()
    except Exception as error:  # Jina has an exception of its own for each way not to start
        print(f"{pod.name} does not start: {one_line(error)}", file=sys.stderr)
        new.worker.kill()
        return False
    return True


def _run(parent: int, **arguments: Any) -> None:
    """What Jina runs in a process of its own, which ends with this program."""
    import flow as flows

    flows.follow_parent(parent)
    require_all_shards()
    from jina.serve.executors.run import run

    run(**arguments)


def _deployments(flow: Flow) -> list[Deployment]:
    return list(flow._deployment_nodes.values())


def _pods(flow: Flow) -> Iterator[tuple[Pod, Callable[[Pod], object]]]:
    """The processes of a Flow, each with what puts another one into its place, where the Flow will close it."""
    for deployment in _deployments(flow):
        if deployment.head_pod is not None:
            yield deployment.head_pod, _in_place_of_head(deployment)
        for replicas in deployment.shards.values():
            for number, pod in enumerate(replicas._pods):
                yield pod, _in_place_of(replicas._pods, number)


def _in_place_of_head(deployment: Deployment) -> Callable[[Pod], object]:
    def put(new: Pod) -> None:
        deployment.head_pod = new
        deployment.callback(lambda: new.close())

    return put


def _in_place_of(pods: list[Pod], number: int) -> Callable[[Pod], object]:
    def put(new: Pod) -> None:
        pods[number] = new

    return put
