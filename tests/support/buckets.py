"""A real S3 server on this machine, and buckets in it.

Import it by name (``tests`` is on pytest's path): ``from buckets import s3_server``.
"""

import os
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from obstore.store import S3Store

S3_SETTINGS = {
    "AWS_ACCESS_KEY_ID": "somebody",
    "AWS_SECRET_ACCESS_KEY": "a secret",
    "AWS_REGION": "us-east-1",
    "AWS_ALLOW_HTTP": "true",
}
"""What a client has in its environment beside ``AWS_ENDPOINT_URL``."""


@contextmanager
def s3_server() -> Iterator[str]:
    """Run moto's S3 server in a process of its own and give its URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # Not measured, and asks nobody for anything.
        env={"PATH": os.environ["PATH"]},
    )
    with process:
        try:
            yield _read_url(process)
        finally:
            process.terminate()


def make_bucket(server_url: str, name: str) -> S3Store:
    """Make an empty bucket and return its store."""
    with urllib.request.urlopen(urllib.request.Request(f"{server_url}/{name}", method="PUT")):
        return open_bucket(server_url, name)


def open_bucket(server_url: str, name: str, **retry_config: Any) -> S3Store:
    """Return the store of a bucket that there may be."""
    return S3Store(
        name,
        endpoint=server_url,
        access_key_id=S3_SETTINGS["AWS_ACCESS_KEY_ID"],
        secret_access_key=S3_SETTINGS["AWS_SECRET_ACCESS_KEY"],
        region=S3_SETTINGS["AWS_REGION"],
        client_options={"allow_http": True},
        retry_config=retry_config,
    )


def unfinished_uploads(server_url: str, bucket: str) -> int:
    """Return how many uploads in parts were begun and neither finished nor given up."""
    with urllib.request.urlopen(f"{server_url}/{bucket}?uploads") as response:
        return response.read().count(b"<UploadId>")


def _read_url(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"http://127\.0\.0\.1:\d+", line):
            # It logs every request: what is not read would stop it one day.
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return found[0]
    raise AssertionError(f"the server ended with {process.wait()}")
