"""Unpacking: what is safe comes out whole, what is not leaves nothing behind."""

import bz2
import gzip
import io
import lzma
import multiprocessing
import os
import random
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import zipfile

import pytest
from rar_writer import LINK, UNIX, WINDOWS, encryption, rar4, rar5, redirection
from web_server import wait_until

from psc.download.archives import require_rar_tool, unpack
from psc.errors import DataError
from psc.files import try_lock

CLIPS = {
    "UCF-101/Archery/v_1.avi": b"clip " * 99,
    "UCF-101/Bowling/v_2.avi": b"x",
    "UCF-101/e": b"",
}
FOLDERS = ["UCF-101/Archery", "UCF-101"]


def entries(files=CLIPS, folders=FOLDERS):
    return [
        *({"name": name, "content": content} for name, content in files.items()),
        *({"name": name, "folder": True} for name in folders),
    ]


def write_zip(path, files=CLIPS, folders=FOLDERS, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name in folders:
            file.writestr(f"{name}/", b"")
        for name, content in files.items():
            file.writestr(name, content)
    return path


FORMATS = {
    "v7": None,  # what no format of tarfile's is: headers without magic number
    "ustar": tarfile.USTAR_FORMAT,
    "gnu": tarfile.GNU_FORMAT,
    "pax": tarfile.PAX_FORMAT,
}
COMPRESSIONS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


def tar(files=CLIPS, folders=FOLDERS, layout="gnu", special=()):
    """A tar, not compressed; ``special`` are pairs of a name and a type other than a file's."""
    content = io.BytesIO()
    layout_number = FORMATS[layout] or tarfile.USTAR_FORMAT
    with tarfile.open(fileobj=content, mode="w", format=layout_number) as file:
        for name in folders:
            entry = tarfile.TarInfo(name)
            entry.type = tarfile.DIRTYPE
            file.addfile(entry)
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.uid, entry.mode = len(data), 12345, 0o4000
            file.addfile(entry, io.BytesIO(data))
        for name, kind in special:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "UCF-101/e"
            file.addfile(entry)
    raw = bytearray(content.getvalue())
    return without_magic_numbers(raw) if layout == "v7" else bytes(raw)


def without_magic_numbers(raw):
    for start in range(0, len(raw), 512):
        if raw[start + 257 : start + 262] == b"ustar":
            raw[start + 257 : start + 265] = bytes(8)
            correct_sum(raw, start)
    return bytes(raw)


def correct_sum(raw, start=0):
    """Write the checksum of the header that begins at ``start``."""
    raw[start + 148 : start + 156] = b" " * 8
    raw[start + 148 : start + 156] = b"%06o\0 " % sum(raw[start : start + 512])


def tree(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


EXPECTED = {name.removeprefix("UCF-101/"): content for name, content in CLIPS.items()}


@pytest.fixture
def place(tmp_path):
    """Where archives are unpacked; what leaves it shows beside it."""
    folder = tmp_path / "outer" / "data"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def archive(tmp_path):
    def write(content, name="archive"):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


def nothing_is_left(place, *, beside=("data",)):
    return list(place.iterdir()) == [] and sorted(p.name for p in place.parent.iterdir()) == [
        *beside
    ]


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip(tmp_path, place, compression):
    archive = write_zip(tmp_path / "a.zip", compression=compression)
    assert unpack(archive, place / "videos") == 3
    assert tree(place / "videos") == EXPECTED
    assert [p.name for p in place.iterdir()] == ["videos"]


def test_more_than_one_folder_keeps_both(tmp_path, place):
    files = {"a/1": b"1", "b/2": b"2"}
    assert unpack(write_zip(tmp_path / "a.zip", files, []), place / "new" / "both") == 2
    assert tree(place / "new" / "both") == files


def test_a_single_file_is_put_into_the_folder(tmp_path, place):
    unpack(write_zip(tmp_path / "a.zip", {"only.txt": b"1"}, []), place / "folder")
    assert tree(place / "folder") == {"only.txt": b"1"}


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_tar(archive, place, layout, compression):
    path = archive(COMPRESSIONS[compression](tar(layout=layout)))
    assert unpack(path, place / "videos") == 3
    assert tree(place / "videos") == EXPECTED
    assert [p.name for p in place.iterdir()] == ["videos"]
    assert all(p.stat().st_mode & 0o600 == 0o600 for p in place.rglob("*"))  # not those in there


@pytest.mark.parametrize("flags", ["-cf", "-czf", "-cjf", "-cJf"])
def test_what_the_tar_program_packs(tmp_path, place, flags):
    long = f"UCF-101/{'a' * 90}/{'b' * 90}.avi"  # longer than a header's field
    for name, content in {**CLIPS, long: b"long"}.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(content)
    command = ["tar", "-C", tmp_path / "in", flags, tmp_path / "a.tgz", "./UCF-101"]
    if shutil.which("tar") is None or subprocess.run(command, check=False).returncode:
        pytest.skip("no tar program here, or none of this compression")
    assert unpack(tmp_path / "a.tgz", place / "videos") == 4
    assert tree(place / "videos") == {**EXPECTED, long.removeprefix("UCF-101/"): b"long"}


@pytest.mark.parametrize("make", [rar4, rar5])
@pytest.mark.parametrize("program", ["unrar", "unar", "7z", "7zz", "bsdtar"])
def test_rar_with_every_tool_of_this_machine(archive, place, make, program, tmp_path, monkeypatch):
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed")
    if program.startswith("7z") and "Rar5" not in subprocess.check_output([found, "i"], text=True):
        pytest.skip(f"{program} is built without RAR here")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / program).symlink_to(found)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}")
    # Nothing empty: of such in a RAR 5, some versions of bsdtar print what is not in it (which is
    # noticed).
    files = {name: content for name, content in CLIPS.items() if content}
    assert unpack(archive(make(entries(files, []))), place / "videos") == 2
    assert tree(place / "videos") == {name: EXPECTED[name] for name in EXPECTED if EXPECTED[name]}
    assert [p.name for p in place.iterdir()] == ["videos"]


