"""Downloads against a server that breaks off, changes its mind, lies and refuses."""

import hashlib
import multiprocessing
import resource
import shutil
import socket
import ssl
import sys
import urllib.error
import urllib.request

import pytest
from web_server import Site, serving, wait_until

from psc.download.download import download
from psc.errors import DataError
from psc.files import try_lock

CONTENT = bytes(range(256)) * 4000  # several reads long
CHANGED = CONTENT[::-1]
HALF = len(CONTENT) // 2
SHA256 = hashlib.sha256(CONTENT).hexdigest()
ONCE = {"attempts": 1}


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def site():
    with serving(Site({"/file.bin": CONTENT})) as site:
        yield site


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new" / "file.bin"


def hasty(url, path, *, attempts=3, timeout=5, **options):
    """Download with little patience."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("_ATTEMPTS", attempts), ("_PAUSE", 0), ("_TIMEOUT", timeout)):
            patch.setattr(f"psc.download.download.{name}", value)
        return download(url, path, **options)


def get(site, path, **options):
    return hasty(f"{site.url}/file.bin", path, **options)


def only(path):
    """Whether nothing lies beside a file."""
    return [other.name for other in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("known", [{}, {"sha256": SHA256.upper()}])
def test_whole_at_the_first_attempt(site, path, known):
    found = get(site, path, **known)
    assert path.read_bytes() == CONTENT
    assert (found.path, found.size, found.sha256) == (path, len(CONTENT), SHA256)
    assert found.fetched
    assert only(path)
    ((method, _, headers),) = site.requests  # no HEAD: many servers do not know it
    assert method == "GET"
    assert headers["Accept-Encoding"] == "identity"
    assert "Range" not in headers


def test_the_servers_date_is_reported(site, path):
    site.modified = "Tue, 01 May 2018 12:00:00 GMT"
    assert get(site, path).modified == site.modified


@pytest.mark.parametrize(
    ("etag", "modified", "condition"),
    [
        ('"one"', None, '"one"'),
        (None, "Tue, 01 May 2018 12:00:00 GMT", "Tue, 01 May 2018 12:00:00 GMT"),
        # A weak ETag does not promise equal bytes.
        ('W/"one"', "Tue, 01 May 2018 12:00:00 GMT", "Tue, 01 May 2018 12:00:00 GMT"),
    ],
)
def test_goes_on_where_it_broke(site, path, etag, modified, condition, caplog):
    site.etag, site.modified, site.breaks = etag, modified, [HALF, 1000]
    assert get(site, path).sha256 == SHA256
    assert path.read_bytes() == CONTENT
    assert only(path)
    assert site.ranges_asked() == [None, f"bytes={HALF}-", f"bytes={HALF + 1000}-"]
    assert site.requests[1][2]["If-Range"] == condition
    assert site.sent == len(CONTENT)  # nothing came twice
    assert f"broke off after {HALF} of {len(CONTENT)} bytes" in caplog.text


def test_the_next_call_goes_on_where_the_last_gave_up(site, path):
    site.breaks = [HALF]
    with pytest.raises(DataError, match=r"broke off.*512 kB have arrived.*run again"):
        get(site, path, **ONCE)
    assert not path.exists()
    assert get(site, path).sha256 == SHA256
    assert site.ranges_asked() == [None, f"bytes={HALF}-"]


def test_progress_renews_the_patience(site, path):
    site.breaks = [1000] * 10
    assert get(site, path, attempts=2).sha256 == SHA256
    assert len(site.requests) == 11


def test_a_killed_process_is_taken_up(site, path):
    site.stalls = [HALF]
    process = multiprocessing.get_context("fork").Process(target=get, args=(site, path))
    process.start()
    partial = path.with_name("file.bin.partial")
    wait_until(lambda: partial.exists() and partial.stat().st_size == HALF)
    with pytest.raises(DataError, match=rf"being downloaded by process {process.pid} "):
        get(site, path)
    process.kill()
    process.join()
    assert not path.exists()
    assert get(site, path).sha256 == SHA256
    assert path.read_bytes() == CONTENT
    assert site.ranges_asked() == [None, f"bytes={HALF}-"]
    assert only(path)


def test_whole_but_killed_before_the_renaming(site, path):
    site.breaks = [len(CONTENT) - 1]
    with pytest.raises(DataError):
        get(site, path, **ONCE)
    with path.with_name("file.bin.partial").open("ab") as file:
        file.write(CONTENT[-1:])
    assert get(site, path).sha256 == SHA256
    assert len(site.requests) == 1


def test_a_silent_server_is_a_broken_connection(site, path):
    site.stalls = [HALF]
    assert get(site, path, attempts=2, timeout=0.3).sha256 == SHA256
    assert site.ranges_asked() == [None, f"bytes={HALF}-"]


def test_a_server_that_cannot_resume_sends_it_all_again(site, path):
    site.ranges, site.breaks = False, [HALF]
    assert get(site, path).sha256 == SHA256
    assert path.read_bytes() == CONTENT
    assert site.sent == len(CONTENT) + HALF


def test_a_server_that_cannot_resume_and_always_breaks_is_given_up(site, path):
    site.ranges, site.breaks = False, [HALF] * 100
    with pytest.raises(DataError, match="3 attempts"):
        get(site, path)
    assert len(site.requests) == 3


@pytest.mark.parametrize("honest", [True, False], ids=["If-Range", "no If-Range"])
@pytest.mark.parametrize("new", [CHANGED, CHANGED[: HALF // 2], CHANGED * 2])
def test_a_file_that_changed_meanwhile_comes_whole(site, path, honest, new):
    site.breaks, site.if_range = [HALF], honest
    with pytest.raises(DataError):
        get(site, path, **ONCE)
    site.files["/file.bin"], site.etag = new, '"two"'
    get(site, path)
    assert path.read_bytes() == new
    assert site.ranges_asked()[1] == f"bytes={HALF}-"


def test_a_file_that_changed_without_a_word_is_found_by_its_checksum(site, path, caplog):
    site.breaks, site.etag = [HALF], None
    with pytest.raises(DataError):
        get(site, path, **ONCE, sha256="0" * 64)
    site.files["/file.bin"] = CHANGED
    get(site, path, sha256=hashlib.sha256(CHANGED).hexdigest())
    assert path.read_bytes() == CHANGED
    assert site.ranges_asked() == [None, f"bytes={HALF}-", None]
    assert "joined from pieces" in caplog.text


def test_without_validator_and_checksum_nothing_is_joined(site, path):
    site.breaks, site.etag = [HALF], None
    with pytest.raises(DataError):
        get(site, path, **ONCE)
    site.files["/file.bin"] = CHANGED
    get(site, path)
    assert path.read_bytes() == CHANGED
    assert site.ranges_asked() == [None, None]


def test_within_one_call_neither(site, path):
    site.breaks, site.etag = [HALF], None
    get(site, path)
    assert site.ranges_asked() == [None, None]


@pytest.mark.parametrize("arrived", [HALF, len(CONTENT)], ids=["half", "whole"])
def test_pieces_of_another_address_are_not_used(site, path, arrived):
    site.files["/other.bin"], site.breaks = CHANGED, [HALF]
    with pytest.raises(DataError):
        hasty(f"{site.url}/other.bin", path, **ONCE)
    with path.with_name("file.bin.partial").open("ab") as file:
        file.write(CHANGED[HALF:arrived])
    get(site, path)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("state", [None, "", "[]", "1", '{"url": 1}'])
def test_pieces_of_which_nobody_knows_the_origin_are_not_used(site, path, state):
    path.parent.mkdir()
    path.with_name("file.bin.partial").write_bytes(CHANGED[:HALF])
    if state is not None:
        path.with_name("file.bin.partial.json").write_text(state)
    get(site, path, sha256=SHA256)
    assert path.read_bytes() == CONTENT
    assert site.ranges_asked() == [None]


def test_a_wrong_checksum_keeps_the_file_aside(site, path):
    wrong = "a" * 64
    with pytest.raises(DataError, match=rf"sha256 is {SHA256} instead of {wrong}.*rejected"):
        get(site, path, sha256=wrong)
    rejected = path.with_name("file.bin.rejected")
    assert only(rejected)
    assert rejected.read_bytes() == CONTENT
    get(site, path)  # and does not stand in the way of another attempt
    assert site.ranges_asked() == [None, None]


@pytest.mark.parametrize(("status", "reason"), [(404, "Not Found"), (403, "Forbidden")])
def test_a_refusal_is_final(site, path, status, reason):
    site.statuses = [status]
    with pytest.raises(DataError, match=rf"answers {status} {reason}.*put it at"):
        get(site, path)
    assert len(site.requests) == 1
    assert list(path.parent.iterdir()) == []


def test_a_passing_refusal_is_not(site, path):
    site.statuses = [503, 429]
    assert get(site, path).sha256 == SHA256
    site.statuses = [503] * 9
    with pytest.raises(DataError, match="503 Service Unavailable"):
        get(site, path.with_name("again"))
    assert len(site.requests) == 3 + 3


def test_a_file_that_is_there_and_right_causes_no_request(site, path):
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    for known in ({}, {"sha256": SHA256}):
        found = get(site, path, **known)
        assert (found.fetched, found.sha256) == (False, SHA256)
    assert site.requests == []


def test_a_file_that_is_there_and_wrong_is_not_touched(site, path):
    path.parent.mkdir()
    path.write_bytes(b"mine")
    with pytest.raises(DataError, match=r"is there, but.* instead of .*delete it"):
        get(site, path, sha256=SHA256)
    assert path.read_bytes() == b"mine"
    assert site.requests == []


def test_a_folder_in_its_place(site, path):
    path.mkdir(parents=True)
    with pytest.raises(DataError, match="is a folder"):
        get(site, path)


def test_no_room_is_known_before_the_first_byte(site, path, monkeypatch):
    usage = shutil.disk_usage("/")

    def leave(free):
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=free))

    leave(len(CONTENT))
    site.breaks = [HALF]
    with pytest.raises(DataError):
        get(site, path, **ONCE)
    leave(len(CONTENT) - HALF)  # what has arrived need not fit again
    get(site, path)
    leave(len(CONTENT) - 1)
    other = path.with_name("other.bin")
    with pytest.raises(DataError, match=r"needs 1.02 MB.*free 1 bytes or"):
        get(site, other)
    assert not other.exists()


def test_a_disk_that_fills_meanwhile_keeps_what_has_arrived(site, path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (HALF, before[1]))
    try:
        with pytest.raises(DataError, match=r"File too large.*run again"):
            get(site, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.with_name("file.bin.partial").stat().st_size == HALF
    assert get(site, path).sha256 == SHA256
    assert site.ranges_asked() == [None, f"bytes={HALF}-"]


def test_a_folder_that_cannot_be_written(site, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="cannot be written"):
        get(site, tmp_path / "file" / "file.bin")


def test_nobody_answers(path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(DataError, match=r"no connection.*refused.*\(3 attempts\).*run again"):
        hasty(f"http://127.0.0.1:{port}/file.bin", path)


def test_a_certificate_that_cannot_be_verified_is_told_at_once(path, monkeypatch):
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = "unable to get local issuer certificate"
    attempts = []

    def refuse(*_, **__):
        attempts.append(1)
        raise urllib.error.URLError(error)

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(DataError, match=r"certificate .*local issuer.*SSL_CERT_FILE.*put it at"):
        hasty("https://127.0.0.1/file.bin", path)
    assert len(attempts) == 1


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/file", "file.bin"])
def test_other_addresses_are_refused(url, path):
    with pytest.raises(DataError, match="not an address that starts with http"):
        download(url, path)


def test_without_a_length_somebody_must_know_what_is_whole(site, path):
    site.length = False
    with pytest.raises(DataError, match="does not say how large it is"):
        get(site, path)
    get(site, path, sha256=SHA256)
    assert path.read_bytes() == CONTENT


def test_chunks_say_themselves_when_they_end(site, path):
    site.chunked, site.breaks = True, [HALF]
    get(site, path)
    assert path.read_bytes() == CONTENT
    assert len(site.requests) == 2


def test_compressed_on_the_way_is_refused(site, path):
    site.extra = {"Content-Encoding": "gzip"}
    with pytest.raises(DataError, match="sends it as gzip"):
        get(site, path)


def test_an_empty_file(site, path):
    site.files["/file.bin"] = b""
    assert get(site, path).size == 0
    assert path.read_bytes() == b""


def test_one_process_at_a_time(site, path):
    with try_lock(path.with_name("file.bin.lock")), pytest.raises(DataError, match="wait"):
        get(site, path)
    assert get(site, path).fetched


def test_a_terminal_has_a_bar_that_counts_what_was_there(site, path, capsys, monkeypatch):
    site.breaks = [HALF]
    with pytest.raises(DataError):
        get(site, path, **ONCE)
    assert capsys.readouterr().err == ""  # not a terminal
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    get(site, path)
    shown = capsys.readouterr().err
    assert "file.bin:  50%" in shown
    assert "file.bin: 100%" in shown
