"""runs.yaml and paper.csv: every row composes, and every mistake is named."""

import pytest

from psc.errors import ConfigError, DataError
from psc.paper.experiments import EXPERIMENTS, read_experiment, table_names
from psc.paper.published import COLUMNS, FIGURE_4B, MILLION, RELATIONS, SIZES, read_published
from psc.paper.table import tables_of


def test_rows_and_protocols_together_are_what_train_is_given(experiment_folder):
    experiment = read_experiment(experiment_folder)
    assert experiment.name == "table-0"
    assert [row.name for row in experiment.rows] == ["3d", "p2sc2", "other"]
    assert [protocol.kind for protocol in experiment.protocols] == ["paper", "reduced"]
    planned = experiment.protocol("cpu").rows[1]
    given = "backbone=unet block=p2sc2 budget=quick dataset=fibsem_sample trainer.precision=32-true"
    assert list(planned.overrides) == given.split()
    assert planned.config.block.n == 2
    assert planned.config.recipe.iterations == 1200
    with pytest.raises(ConfigError, match="no protocol 'gpu', only paper, cpu"):
        experiment.protocol("gpu")


def test_a_row_may_have_seeds_and_overrides_of_its_own_and_not_be_in_the_papers_table(
    experiment_folder,
):
    path = experiment_folder / "runs.yaml"
    ablation = (
        '  - {row: sum, label: "sum", paper: false, overrides: [block=p2sc2, block.merge=sum]}'
    )
    text = path.read_text().replace(
        "rows: [3d, p2sc2]", "rows: [3d, {row: sum, seeds: [7], overrides: [recipe.batch_size=3]}]"
    )
    path.write_text(text.replace("  - {row: other", f"{ablation}\n  - {{row: other"))
    paper, cpu = read_experiment(experiment_folder).protocols
    assert [planned.row.name for planned in paper.rows] == ["3d", "p2sc2"]
    assert [(planned.row.name, planned.seeds) for planned in cpu.rows] == [
        ("3d", (0, 1)),
        ("sum", (7,)),
    ]
    assert [planned.config.recipe.batch_size for planned in cpu.rows] == [2, 3]
    table, reduced = tables_of(experiment_folder)
    assert [line.row.name for line in table.lines] == ["3d", "p2sc2", "other"]
    assert [line.row.name for line in reduced.lines] == ["3d", "sum"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("dataset=fibsem,", "dataset=fibsem, recipe.itrations=1,", r"paper, row 3d: .*itrations"),
        ("block=p2sc2", "block=p2sc9", r"protocol paper, row p2sc2: .*p2sc9"),
        ("budget=quick, dataset=fibsem,", "dataset=fibsem,", r"must say budget=…"),
        ("recipe.iterations=7", "seed=7", "seed belongs into seeds"),
        ("row: p2sc2", "row: 3d", "row 3d: there are two rows of this name"),
        ("block=p2sc2", "block=3d", "row p2sc2 of protocol paper and row 3d .* the same config"),
        ("rows: [3d, p2sc2]", "rows: [3d, p9]", "protocol cpu: row 'p9' is not one of 3d, p2sc2"),
        ("rows: [3d, p2sc2]", "rows: [3d, 3d]", "named twice"),
        ("rows: [3d, p2sc2]", "rows: [3d, other]", "row 'other' is not one of"),
        ("rows: [3d, p2sc2]", "rows: [3d, 3]", "row 3 is not one of"),
        (
            "rows: [3d, p2sc2]",
            "rows: [{row: 3d, seeds: [1, 1]}]",
            "cpu: seeds must be a list of different",
        ),
        ('quoted: "quoted"}', "quoted: x, paper: 1}", "paper must be true or false, not 1"),
        ("seeds: [0, 1]\nreduced", "seeds: [0, 0]\nreduced", "seeds must be a list of different"),
        ("seeds: [0, 1]\nreduced", "seeds: []\nreduced", "seeds must be"),
        ("reduced:", "reducd:", "unknown key 'reducd'; known: title, rows, paper"),
        ('title: "Table 0"', "", "the key title is missing"),
        ('label: "3D"', "label: 3", "row 3d: label must be text, not 3; quote it"),
        ("paper:\n", "paper: [\n", "cannot be read"),
        ("  - name: cpu", "  - name: paper", "two protocols have one name"),
    ],
)
def test_a_mistake_is_named(experiment_folder, old, new, message):
    path = experiment_folder / "runs.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(DataError, match=message) as caught:
        read_experiment(experiment_folder)
    assert "runs.yaml" in str(caught.value)