@pytest.mark.parametrize("make", [rar4, rar5])
def test_rar(archive, place, unrar, capsys, monkeypatch, make):
    unrar(CLIPS.values())
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)  # which has a bar
    assert unpack(archive(make(entries())), place / "videos") == 3
    assert tree(place / "videos") == EXPECTED
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "unpacking: 100%" in shown.err


@pytest.mark.parametrize("system", [UNIX, WINDOWS])
@pytest.mark.parametrize("make", [rar4, rar5])
def test_rar_of_every_system(archive, place, unrar, make, system):
    unrar(CLIPS.values())
    unpack(archive(make([{**e, "system": system} for e in entries()])), place / "videos")
    assert tree(place / "videos") == EXPECTED


def test_windows_separators_in_a_zip(tmp_path, place):
    files = {name.replace("/", "\\"): content for name, content in CLIPS.items()}
    unpack(write_zip(tmp_path / "a.zip", files, []), place / "videos")
    assert tree(place / "videos") == EXPECTED


EVIL = [
    "../evil",
    "a/../../evil",
    "/tmp/evil",
    "..\\evil",
    "C:\\evil",
    "C:evil",
    "\\evil",
    "a\nb",
    "",
]


@pytest.mark.parametrize("name", EVIL)
@pytest.mark.parametrize("make", [rar4, rar5])
def test_no_member_of_a_rar_leaves_the_folder(archive, place, unrar, make, name):
    unrar(CLIPS.values())
    files = {**CLIPS, name: b"evil"}
    with pytest.raises(DataError, match=r"nothing was unpacked"):
        unpack(archive(make(entries(files))), place / "videos")
    assert nothing_is_left(place)


@pytest.mark.parametrize("name", EVIL[:-1])
def test_no_member_of_a_zip_leaves_the_folder(tmp_path, place, name):
    with pytest.raises(DataError, match="nothing was unpacked"):
        unpack(write_zip(tmp_path / "a.zip", {**CLIPS, name: b"evil"}), place / "videos")
    assert nothing_is_left(place)


@pytest.mark.parametrize("name", EVIL)
@pytest.mark.parametrize("layout", ["gnu", "pax"])
def test_no_member_of_a_tar_leaves_the_folder(archive, place, layout, name):
    content = gzip.compress(tar({**CLIPS, name: b"evil"}, layout=layout))
    with pytest.raises(DataError, match="nothing was unpacked"):
        unpack(archive(content), place / "videos")
    assert nothing_is_left(place)


