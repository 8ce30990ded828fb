"""From settings to a running Flow: the checks before a start, and the environment that the Flow files refer to."""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import active_children
from pathlib import Path
from typing import TYPE_CHECKING, Any

import models
from executors.access import LOOPBACK, AccessError
from executors.access import check as check_access
from executors.limits import DEFAULTS as LIMITS
from models.errors import one_line
from storage.backup import finish_restore
from storage.store import Store, erase, read_fact
from supervisor import ports, require_all_shards

if TYPE_CHECKING:
    from jina import Flow

ROOT = Path(__file__).resolve().parent
INDEXERS = ("image_vector_indexer", "image_kv_indexer", "text_indexer")
PORT = 45678
SECONDS_TO_CLOSE = 4.0
_SECONDS_BETWEEN_LOOKS = 0.1
_PR_SET_PDEATHSIG = 1
_parent = os.getpid()  # who forks
_QUIET = {
    "JINA_OPTOUT_TELEMETRY": "1",  # nobody is told who runs this
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "JINA_LOG_LEVEL": "CRITICAL",
    "GITHUB_WORKFLOW": "none",  # the only switch for Jina's spinner while a Flow starts
    "GRPC_VERBOSITY": "NONE",
    "PYTHONWARNINGS": "ignore",
}


class FlowError(Exception):
    """A Flow cannot be started or has stopped; the message is one line that says what to do."""


def quiet() -> None:
    """Keep libraries' warnings off the console, also of the Flow's processes; to be called before Jina is imported."""
    warnings.simplefilter("ignore")
    for name, value in _QUIET.items():
        os.environ[name] = os.environ.get(name) or value
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # of requests that Jina drops when a client gives up