def test_every_table_and_figure_of_the_paper_has_its_folder():
    assert table_names() == ["table-4b", "table-5d", "table-6d"]
    for name in ("figure-1", "figure-2", "figure-3", "figure-4a", "figure-5", "figure-6"):
        assert (EXPERIMENTS / name / "README.md").is_file()
    for name in table_names():
        assert (EXPERIMENTS / name / "README.md").is_file()


HEADER = ",".join(COLUMNS)


def read(tmp_path, *lines, header=HEADER):
    path = tmp_path / "paper.csv"
    path.write_text("\n".join((header, *lines)) + "\n")
    return read_published(path, ["3d", "p2sc2"], ["parameters", "top1"])


def test_numbers_and_what_only_an_image_holds(tmp_path):
    cells = read(
        tmp_path,
        "3d,top1,,85.4,%,Figure 4b",
        "3d,parameters,,64,M,Figure 4b",
        "p2sc2,top1,,unknown,unknown,an image",
        "p2sc2,parameters,3d,-40,%,Section 4.3",
    )
    assert [cell.value for cell in cells] == [85.4, 64.0, None, -40.0]
    assert [cell.text for cell in cells] == ["85.4", "64 M", "unknown", "-40"]
    assert [cell.against for cell in cells] == [None, None, None, "3d"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("3d,top1,,85.4 %,%,here", r"line 2: value '85.4 %' is neither a number nor unknown"),
        ("3d,top1,,nan,%,here", "neither a number"),
        ("3d,top1,,8_5,%,here", "neither a number"),
        ("3d,top1,,,%,here", "value '' is neither"),
        ("4d,top1,,85.4,%,here", "row '4d' is not one of 3d, p2sc2"),
        ("3d,top2,,85.4,%,here", "metric 'top2' is not one of parameters, top1"),
        ("3d,top1,9d,85.4,%,here", r"against '9d' is not one of 3d, p2sc2, \(nothing\)"),
        ("3d,top1,,85.4,km,here", "unit 'km' is not one of"),
        ("3d,top1,,85.4,unknown,here", "the number 85.4 has no unit"),
        ("3d,parameters,p2sc2,3,M,here", "a comparison with another row is in %"),
        ("3d,top1,,85.4,%,", "say at which place"),
        ("3d,top1,,85.4,%", "has 6 values"),
        ("3d,top1,,85.4,%,here,there", "has 6 values"),
        ("3d,top1,,1,%,here\n3d,top1,,2,%,here", "line 3: 3d, top1 is there already"),
    ],
)
def test_what_does_not_parse_is_named(tmp_path, line, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, line)


def test_another_header_is_refused(tmp_path):
    with pytest.raises(DataError, match=f"first line must be {HEADER}"):
        read(tmp_path, header="row,value")


def test_sizes_of_figure_4b_are_those_that_the_accounts_are_compared_with():
    rows = ["p3d", "3d", "p1sc1_pretrained", "p1sc1", "p2sc2", "p2sc3"]
    cells = read_published(EXPERIMENTS / "table-4b" / "paper.csv", rows, ["parameters", "top1"])
    printed = {cell.row: cell.value for cell in cells if cell.metric == "parameters"}
    known = {
        block: size.parameters / MILLION
        for (backbone, block), size in SIZES.items()
        if backbone == "resnet34" and size.source == FIGURE_4B and not size.calibrated
    }
    assert {block: printed[block] for block in known} == known


@pytest.mark.parametrize(
    ("table", "networks"),
    [
        ("table-5d", {"p2sc3": ("densenet", "p2sc3"), "bui": ("densenet_bui", "3d")}),
        ("table-6d", {"p2sc2": ("unet", "p2sc2"), "3d": ("unet", "3d")}),
    ],
)
def test_relations_are_those_that_the_accounts_are_compared_with(table, networks):
    metrics = ["parameters", *(f"dice_{name}" for name in ("gm", "wm", "csf"))]
    metrics += ["split", "merge", "total"]
    path = EXPERIMENTS / table / "paper.csv"
    cells = read_published(path, ["bui", "3d", "p1sc1", "p2sc2", "p2sc3"], metrics)
    stated = {
        (networks[cell.row], networks[cell.against]): cell.value
        for cell in cells
        if cell.metric == "parameters" and cell.value is not None and cell.against
    }
    assert len(stated) == 1
    assert stated.items() <= {(r.network, r.other): r.percent for r in RELATIONS}.items()