def test_a_folder_of_a_tar_does_not_leave_either(archive, place):
    with pytest.raises(DataError, match="leads out of the folder; nothing was unpacked"):
        unpack(archive(tar(folders=["../evil"])), place / "videos")
    assert nothing_is_left(place)


@pytest.mark.parametrize(
    "kind",
    [
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.FIFOTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        b"V",  # a volume's label: nothing that tarfile knows
    ],
)
def test_no_links_and_devices_in_a_tar(archive, place, kind):
    with pytest.raises(DataError, match="link or a device; nothing was unpacked"):
        unpack(archive(tar(special=[("UCF-101/link", kind)])), place / "videos")
    assert nothing_is_left(place)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_no_links_and_devices_in_a_zip(tmp_path, place, kind):
    path = write_zip(tmp_path / "a.zip")
    with zipfile.ZipFile(path, "a") as file:
        link = zipfile.ZipInfo("UCF-101/link")
        link.external_attr = (kind | 0o777) << 16
        file.writestr(link, "/etc")
        file.writestr("UCF-101/link/passwd", "evil")
    with pytest.raises(DataError, match="link or a device; nothing was unpacked"):
        unpack(path, place / "videos")
    assert nothing_is_left(place)


@pytest.mark.parametrize(
    "rar",
    [
        rar4([*entries(), {"name": "link", "content": b"/etc", "attributes": LINK}]),
        rar4([*entries(), {"name": "device", "attributes": 0o020666}]),
        rar5([*entries(), {"name": "link", "extra": redirection(1, "/etc")}]),
        rar5([*entries(), {"name": "link", "attributes": LINK, "extra": redirection(1, "/etc")}]),
        rar5([*entries(), {"name": "copy", "extra": redirection(5, "/etc")}]),
    ],
)
def test_no_links_and_devices_in_a_rar(archive, place, rar):
    with pytest.raises(DataError, match="link or a device; nothing was unpacked"):
        unpack(archive(rar), place / "videos")
    assert nothing_is_left(place)


@pytest.mark.parametrize(
    "rar",
    [
        rar4(entries(), flags=0x0080),
        rar4([{"name": "a", "content": b"x", "flags": 0x0004}]),
        rar5([{"name": "a", "content": b"x", "extra": encryption()}]),
    ],
)
def test_an_encrypted_rar(archive, place, rar):
    with pytest.raises(DataError, match="is encrypted; unpack it by hand"):
        unpack(archive(rar), place / "videos")
    assert nothing_is_left(place)


@pytest.mark.parametrize(
    "rar",
    [
        rar4([{"name": "a", "content": b"x", "flags": 0x0001}], flags=0x0011),
        rar5([{"name": "a", "content": b"x", "flags": 0x10}], flags=1),
    ],
)
def test_one_of_several_volumes_without_the_others(archive, place, unrar, rar):
    unrar([])
    with pytest.raises(DataError, match=r"volume|could not be unpacked"):
        unpack(archive(rar), place / "videos")
    assert nothing_is_left(place)


@pytest.mark.parametrize("make", [rar4, rar5])
def test_a_damaged_rar_is_refused_or_whole(archive, place, unrar, make):
    """Whatever rarfile makes of it: the contents are those of the checksums, or an error."""
    unrar(CLIPS.values())
    generator = random.Random(0)
    whole, refused = make(entries()), 0
    for number in range(12):
        content = bytearray(whole)
        content[generator.randrange(7, len(whole))] = generator.randrange(256)
        del content[generator.choice([len(whole), generator.randrange(20, 400)]) :]
        try:
            unpack(archive(content), place / f"{number}")
        except DataError:
            refused += 1
        else:
            assert set(tree(place / f"{number}").values()) <= set(CLIPS.values())
    assert refused > 5


@pytest.mark.parametrize("files", [[("a", b"1"), ("a", b"2")], [("a", b"1"), ("./a", b"2")]])
def test_two_files_of_one_name(archive, place, files):
    rar = rar4([{"name": name, "content": content} for name, content in files])
    with pytest.raises(DataError, match="comes twice"):
        unpack(archive(rar), place / "videos")


def test_two_files_of_one_name_in_a_tar(archive, place):
    with pytest.raises(DataError, match="comes twice"):
        unpack(archive(tar({"a": b"1", "./a": b"2"}, [])), place / "videos")


