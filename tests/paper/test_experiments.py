"""runs.yaml: every row composes, and every mistake is named with file, row and key."""

import pytest

from psc.errors import ConfigError, DataError
from psc.paper.experiments import EXPERIMENTS, read_experiment, table_names


def test_rows_and_protocols_together_are_what_train_is_given(experiment_folder):
    experiment = read_experiment(experiment_folder)
    assert experiment.name == "table-0"
    assert [row.name for row in experiment.rows] == ["3d", "p2sc2", "other"]
    assert [protocol.kind for protocol in experiment.protocols] == ["paper", "reduced"]
    planned = experiment.protocol("cpu").rows[1]
    assert planned.command(1) == (
        "python train.py backbone=unet block=p2sc2 budget=quick dataset=fibsem_sample seed=1"
    )
    assert planned.config.block.n == 2
    assert planned.config.recipe.iterations == 1200
    with pytest.raises(ConfigError, match="no protocol 'gpu', only paper, cpu"):
        experiment.protocol("gpu")


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