@contextmanager
def importing() -> Iterator[None]:
    """While libraries are imported no garbage is looked for: they leave none, and it would take a quarter of the time.

    Later neither: a process forked from this one would copy the memory of all libraries to look into it.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def number(name: str, default: int) -> int:
    """A whole number from 1 on out of the environment, or its default.

    Raises:
        FlowError: the environment has something else.
    """
    value = os.environ.get(name, "").strip() or str(default)
    if not value.isdecimal() or int(value) < 1:
        raise FlowError(f"{name}={value} is not a whole number from 1 on")
    return int(value)


def switched_on(name: str) -> bool | None:
    """A yes or no out of the environment; ``None`` if nothing is said."""
    value = os.environ.get(name, "").strip().lower()
    return None if not value else value not in ("0", "false", "no", "off")


def workspace() -> Path:
    """The folder of the index."""
    return Path(os.environ.get("JINA_WORKSPACE") or "workspace").resolve()


def indexed(fact: str) -> str | None:
    """What the index in the workspace was made with: its ``model`` (a fingerprint) or its number of ``shards``.

    ``None`` where nothing is indexed.

    Raises:
        StorageError: the index cannot be read.
    """
    return next((value for folder in shard_folders() if (value := read_fact(folder, fact))), None)


def indexed_model() -> str | None:
    """The name of the model that the index was made with; ``None`` where nothing is indexed."""
    fingerprint = indexed("model")
    return fingerprint.split()[0] if fingerprint else None


@contextmanager
def stores() -> Iterator[dict[str, list[Store]]]:
    """While inside, the open stores of the index by the names of their indexers; none where nothing is indexed.

    Raises:
        StorageError: one cannot be opened.
    """
    found: dict[str, list[Store]] = {name: [] for name in INDEXERS}
    shards = int(indexed("shards") or 0)
    with ExitStack() as opened:
        for folder in shard_folders():
            if folder.name in map(str, range(shards)):  # others are left of an index in more shards
                found[folder.parent.name].append(store := Store(folder, shards=shards))
                opened.callback(store.close)
        yield found


def erase_index() -> None:
    """Remove the index from the workspace, and nothing else.

    Raises:
        StorageError: it is in use.
    """
    for folder in shard_folders():
        erase(folder)


def shard_folders() -> list[Path]:
    """The folders of all shards in the workspace, also those that have been erased.

    Raises:
        StorageError: a restore was killed, and cannot be finished.
    """
    finish_restore(workspace(), INDEXERS)
    return sorted(folder for name in INDEXERS for folder in workspace().glob(f"{name}/*") if folder.is_dir())


@contextmanager
def running(
    file: str,
    *,
    model: str,
    http: bool = False,
    port: int | None = None,
    data_root: Path | None = None,
    evaluate: bool = False,
    host: str = LOOPBACK,
    insecure: bool = False,
) -> Iterator[Flow]:
    """A started Flow, stopped at the end.

    Args:
        file: ``"flow-index.yml"`` or ``"flow-query.yml"``.
        model: one of ``models.NAMES``; an index that was made with another one is refused.
        http: whether the gateway speaks HTTP rather than gRPC.
        port: of the gateway; by default a free one.
        data_root: the folder below which the Flow may read files; by default none.
        evaluate: whether the evaluator follows at the end.
        host: the address that the gateway listens on.
        insecure: whether everybody may be let in without a token.

    Raises:
        FlowError: it cannot be started.
        StorageError: the index cannot be read, or not be searched as asked.
    """
    for name, default in LIMITS.items():
        number(name, default)
    try:
        check_access(host, http=http, insecure=insecure)
    except AccessError as error:
        raise FlowError(str(error)) from error
    check_index(model)
    _check_approximate()
    _check_workspace()
    with stores():
        pass  # one that is in use or damaged is named here, and not by an executor that nobody hears
    own_encoders = not _has_other_encoders()
    with importing():
        if own_encoders:
            _import_libraries(model)
        _set_environment(model, http=http, host=host, port=port or free_port(), data_root=data_root)
        if port:
            _check_port(host, port)
        from jina import Flow, helper  # takes seconds, and reads the environment that was just set
        from jina.excepts import BadServer
        from jina.orchestrate.flow import base

        # Makes the class known by the name that the Flow file gives.
        importlib.import_module("executors.gateway" if http else "executors.grpc_gateway")
        base.print = lambda *_: None  # type: ignore[attr-defined]  # nothing else keeps Jina's greeting off the console
        helper.warn_unknown_args = lambda _: None  # half a second for a warning of Jina's against itself, never shown
        require_all_shards()
        flow = Flow.load_config(str(ROOT / file))
    if evaluate:
        flow = flow.add(name="evaluator", uses=str(ROOT / "yaml/evaluator.yml"), needs="join_all")
    flow.build(copy_flow=False)
    os.environ["JINA_PARTS"] = json.dumps(ports(flow))
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, _abandon)
    os.register_at_fork(before=_note_parent, after_in_child=lambda: follow_parent(_parent))
    try:
        with _attended(flow):
            flow.start()
    except Exception as error:
        _close(flow)
        _check_vectors()
        if own_encoders:
            _check_weights(model)  # the commonest reason, which Jina does not tell
        raise FlowError(f"the Flow did not start ({one_line(error)}): run again with JINA_LOG_LEVEL=INFO") from error
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield flow
    except BadServer as error:
        raise FlowError(_cause(error)) from error
    except ConnectionError as error:
        raise FlowError("the Flow stopped answering: run the same command again, it goes on where it was") from error
    finally:
        _close(flow)


def check_index(model: str) -> None:
    """Refuse an index that was made with another model, or in another number of shards than is asked for.

    Raises:
        FlowError: says what to do.
    """
    made_with = indexed_model()
    if made_with and made_with != model:
        raise FlowError(
            f"the index in {workspace()} was made with -m {made_with}, not -m {model}: "
            f"use -m {made_with}, or index again with --overwrite"
        )
    shards = indexed("shards")
    if shards and number("JINA_SHARDS", int(shards)) != int(shards):
        raise FlowError(
            f"the index in {workspace()} lies in {shards} shards, not {os.environ['JINA_SHARDS']}: "
            f"set JINA_SHARDS={shards}, or index again with --overwrite"
        )


def _check_approximate() -> None:
    setting = os.environ.get("JINA_INDEX")
    if setting:
        from storage.approximate import check  # faiss takes a while

        with stores() as found:
            for store in found["image_vector_indexer"] + found["text_indexer"]:
                if store:
                    check(setting, store.vectors_of_rows([store.last_row()])[1].shape[1])


def _check_workspace() -> None:
    folder = workspace()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise FlowError(f"cannot write to {folder} ({error.strerror}): set JINA_WORKSPACE to another folder") from error


def _check_vectors() -> None:
    """Refuse an index the vectors of which cannot be read: the Flow, which reads them at its start, does not tell."""
    with stores() as found:
        for store in (*found["image_vector_indexer"], *found["text_indexer"]):
            for _ in store.vectors_after(0):
                pass


def check_weights(model: str) -> None:
    """Refuse a model that cannot be loaded here; what it needs is fetched.

    Raises:
        FlowError: says what is missing.
    """
    if not _has_other_encoders():
        _check_weights(model)


def _check_weights(model: str) -> None:
    # A process of its own is asked: after torch has computed in this one, the Flow's, forked from it, would hang.
    command = [sys.executable, "-m", "models", model]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise FlowError(done.stdout.strip() or f"the model {model} cannot be loaded")


def _import_libraries(model: str) -> None:
    """Once for all of the Flow's processes, which are forked from this one."""
    try:
        models.import_libraries(model)
    except models.ModelError as error:
        raise FlowError(str(error)) from error