def test_a_file_that_is_a_folder_too(archive, place):
    with pytest.raises(DataError, match="a is both a file and a folder"):
        unpack(archive(rar4(entries({"a": b"", "a/b": b""}, []))), place / "videos")


def test_nothing_in_it(tmp_path, place):
    with pytest.raises(DataError, match="holds no files"):
        unpack(write_zip(tmp_path / "a.zip", {}), place / "videos")


@pytest.mark.parametrize("content", [gzip.compress(tar({}, []), mtime=0), tar({})])
def test_nothing_in_a_tar(archive, place, content):
    with pytest.raises(DataError, match="holds no files"):
        unpack(archive(content), place / "videos")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_no_room(tmp_path, archive, place, monkeypatch, kind):
    size = sum(map(len, CLIPS.values()))
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=size - 1))
    path = write_zip(tmp_path / "a") if kind == "zip" else archive(gzip.compress(tar()))
    with pytest.raises(DataError, match=rf"unpacked, needs {size} bytes .*free 1 bytes"):
        unpack(path, place / "videos")
    assert nothing_is_left(place)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=size))
    unpack(path, place / "videos")


def test_a_disk_that_fills_meanwhile(tmp_path, place):
    (tmp_path / "a.tgz").write_bytes(gzip.compress(tar()))
    archives = [write_zip(tmp_path / "a.zip"), tmp_path / "a.tgz"]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, before[1]))
    try:
        for path in archives:
            with pytest.raises(DataError, match=r"File too large; make room.*run again"):
                unpack(path, place / "videos")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert nothing_is_left(place)


def test_what_is_there_is_never_touched(tmp_path, place):
    (place / "videos").mkdir()
    (place / "videos" / "mine").write_bytes(b"mine")
    with pytest.raises(DataError, match="videos exists; move it away"):
        unpack(write_zip(tmp_path / "a.zip"), place / "videos")
    assert tree(place) == {"videos/mine": b"mine"}


def test_a_damaged_zip(tmp_path, place):
    path = write_zip(tmp_path / "a.zip", {"a": bytes(9999)}, [], zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[5000] = 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"damaged or cut off \(Bad CRC-32.*download it again"):
        unpack(path, place / "videos")
    assert nothing_is_left(place)
    path.write_bytes(content[:5000])
    with pytest.raises(DataError, match="damaged or cut off"):
        unpack(path, place / "videos")


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_tar_is_never_unpacked_in_part(archive, place, compression):
    """Cut off anywhere, also where tarfile would take what is left for a whole archive."""
    whole = tar({"a": bytes(range(256)) * 9, "b": b"b" * 600}, [])
    content = COMPRESSIONS[compression](whole)
    end = len(content) if compression else len(whole.rstrip(b"\0")) // 512 * 512 + 512
    for length in {*range(512, end, 512), *range(20, end, max(1, end // 40)), end - 1, end - 9}:
        with pytest.raises(DataError, match="download it again"):
            unpack(archive(content[:length]), place / "videos")
        assert nothing_is_left(place)


@pytest.mark.parametrize("compression", [".gz", ".bz2", ".xz"])
def test_a_compressed_tar_with_one_wrong_byte(archive, place, compression):
    content = COMPRESSIONS[compression](tar({"a": random.Random(0).randbytes(9999)}, []))
    # Behind the head, whose time and flags no checksum covers, and before what pads the end.
    for position in range(20, len(content) - 8, 611):
        damaged = bytearray(content)
        damaged[position] ^= 0x10
        with pytest.raises(DataError, match="damaged or cut off"):
            unpack(archive(damaged), place / "videos")
        assert nothing_is_left(place)


def test_a_wrong_header_in_a_tar_is_not_its_end(archive, place):
    content = bytearray(tar({"a": b"1", "b": b"2", "c": b"3"}, []))
    content[2 * 512] ^= 1  # of b: tarfile on its own would find a alone
    with pytest.raises(DataError, match="does not end where a tar archive ends"):
        unpack(archive(gzip.compress(content)), place / "videos")
    assert nothing_is_left(place)


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
@pytest.mark.parametrize("size", [-1024, -10_000, 10**18])
def test_an_impossible_size_in_a_tar(archive, place, kind, size):
    content = bytearray(tar({"a": b"1"}, []))
    content[124:136] = b"\xff" * 4 + size.to_bytes(8, "big", signed=True)  # in the base of 256
    if size > 0:
        content[124:128] = b"\x80\x00\x00\x00"
    content[156:157] = kind
    correct_sum(content)
    with pytest.raises(DataError, match="damaged or cut off"):
        unpack(archive(content), place / "videos")
    assert nothing_is_left(place)


def test_what_is_compressed_but_no_tar(archive, place):
    with pytest.raises(DataError, match=r"no tar archive can be read.*right file"):
        unpack(archive(gzip.compress(b"\x5c\x01\x00\x00" + bytes(999))), place / "videos")
    assert nothing_is_left(place)


def test_an_encrypted_zip(tmp_path, place):
    path = write_zip(tmp_path / "a.zip", {"a": b"secret"}, [])
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="encrypted"):
        unpack(path, place / "videos")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"<!DOCTYPE html>", "a web page"),
        (b"", "something else"),
        (b"\x1f\x8b\x08", "damaged or cut off"),
        (b"\x1f\x9d\x90", "something else"),  # .tar.Z
        (None, "is not there"),
    ],
)
def test_other_files(tmp_path, archive, place, content, what):
    path = tmp_path / "missing" if content is None else archive(content)
    with pytest.raises(DataError, match=f"{what}.*download it"):
        unpack(path, place / "videos")


