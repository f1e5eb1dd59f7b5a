"""Which files belong to a subject, by their names alone; nothing is read here."""

import pytest

from psc.errors import DataError
from psc.mri.data import SubjectFiles, find_subjects


@pytest.fixture
def touch(tmp_path):
    """Function: make empty files below tmp_path/data; returns that folder."""

    def make(*names, folder="data"):
        for name in names:
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path / folder

    return make


NITRC = (
    "IBSR_01_ana.nii.gz",
    "IBSR_01_ana_brainmask.nii.gz",
    "IBSR_01_ana_strip.nii.gz",
    "IBSR_01_seg_ana.nii.gz",
    "IBSR_01_segTRI_ana.nii.gz",
    "IBSR_01_segTRI_fill_ana.nii.gz",
)


def test_nitrc_s_archive(touch):
    folder = touch(*(f"IBSR_nifti_stripped/IBSR_01/{name}" for name in NITRC))
    place = folder / "IBSR_nifti_stripped" / "IBSR_01"
    assert find_subjects(folder) == {
        "IBSR_01": SubjectFiles(
            "IBSR_01",
            image=place / "IBSR_01_ana_strip.nii.gz",
            filled=place / "IBSR_01_segTRI_fill_ana.nii.gz",
            unfilled=place / "IBSR_01_segTRI_ana.nii.gz",
        )
    }


def test_course_copies(touch):
    folder = touch("IBSR_03/IBSR_03.nii.gz", "IBSR_03/IBSR_03_seg.nii.gz", "IBSR_02/IBSR_02.nii.gz")
    found = find_subjects(folder)
    assert list(found) == ["IBSR_02", "IBSR_03"]
    assert found["IBSR_02"] == SubjectFiles(
        "IBSR_02", folder / "IBSR_02/IBSR_02.nii.gz", None, None
    )
    assert found["IBSR_03"].unfilled == folder / "IBSR_03/IBSR_03_seg.nii.gz"
    assert found["IBSR_03"].filled is None


@pytest.mark.parametrize(
    ("file", "subject"),
    [
        ("IBSR_07.nii", "IBSR_07"),
        ("ibsr_07_ANA_Strip.NII.GZ", "IBSR_07"),
        ("IBSR_007.nii.gz", "IBSR_07"),
        ("PHANTOM_01_ana_strip.nii.gz", "PHANTOM_01"),
        ("Phantom_12.nii.gz", "PHANTOM_12"),
        ("X_123_ana_strip.nii", "X_123"),
    ],
)
def test_prefixes_numbers_and_endings(touch, file, subject):
    folder = touch(f"deep/down/{file}")
    expected = SubjectFiles(subject, folder / "deep" / "down" / file, None, None)
    assert find_subjects(folder) == {subject: expected}


@pytest.mark.parametrize(
    "file",
    [
        "IBSR_1.nii.gz",
        "IBSR01.nii.gz",
        "_01.nii.gz",
        "IBSR_01.nii.gz.part",
        "IBSR_01.nii.bz2",
        "IBSR_01.img",
        "IBSR_01_ana_brainmask.nii.gz",
        "IBSR_01_seg_ana.nii.gz",
        "IBSR_01_ana_strip_norm.nii.gz",
        "my_IBSR_01.nii.gz",
        "IBSR_0١.nii.gz",  # a digit, but not one of ours
        "._IBSR_01.nii.gz",
        ".hidden/IBSR_01.nii.gz",
        "IBSR_01.nii.gz/file",  # a folder of that name
    ],
)
def test_what_is_ignored(touch, file):
    folder = touch(file, "PHANTOM_02.nii.gz")
    assert list(find_subjects(folder)) == ["PHANTOM_02"]


def test_subjects_are_sorted_and_found_in_any_folder(touch):
    names = ("IBSR_10", "PHANTOM_01", "IBSR_09", "IBSR_02")
    folder = touch(*(f"{i}/{name}.nii.gz" for i, name in enumerate(names)))
    assert list(find_subjects(folder)) == ["IBSR_02", "IBSR_09", "IBSR_10", "PHANTOM_01"]


def test_the_folder_itself_may_be_hidden(touch):
    folder = touch("IBSR_01.nii", folder=".data")
    assert list(find_subjects(folder)) == ["IBSR_01"]


def test_several_folders_complete_each_other(touch):
    images = touch("IBSR_01_ana_strip.nii.gz", folder="images")
    labels = touch("IBSR_01_segTRI_fill_ana.nii.gz", folder="labels")
    found = find_subjects(labels, images)
    assert found["IBSR_01"].image.parent == images
    assert found["IBSR_01"].filled.parent == labels


