"""The table of runs: what is averaged, what is not, and where the numbers come from."""

from psc.paper.summary import summary_notes, summary_table, summary_text


def rows(table):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]


def test_one_row_per_network_and_the_baseline_last(make_record):
    records = [make_record("3d", total=2.0), make_record("p2sc2", total=1.0)]
    table = rows(summary_table(records))
    assert [row[0] for row in table] == ["3d", "p2sc2", "no network"]
    assert table[0][1:8] == ["1,234,567", "5", "0.500", "1.500", "2.000", "0.100", "-50.0 %"]
    assert table[1][7] == "-75.0 %"
    assert table[2][5] == "4.000"


def test_seeds_are_averaged_with_their_deviation(make_record):
    records = [make_record(seed=0, total=2.0), make_record(seed=1, total=3.0)]
    (row, _) = rows(summary_table(records))
    assert row[5] == "2.500 ± 0.707"
    assert row[9] == "0, 1"


def test_other_code_is_another_row_and_says_which(make_record):
    one = summary_table([make_record()])
    assert "code" not in one.splitlines()[0]
    two = summary_table([make_record(), make_record(seed=1, commit="b" * 40)])
    assert two.splitlines()[0].endswith("| code |")
    table = rows(two)
    assert [row[0] for row in table] == ["3d", "3d", "no network"]
    assert [row[-1] for row in table] == ["aaaaaaaa", "bbbbbbbb", ""]


def test_every_test_has_its_own_baseline(make_record):
    other = make_record("p2sc2", splits={"test": ["here[9:18]"]})
    table = rows(summary_table([make_record(), other, make_record("p1sc1")]))
    assert [row[0] for row in table] == ["3d", "p1sc1", "no network", "p2sc2", "no network"]


def test_synthetic_data_is_said_to_be_synthetic(make_record):
    assert "SYNTHETIC" in summary_notes([make_record()])
    real = summary_notes([make_record(kind="real sample")])
    assert "SYNTHETIC" not in real
    assert "real sample data" in real
    assert "some CPU" in real
    assert "aaaaaaaa" in real


def test_accuracies_are_in_percent_and_the_last_row_is_chance(make_video_record):
    records = [make_video_record(seed=0, top1=0.5), make_video_record(seed=1, top1=0.508)]
    table = summary_table([*records, make_video_record("p2sc2", top1=0.75)])
    header = [cell.strip() for cell in table.splitlines()[0].split("|")[1:-1]]
    assert header == [
        "block",
        "parameters",
        "iterations",
        "top-1 [%]",
        "top-5 [%]",
        "clip top-1 [%]",
        "training [min]",
        "seeds",
    ]
    # 0.008 / √2 and half of it
    first = ["50.4 ± 0.6", "62.9 ± 0.6", "25.2 ± 0.3"]
    assert rows(table) == [
        ["3d", "7,654,321", "5", *first, "1.5", "0, 1"],
        ["p2sc2", "7,654,321", "5", "75.0", "87.5", "37.5", "1.5", "0"],
        ["chance", "0", "0", "1.7", "8.3", "1.7", "", ""],  # 1, 5 and 1 of 60
    ]


def test_a_control_is_said_to_be_one(make_video_record):
    control = {"iterations": 5, "batch_size": 32, "test_clips": 20, "shuffle_frames": True}
    records = [make_video_record(), make_video_record(recipe=control)]
    table = summary_table(records)
    assert table.splitlines()[0].endswith("| seeds | control |")
    assert [row[-1] for row in rows(table)] == ["", "shuffled frames", ""]


def test_one_application_has_no_heading(make_record, make_video_record):
    for record in (make_record(), make_video_record()):
        text = summary_text([record])
        assert text == f"{summary_table([record])}\n{summary_notes([record])}"
        assert "#" not in text


def test_tables_of_several_applications_follow_each_other(make_record, make_video_record):
    two = summary_table([make_video_record(), make_record(), make_video_record("p2sc2")])
    videos, neurons = two.split("\n\n")
    assert [row[0] for row in rows(videos)] == ["3d", "p2sc2", "chance"]
    assert [row[0] for row in rows(neurons)] == ["3d", "no network"]