def test_no_tool_says_what_to_install(archive, place, monkeypatch):
    monkeypatch.setenv("PATH", "")
    for call in (require_rar_tool, lambda: unpack(archive(rar4(entries())), place / "videos")):
        with pytest.raises(DataError, match=r"(?s)none of unrar.*apt install.*conda.*brew"):
            call()
    assert nothing_is_left(place)


@pytest.mark.parametrize(
    ("contents", "then", "what"),
    [
        (CLIPS.values(), "sys.exit(3)", "it ends with status 3"),
        (CLIPS.values(), "os.kill(os.getpid(), 9)", "it ends with status -9"),
        ([b"clip " * 98], "pass", "Archery/v_1.avi does not come out"),
        ([b"clip!" * 99, b"x"], "pass", "Archery/v_1.avi does not come out"),
        ([*CLIPS.values(), b"?"], "pass", "more comes out than is in it"),
    ],
)
def test_a_tool_that_fails_is_noticed_whatever_it_reports(
    archive, place, unrar, contents, then, what
):
    unrar(contents, then)
    with pytest.raises(DataError, match=rf"with unrar: .*{what}.*another program can"):
        unpack(archive(rar4(entries())), place / "videos")
    assert nothing_is_left(place)


def test_a_kill_leaves_what_the_next_call_clears_away(archive, place, unrar):
    unrar(list(CLIPS.values())[:1], "time.sleep(60)")
    rar = archive(rar4(entries()))
    process = multiprocessing.get_context("fork").Process(
        target=lambda: (os.setsid(), unpack(rar, place / "videos"))
    )
    process.start()
    wait_until(lambda: (place / ".videos.unpacking" / "UCF-101/Bowling/v_2.avi").exists())
    unrar(CLIPS.values())
    with pytest.raises(DataError, match=rf"being unpacked by process {process.pid} "):
        unpack(rar, place / "videos")
    os.killpg(process.pid, signal.SIGKILL)
    process.join()
    assert not (place / "videos").exists()
    (place / ".videos.unpacking" / "rubbish").write_bytes(b"")
    unpack(rar, place / "videos")
    assert tree(place / "videos") == EXPECTED
    assert [p.name for p in place.iterdir()] == ["videos"]


def test_what_an_interrupted_zip_left_is_cleared_away_too(tmp_path, place):
    left = place / ".videos.unpacking" / "UCF-101"
    left.mkdir(parents=True)
    (left / "e").write_bytes(b"half")
    (left / "rubbish").write_bytes(b"")
    unpack(write_zip(tmp_path / "a.zip"), place / "videos")
    assert tree(place / "videos") == EXPECTED


def test_one_at_a_time(tmp_path, place):
    with try_lock(place / ".videos.unpacking.lock"), pytest.raises(DataError, match="wait"):
        unpack(write_zip(tmp_path / "a.zip"), place / "videos")
