"""What counts as data in a folder, and in which order."""

from psc.files import entries, natural_order


def test_what_systems_leave_beside_data_is_no_data(tmp_path):
    for name in ("b2", "a10", "a9", "._a9", ".DS_Store", "Thumbs.db", "desktop.ini"):
        (tmp_path / name).write_bytes(b"")
    for name in ("@eaDir", "__MACOSX", "c"):
        (tmp_path / name).mkdir()
    assert [path.name for path in entries(tmp_path)] == ["a9", "a10", "b2", "c"]


def test_natural_order():
    names = ["b1", "a10z2", "a2", "a10", "1", "a10z10", "²"]
    ordered = ["1", "a2", "a10", "a10z2", "a10z10", "b1", "²"]
    assert sorted(names, key=natural_order) == ordered