def _has_other_encoders() -> bool:
    """Whether the environment names both encoders, instead of the model's own."""
    return bool(os.environ.get("JINA_IMAGE_ENCODER") and os.environ.get("JINA_TEXT_ENCODER"))


def _check_port(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise FlowError(f"port {port} cannot be used ({error}): set JINA_PORT to another") from error


def free_port() -> int:
    """A port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _set_environment(model: str, *, http: bool, host: str, port: int, data_root: Path | None) -> None:
    """What the Flow files refer to. A value that is set already wins, but for what the caller decides."""
    copies = number("JINA_PARALLEL", 1)
    defaults = {
        "JINA_PARALLEL": str(copies),
        "JINA_SHARDS": str(number("JINA_SHARDS", int(indexed("shards") or 1))),
        "JINA_INDEX": "",
        "JINA_IMAGE_THREADS": str(max(1, (os.cpu_count() or 1) // copies)),
        "JINA_TEXT_THREADS": "1",
        "JINA_NORMALIZER": f"yaml/{model}/normalizer.yml",
        "JINA_IMAGE_ENCODER": f"yaml/{model}/image_encoder.yml",
        "JINA_TEXT_ENCODER": f"yaml/{model}/text_encoder.yml",
    }
    for name, value in defaults.items():
        os.environ[name] = os.environ.get(name) or value
    os.environ["JINA_WORKSPACE"] = str(workspace())
    os.environ["JINA_DATA_ROOT"] = str(data_root or "")
    os.environ["JINA_GATEWAY"] = "HTTPGateway" if http else "PatientGRPCGateway"
    os.environ["JINA_PROTOCOL"] = "http" if http else "grpc"
    os.environ["JINA_HOST"] = host
    os.environ["JINA_PORT"] = str(port)
    os.environ["JINA_DEFAULT_HOST"] = LOOPBACK  # of the executors, which would listen to everybody


def _cause(error: Exception) -> str:
    """The message of the exception that an executor raised, in one line."""
    status = error.args[0].status
    return (" ".join(status.exception.args) or status.description).splitlines()[0]


def _close(flow: Flow) -> None:
    """Stop the Flow. A process that waits for others that are gone is killed: what it acknowledged is on disk."""
    alarm = threading.Timer(SECONDS_TO_CLOSE, _kill_children)
    alarm.daemon = True
    alarm.start()
    with _attended(flow):
        flow.close()
    alarm.cancel()


def _abandon(number: int, *_: object) -> None:
    """End a start at once: it has nothing to put in order, and an exception would be lost or do harm within a fork."""
    _kill_children()
    os._exit(128 + number)


def _leave(number: int, *_: object) -> None:
    raise SystemExit(128 + number)  # so that a Flow is closed on its way out


def _kill_children() -> None:
    for process in active_children():
        process.kill()


@contextmanager
def _attended(flow: Flow) -> Iterator[None]:
    """While inside, tell Jina of processes that were killed: it would wait minutes until they say so themselves."""
    over = threading.Event()

    def attend() -> None:
        while not over.wait(_SECONDS_BETWEEN_LOOKS):
            for pod in filter(_has_ended, _pods(flow)):
                pod.is_shutdown.set()
                pod.is_signal_handlers_installed.set()

    watch = threading.Thread(target=attend, daemon=True)
    watch.start()
    try:
        yield
    finally:
        over.set()
        watch.join()


def _pods(flow: Flow) -> list[Any]:
    """Those of a Flow's processes that Jina has made so far."""
    nodes = list(flow._deployment_nodes.values())
    replicas = [pod for node in nodes for shard in list(node.shards.values()) for pod in list(shard._pods)]
    return [
        pod for pod in (*(node.head_pod for node in nodes), *(node.gateway_pod for node in nodes), *replicas) if pod
    ]


def _has_ended(pod: Any) -> bool:
    if not pod.worker.pid:
        return False
    try:  # what it has returned is left for who waits for it
        return os.waitid(os.P_PID, pod.worker.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def _note_parent() -> None:
    global _parent
    _parent = os.getpid()


def follow_parent(parent: int) -> None:
    """Tie this process of the Flow to the one that started it.

    Ctrl-C reaches only that one, which stops the others in order; if it is killed, the kernel kills this one too.
    """
    os.setpgid(0, 0)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it was killed before this
            os._exit(1)
