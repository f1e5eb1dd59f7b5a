"""What a RAR archive holds, against archives written by hand after the published layout.

The writer's archives are unpacked by real tools in test_archives.py where those are installed.
"""

import random
import shutil
import subprocess

import pytest
from rar_writer import LINK, UNIX, WINDOWS, encryption, number, rar4, rar5, redirection

from psc.download.archives import Member, rar_members
from psc.errors import DataError

PLAIN = [
    {"name": "data/a.txt", "content": b"alpha"},
    {"name": "data/empty.txt"},
    {"name": "data/later folder", "folder": True},
]
MEMBERS = [
    Member("data/a.txt", 5, "file"),
    Member("data/empty.txt", 0, "file"),
    Member("data/later folder", 0, "folder"),
]


def members(tmp_path, content):
    path = tmp_path / "archive.rar"
    path.write_bytes(content)
    return rar_members(path)


@pytest.mark.parametrize("make", [rar4, rar5])
@pytest.mark.parametrize("system", [UNIX, WINDOWS])
def test_files_and_folders(tmp_path, make, system):
    assert members(tmp_path, make([{**entry, "system": system} for entry in PLAIN])) == MEMBERS


def test_old_archives_have_no_end(tmp_path):
    assert members(tmp_path, rar4(PLAIN, end=False)) == MEMBERS


def test_what_follows_the_end_is_ignored(tmp_path):
    assert members(tmp_path, rar4(PLAIN) + b"recovery") == MEMBERS
    assert members(tmp_path, rar5(PLAIN) + b"recovery") == MEMBERS


def test_sizes_of_64_bits(tmp_path):
    long = {"name": "a", "content": b"alpha", "high": (0, 2)}
    assert members(tmp_path, rar4([long, *PLAIN])) == [Member("a", 5 + (2 << 32), "file"), *MEMBERS]
    with pytest.raises(DataError, match="cut off"):
        members(tmp_path, rar4([{**long, "high": (1, 2)}]))
    with (tmp_path / "long.rar").open("wb") as file:  # a file with a hole takes no room
        head = rar4([{**long, "high": (1, 1), "content": b""}], end=False)
        file.write(head)
        file.seek(1 << 32, 1)
        file.write(rar4(PLAIN).removeprefix(rar4([], end=False)))
    assert rar_members(tmp_path / "long.rar") == [Member("a", 1 << 32, "file"), *MEMBERS]


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        # Without a zero: UTF-8.
        ("Größe.txt".encode(), "Größe.txt"),
        # Eight units of one byte each, then two of two: steps 0 0 0 0, 0 2 2.
        (b"Gr____.txt\0\x04" + b"\x00G\xf6\xdfe" + b"\x28.\x12\x34\x56\x78", "Göße.㐒硖"),
        # Units in page 4 (Cyrillic): steps 1 1 1 0.
        (b"____\0\x04\x54\x34\x30\x31.", "даб."),
        # A run from the 8-bit form: two and one more, then one byte.
        (b"abc_\0\x04\xc0\x01\xe4", "abcä"),
        # A run, shifted by 1 and in page 4.
        (b"\x30\x31\0\x04\xc0\x80\x01", "бв"),
    ],
)
def test_names_beyond_ascii(tmp_path, raw, name):
    (member,) = members(tmp_path, rar4([{"name": raw, "content": b"x", "flags": 0x200}]))
    assert member.name == name


def test_a_name_in_an_old_code_page_is_read_somehow(tmp_path):
    (member,) = members(tmp_path, rar4([{"name": b"Gr\xf6\xdfe", "content": b"x"}]))
    assert member.name == "Größe"


@pytest.mark.parametrize(
    "archive",
    [
        rar4([{"name": "link", "content": b"/etc/passwd", "attributes": LINK}]),
        rar4([{"name": "link", "content": b"..", "attributes": 0x420, "system": WINDOWS}]),
        rar4([{"name": "device", "attributes": 0o020666}]),
        rar5([{"name": "link", "attributes": LINK, "extra": redirection(1, "/etc/passwd")}]),
        rar5([{"name": "link", "extra": redirection(1, "/etc/passwd")}]),
        rar5([{"name": "copy", "extra": redirection(5, "/etc/passwd")}]),
        rar5([{"name": "link", "attributes": 0x420, "system": WINDOWS}]),
    ],
)
def test_links_and_devices_are_neither_file_nor_folder(tmp_path, archive):
    (member,) = members(tmp_path, archive)
    assert (member.kind, member.size) == ("special", 0)


@pytest.mark.parametrize(
    ("archive", "what"),
    [
        (rar4(PLAIN, flags=0x0001), "several volumes"),
        (rar4([{**PLAIN[0], "flags": 0x0002}]), "several volumes"),
        (rar5(PLAIN, flags=1), "several volumes"),
        (rar5([{**PLAIN[0], "flags": 0x10}]), "several volumes"),
        (rar4(PLAIN, flags=0x0080), "encrypted"),
        (rar4([{**PLAIN[0], "flags": 0x0004}]), "encrypted"),
        (rar5([{**PLAIN[0], "extra": encryption()}]), "encrypted"),
        (b"", "not a RAR archive"),
        (b"<html>", "not a RAR archive"),
    ],
)
def test_what_cannot_be_unpacked_says_why(tmp_path, archive, what):
    with pytest.raises(DataError, match=what):
        members(tmp_path, archive)


@pytest.mark.parametrize("make", [rar4, rar5])
def test_cut_off_anywhere(tmp_path, make):
    whole = make(PLAIN[:1])
    ends = {len(whole)}
    if make is rar4:  # nothing else says that more was to come: an old archive just ends
        ends |= {7, 20, len(whole) - 7}
    else:
        ends |= {8, 8 + 4 + 1 + 3, len(whole) - 8}
    for length in range(len(whole)):
        if length in ends:
            continue
        with pytest.raises(DataError, match=r"cut off|not a RAR"):
            members(tmp_path, whole[:length])
    assert members(tmp_path, whole) == MEMBERS[:1]


@pytest.mark.parametrize("make", [rar4, rar5])
def test_damage_is_an_error_and_never_an_exception_of_another_kind(tmp_path, make):
    rng = random.Random(0)
    whole = make(PLAIN)
    refused = 0
    for _ in range(200):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(7, len(whole))] = rng.randrange(256)
        try:
            members(tmp_path, bytes(damaged))
        except DataError:
            refused += 1
    assert refused > 140  # the rest hit contents, or the archive's end


def test_an_endless_number(tmp_path):
    with pytest.raises(DataError, match="damaged"):
        members(tmp_path, b"Rar!\x1a\x07\x01\x00" + bytes(4) + b"\xff" * 100)
    assert number(300) == b"\xac\x02"


@pytest.mark.skipif(shutil.which("unrar") is None, reason="unrar is not installed")
@pytest.mark.parametrize("make", [rar4, rar5])
def test_unrar_lists_the_same(tmp_path, make):
    found = members(tmp_path, make(PLAIN))
    listed = subprocess.run(
        ["unrar", "lb", tmp_path / "archive.rar"], check=True, capture_output=True, text=True
    ).stdout
    assert listed.splitlines() == [member.name for member in found]