def test_links_are_followed_but_not_in_circles(touch, tmp_path):
    elsewhere = touch("IBSR_01.nii.gz", folder="elsewhere")
    folder = touch("IBSR_02.nii.gz")
    (folder / "linked").symlink_to(elsewhere)
    (folder / "circle").symlink_to(folder)
    (folder / "IBSR_03.nii.gz").symlink_to(tmp_path / "gone")
    found = find_subjects(folder)
    assert found["IBSR_01"].image == folder / "linked" / "IBSR_01.nii.gz"
    # Reading says that it is missing; ignoring it would make another data set in silence.
    assert list(found) == ["IBSR_01", "IBSR_02", "IBSR_03"]


@pytest.mark.parametrize(
    ("one", "other", "kind"),
    [
        ("a/IBSR_01.nii.gz", "b/IBSR_01.nii.gz", "image"),
        ("IBSR_01.nii.gz", "IBSR_01_ana_strip.nii.gz", "image"),
        ("IBSR_01.nii", "IBSR_01.nii.gz", "image"),
        ("a/IBSR_01.nii.gz", "b/ibsr_01.nii.gz", "image"),
        ("IBSR_01.nii.gz", "IBSR_001.nii.gz", "image"),
        ("IBSR_01_seg.nii.gz", "IBSR_01_segTRI_ana.nii.gz", "unfilled labels"),
        ("a/IBSR_01_segTRI_fill_ana.nii", "b/IBSR_01_segTRI_fill_ana.nii", "filled labels"),
    ],
)
def test_what_is_there_twice_is_refused_with_both_names(touch, one, other, kind):
    folder = touch(one, other)
    with pytest.raises(DataError) as caught:
        find_subjects(folder)
    message = str(caught.value)
    assert f"IBSR_01 has two files of one kind ({kind})" in message
    assert str(folder / one) in message
    assert str(folder / other) in message


def test_volumes_with_the_skull_twice_are_nobody_s_concern(touch):
    folder = touch("a/IBSR_01_ana.nii.gz", "b/IBSR_01_ana.nii.gz", "IBSR_01_ana_strip.nii.gz")
    assert list(find_subjects(folder)) == ["IBSR_01"]


GETTING = r"registration at https://www\.nitrc\.org/projects/ibsr.*make data-ibsr"


def test_a_folder_without_subjects_says_how_to_get_them(touch):
    with pytest.raises(DataError, match=rf"holds no subject.*IBSR_01_ana_strip.*{GETTING}"):
        find_subjects(touch("readme.txt"))


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_no_folder_says_how_to_get_them(tmp_path, kind):
    place = tmp_path / "ibsr"
    if kind == "file":
        place.touch()
    with pytest.raises(
        DataError, match=rf"{place} cannot be searched.*IBSR_01_ana_strip.*{GETTING}"
    ):
        find_subjects(place)


def test_one_missing_folder_of_several_is_named(touch, tmp_path):
    with pytest.raises(DataError, match=rf"{tmp_path / 'no'} cannot be searched"):
        find_subjects(touch("IBSR_01.nii.gz"), tmp_path / "no")


def test_only_volumes_with_the_skull(touch):
    folder = touch("IBSR_01_ana.nii.gz", "IBSR_01_segTRI_ana.nii.gz", "IBSR_02_ana.nii.gz")
    with pytest.raises(DataError, match=rf"with the skull only.*stripped ones are.*{GETTING}"):
        find_subjects(folder)


def test_only_labels(touch):
    with pytest.raises(DataError, match=r"labels only \(IBSR_01_seg\.nii\.gz, …\), no image"):
        find_subjects(touch("IBSR_01_seg.nii.gz"))


def test_a_subject_without_an_image_is_left_out_but_not_in_silence(touch, caplog):
    names = ("IBSR_01.nii.gz", "IBSR_02_seg.nii.gz", "IBSR_03_ana.nii.gz")
    assert list(find_subjects(touch(*names))) == ["IBSR_01"]
    assert "IBSR_02 is left out: it has IBSR_02_seg.nii.gz, but no stripped" in caplog.text
    assert "IBSR_03 is left out" in caplog.text


@pytest.mark.sample
def test_the_real_sample(sample_data):
    found = find_subjects(sample_data / "mri" / "ibsr18")
    numbers = [number for number in range(1, 19) if number not in (12, 17)]
    assert list(found) == [f"IBSR_{number:02d}" for number in numbers]
    unlabelled = [name for name, files in found.items() if files.unfilled is None]
    assert unlabelled == ["IBSR_02", "IBSR_10", "IBSR_15"]
    assert all(files.filled is None and files.image.is_file() for files in found.values())
