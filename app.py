"""Index pictures with captions, and serve queries: texts find pictures, pictures find texts."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import flow as flows
import storage.backup
from dataset import DataError, open_data_set
from executors.access import LOOPBACK
from flow import INDEXERS, FlowError
from models import NAMES
from storage.store import StorageError
from supervisor import supervise

INDEX_TASKS = ("index", "index_restful", "delete", "verify", "backup", "restore")
TASKS = ("query", "query_restful", *INDEX_TASKS, "dryrun", "models")
EPILOG = """\
environment (a value that is set wins over the default):
  JINA_PORT            port of the server (45678)
  JINA_HOST            with -t query: 127.0.0.1 for this machine only (default), or 0.0.0.0 for everybody
  JINA_READ_TOKEN, JINA_WRITE_TOKEN
                       what must be shown to ask, and to index (none; the first stands for both)
  JINA_ALLOWED_HOSTS   names of this server beside localhost and addresses
  JINA_CORS_ORIGINS    origins of other pages whose scripts may ask, such as https://example.org
  JINA_WORKSPACE       folder of the index (workspace)
  JINA_SHARDS          parts that the index is made in (1)
  JINA_INDEX           with -t query: an approximate index of faiss, such as "IVF1024,SQ8 nprobe=16" (none: exact)
  JINA_PARALLEL        copies of each encoder (1)
  JINA_MAX_DOCS        default of -n (50)
  JINA_DATA_FILE       the texts that -t index_restful sends, one a line
  JINA_USE_REST_API    whether the Flow of -t index or -t query speaks HTTP (index: false, query: true) or gRPC
  JINA_IMAGE_ENCODER, JINA_TEXT_ENCODER, JINA_NORMALIZER
                       YAML files of other executors in these boxes
  JINA_IMAGE_THREADS, JINA_TEXT_THREADS
                       threads of each copy of an encoder (image: all cores but one, text: 1)
  CLIP_MODEL, CLIP_PRETRAINED
                       open_clip's name of a model, and of its weights or a file or folder with them
  VSE_CHECKPOINT, VSE_VOCAB
                       files of the authors of VSE++, instead of the embedded model
limits of the HTTP gateway:
  JINA_MAX_BODY_MB     of a request (64)
  JINA_MAX_IN_FLIGHT_MB
                       of all requests and answers together (256, at least twice a body or a picture)
  JINA_MAX_REQUESTS    worked on at a time (256)
  JINA_MAX_SECONDS     of a request (120)
  JINA_MAX_ITEMS       items or queries of a request (256)
  JINA_MAX_TEXT        characters of a text (10000)
  JINA_MAX_TOP_K       matches of a query (1000)
  JINA_MAX_PICTURE_MB, JINA_MAX_MEGAPIXELS
                       of a picture, also of a data set (50 and 100)
"""


def positive(text: str) -> int:
    """A whole number from 1 on, for an option."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """The command line, whose help is the reference of this program."""
    parser = argparse.ArgumentParser(
        "app.py", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("-t", "--task", choices=TASKS, default="query", help="what to do (default: query)")
    add(
        "-n",
        "--num_docs",
        type=positive,
        default=os.environ.get("JINA_MAX_DOCS") or "50",
        help="picture-caption pairs to index at most (default: $JINA_MAX_DOCS or 50)",
    )
    add("-s", "--request_size", type=positive, default=16, help="documents in one request (default: 16)")
    add("-d", "--data_set", default="f8k", help="f8k, f30k, toy, or a folder of pictures (default: f8k)")
    add("-m", "--model_name", choices=NAMES, help="default: the model of the index, else clip")
    add("--overwrite", action="store_true", help="with -t index and -t restore: remove the index that is there first")
    add("--insecure", action="store_true", help="with -t query: listen to everybody, who need no token")
    add(
        "names",
        nargs="*",
        metavar="NAME",
        help="with -t delete: ids, or files of pictures; with -t backup and -t restore: the file",
    )
    return parser


def index(options: argparse.Namespace) -> int:
    """Index a data set."""
    data_set = open_data_set(options.data_set)
    made_with = None if options.overwrite else flows.indexed_model()
    model = options.model_name or made_with or "clip"
    if not made_with:
        flows.check_weights(model)  # what lacks is said before seconds of imports, and before anything is erased
    if options.overwrite:
        flows.erase_index()
    import client

    account = client.Account()
    if flows.switched_on("JINA_USE_REST_API"):
        port = flows.number("JINA_PORT", flows.PORT)
        with flows.running("flow-index.yml", model=model, http=True, port=port, data_root=data_set.root) as flow:
            items = client.items(data_set, options.num_docs, account)
            client.index_http(flow.port, items, options.request_size, account)
    else:
        client.index(data_set, account, model=model, limit=options.num_docs, request_size=options.request_size)
    return account.report()


def index_restful(options: argparse.Namespace) -> int:
    """Index the lines of a file as texts, over HTTP."""
    import client

    account = client.Account()
    lines = client.lines(os.environ.get("JINA_DATA_FILE", ""), options.num_docs)
    model = options.model_name or flows.indexed_model() or "clip"
    with flows.running("flow-index.yml", model=model, http=True, port=flows.number("JINA_PORT", flows.PORT)) as flow:
        client.index_http(flow.port, lines, options.request_size, account)
    return account.report()


def query(options: argparse.Namespace) -> int:
    """Serve queries until stopped."""
    http = options.task == "query_restful" or flows.switched_on("JINA_USE_REST_API") is not False
    model = options.model_name or flows.indexed_model() or "clip"
    port = flows.number("JINA_PORT", flows.PORT)
    host = os.environ.get("JINA_HOST") or LOOPBACK
    with flows.running(
        "flow-query.yml", model=model, http=http, port=port, host=host, insecure=options.insecure
    ) as flow:
        print(f"{'http' if http else 'grpc'}://localhost:{port}  (Ctrl-C stops it)", flush=True)
        with suppress(KeyboardInterrupt):
            supervise(flow)
    return 0


def delete(options: argparse.Namespace) -> int:
    """Remove pictures with their captions, or single documents."""
    import client

    model = flows.indexed_model()
    if not model:
        raise FlowError(f"nothing is indexed in {flows.workspace()}")
    if not options.names:
        raise FlowError("say what to delete: ids, or files of pictures")
    names = {name: str(Path(name).resolve()) if Path(name).exists() or "/" in name else name for name in options.names}
    with flows.running("flow-index.yml", model=options.model_name or model) as flow:
        gone = client.delete(flow, list(names.values()))
    for name, stored in names.items():
        print(f"{name}: {gone[stored]} documents deleted" if gone[stored] else f"{name}: not in the index")
    return 0 if all(gone.values()) else 1


def verify(options: argparse.Namespace) -> int:
    """Examine the index, and repair what can be rebuilt."""
    import verify

    return verify.verify()


def backup(options: argparse.Namespace) -> int:
    """Write the index into one file; a Flow may go on using it."""
    file = _file(options)
    with flows.stores() as stores:
        if not all(stores.values()):
            raise FlowError(f"nothing is indexed in {flows.workspace()}")
        storage.backup.backup(stores, *INDEXERS[:2], file)
    print(f"{file}: {file.stat().st_size / 1e6:,.1f} MB")
    return 0


def restore(options: argparse.Namespace) -> int:
    """Put a backup in the place of the index."""
    file = _file(options)
    about = storage.backup.restore(flows.workspace(), INDEXERS, file, overwrite=options.overwrite)
    model = about["model"] or "no model yet"
    print(f"{flows.workspace()}: the index of {about['made']}, in {about['shards']} shards, model {model}")
    return 0


def _file(options: argparse.Namespace) -> Path:
    if len(options.names) != 1:
        raise FlowError(f"say one file: python app.py -t {options.task} FILE")
    return Path(options.names[0]).resolve()


def dryrun(options: argparse.Namespace) -> int:
    """Start and stop the index Flow."""
    model = options.model_name or flows.indexed_model() or "clip"
    with flows.running("flow-index.yml", model=model):
        print(f"the index Flow starts with -m {model}")
    return 0


def list_models(options: argparse.Namespace) -> int:
    """Print the models that can be run here."""
    from models.catalogue import catalogue  # open_clip takes seconds

    for line in catalogue():
        print(line)
    return 0


def main() -> int:
    """Run one task; returns the exit code."""
    options = parser().parse_args()
    flows.quiet()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what is half done is cleared away
    tasks = {
        "index": index,
        "index_restful": index_restful,
        "delete": delete,
        "verify": verify,
        "backup": backup,
        "restore": restore,
        "dryrun": dryrun,
        "models": list_models,
    }
    run = tasks.get(options.task, query)
    try:
        return run(options)
    except (FlowError, DataError, StorageError) as error:
        print(f"app.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
