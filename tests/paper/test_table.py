"""Cells are means of records, and nothing else fills one."""

import csv
import io
import math
import shutil
from dataclasses import asdict, replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from psc.errors import ConfigError, DataError
from psc.networks.build import network_on_meta
from psc.paper.experiments import RecordedRun, chosen_tables, read_experiment, read_records
from psc.paper.table import (
    claims,
    make_tables,
    origins,
    results,
    tables_of,
    to_csv,
    to_latex,
    to_markdown,
    write_tables,
)
from psc.paper.text import escape


def cells(table):
    """Cell by row and column heading."""
    header, *lines = results(table)
    return {
        (line[0], name): cell for line in lines for name, cell in zip(header, line, strict=True)
    }


def test_without_records_every_cell_of_ours_says_so(experiment_folder):
    paper, reduced = tables_of(experiment_folder)
    found = cells(paper)
    assert found["3D", "VI sum [bits], paper"] == "1.5"
    assert found["(2,2)", "VI sum [bits], paper"] == "unknown"
    assert found["Others_1", "VI sum [bits], paper"] == "2.5"
    for row in ("3D", "(2,2)"):
        assert found[row, "VI sum [bits], ours"] == "not run"
        assert found[row, "seeds"] == "none of 0, 1"
        assert cells(reduced)[row, "VI split"] == "not run"
    assert found["Others_1", "VI sum [bits], ours"] == "–"
    assert found["3D", "parameters, ours"] == "309,475"  # unet/quick, as its records have it
    assert found["(2,2)", "MACs"] == "1.4 G"
    assert len(origins(paper)) == len(origins(reduced)) == 1
    assert [line[1:3] for line in claims(paper)[1:]] == [("−40 %", "not run"), ("−38 %", "−37.8 %")]


def test_mean_and_deviation_over_seeds(experiment_folder, add_record):
    totals = (1.25, 1.75)
    for seed, total in enumerate(totals):
        add_record("3d", "paper", seed=seed, total=total, kind="real")
    add_record("p2sc2", "paper", seed=1, total=0.75, kind="real")
    paper, reduced = tables_of(experiment_folder)
    found = cells(paper)
    middle = sum(totals) / 2
    deviation = math.sqrt(sum((total - middle) ** 2 for total in totals))  # n − 1 = 1
    assert found["3D", "VI sum [bits], ours"] == f"{middle:.3f} ± {deviation:.3f}"
    assert found["3D", "seeds"] == "0, 1"
    assert found["(2,2)", "VI sum [bits], ours"] == "0.750"
    assert found["(2,2)", "seeds"] == "1 of 0, 1"
    assert found["no network", "VI sum [bits], ours"] == "4.000"
    assert claims(paper)[1][2] == "−50.0 %"
    assert {cell for (_, name), cell in cells(reduced).items() if name == "VI split"} == {"not run"}
    runs = {line[0]: line for line in origins(paper)[1:]}
    assert runs["3D"][1] == "paper-3d-seed0-aaaa, paper-3d-seed1-aaaa"
    assert runs["3D"][3:] == ("aaaaaaaa", "some CPU", "7", "real: fibsem")


def test_what_a_training_took(experiment_folder, add_record):
    """Against what PyTorch counts in one step of the same network."""
    for seed, seconds in enumerate((60.0, 180.0)):
        timed = {"training": seconds, "evaluation": 9.0}
        add_record("3d", "cpu", seed=seed, wall_seconds=timed, iterations=500_000)
    found = cells(tables_of(experiment_folder)[1])
    assert found["3D", "minutes"] == "2"
    assert found["(2,2)", "minutes"] == found["(2,2)", "PFLOP"] == "–"
    config = read_experiment(experiment_folder).protocol("cpu").rows[0].config
    network = network_on_meta(config.backbone, config.block)
    shape = config.recipe.sample_shape(network)
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(shape, device="meta", requires_grad=True)).sum().backward()
    expected = counter.get_total_flops() * config.recipe.batch_size * 500_000 / 1e15
    assert float(found["3D", "PFLOP"]) == pytest.approx(expected, rel=5e-3)
    timed, not_run = csv.DictReader(io.StringIO(to_csv(tables_of(experiment_folder)[1])))
    assert float(timed["training_flops"]) == pytest.approx(1e15 * expected)
    assert float(timed["training_minutes"]) == 2.0
    assert not_run["training_flops"] == not_run["training_minutes"] == ""


def test_a_reduced_record_never_fills_a_cell_of_the_papers(experiment_folder, add_record):
    add_record("3d", "cpu", total=2.0)
    paper, reduced = tables_of(experiment_folder)
    assert cells(paper)["3D", "VI sum [bits], ours"] == "not run"
    assert cells(reduced)["3D", "VI sum [bits]"] == "2.000"
    assert not any("paper" in heading for heading in results(reduced)[0])
    assert "Real sample, reduced protocol" in to_markdown([paper, reduced])
    assert "_paper" not in to_csv(reduced)
    assert "_paper" in to_csv(paper)


def test_deleting_a_record_empties_its_cell(experiment_folder, add_record):
    path = add_record("3d", "paper", total=2.0, kind="real")
    assert cells(tables_of(experiment_folder)[0])["3D", "VI sum [bits], ours"] == "2.000"
    shutil.rmtree(path.parent)
    assert cells(tables_of(experiment_folder)[0])["3D", "VI sum [bits], ours"] == "not run"


def test_versions_of_the_code_are_never_averaged(experiment_folder, add_record):
    add_record(seed=0, total=1.0)
    add_record(seed=1, total=3.0, commit="b" * 40)
    _, reduced = tables_of(experiment_folder)
    lines = [line for line in results(reduced) if line[0] == "3D"]
    assert [line[5] for line in lines] == ["1.000", "3.000"]


def test_one_seed_does_not_count_twice(experiment_folder, add_record):
    add_record()
    add_record(run="another")
    with pytest.raises(DataError, match="are of one row and one seed; delete one"):
        tables_of(experiment_folder)


def test_multiply_adds_of_another_network_are_not_told(experiment_folder, add_record):
    add_record(parameters=5)
    _, reduced = tables_of(experiment_folder)
    assert (cells(reduced)["3D", "parameters"], cells(reduced)["3D", "MACs"]) == ("5", "–")


def test_synthetic_records_have_a_table_of_their_own_and_only_then(experiment_folder, add_record):
    text = (experiment_folder / "runs.yaml").read_text()
    (experiment_folder / "runs.yaml").write_text(
        f"{text}synthetic:\n  - name: demo\n    title: toy\n    seeds: [0]\n    rows: [3d]\n"
        "    overrides: [budget=quick, dataset=fibsem_synthetic]\n"
    )
    assert len(tables_of(experiment_folder)) == 2
    add_record("3d", "demo", kind="synthetic", total=0.125)
    *others, synthetic = tables_of(experiment_folder)
    assert cells(synthetic)["3D", "VI sum [bits]"] == "0.125"
    assert "0.125" not in to_markdown(others)
    assert "Synthetic data: plumbing only" in to_markdown([synthetic])


def test_csv_is_unrounded(experiment_folder, add_record):
    for seed, total in enumerate((1.0, 2.0000001)):
        add_record(seed=seed, total=total)
    paper, reduced = tables_of(experiment_folder)
    rows = {row["row"]: row for row in csv.DictReader(io.StringIO(to_csv(reduced)))}
    assert float(rows["3d"]["vi_sum_mean"]) == pytest.approx(1.50000005, abs=1e-12)
    assert float(rows["3d"]["vi_sum_sd"]) == pytest.approx(1.0000001 / math.sqrt(2), abs=1e-12)
    assert [rows[name]["status"] for name in ("3d", "p2sc2")] == ["run", "not run"]
    paper_rows = {row["row"]: row for row in csv.DictReader(io.StringIO(to_csv(paper)))}
    assert paper_rows["3d"]["vi_sum_paper"] == "1.5"
    assert paper_rows["other"]["status"] == "quoted"
    assert paper_rows["3d"]["vi_sum_mean"] == ""


def test_latex_is_balanced_and_escaped(experiment_folder, add_record):
    for seed in (0, 1):
        add_record("3d", "paper", seed=seed, total=1.5 + seed, kind="real")
    text = to_latex(tables_of(experiment_folder)[0])
    assert text.isascii()
    assert r"Others\_1" in text
    assert r"2.000 $\pm$ 0.707" in text
    for environment in ("table", "tabular"):
        assert text.count(rf"\begin{{{environment}}}") == text.count(rf"\end{{{environment}}}") == 1
    assert text.count("{") == text.count("}")
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    columns = text.split(r"\begin{tabular}{")[1].split("}")[0]
    assert {line.replace(r"\&", "").count("&") for line in rows} == {len(columns) - 1}


def test_every_special_character_is_escaped():
    assert escape("50 % of a_b & c #1 {x} ~ ^ \\") == (
        r"50 \% of a\_b \& c \#1 \{x\} \textasciitilde{} \textasciicircum{} \textbackslash{}"
    )
    assert escape("† 64³ − –") == r"$\dagger$ 64$^3$ $-$ --"


def test_files(experiment_folder, tmp_path):
    folder = tmp_path / "build"
    folder.mkdir()
    (folder / "table-0-gone.csv").write_text("of a protocol that is no more")
    written = write_tables(tables_of(experiment_folder), folder)
    names = {"table-0.md", "table-0.csv", "table-0.tex", "table-0-cpu.csv", "table-0-cpu.tex"}
    assert {path.name for path in folder.iterdir()} == names
    assert {path.name for path in written} == names


def test_a_table_that_does_not_exist():
    with pytest.raises(ConfigError, match=r"table-7: there is no such table .*table-4b, table-5d"):
        chosen_tables(["table-7"])
    assert chosen_tables([]) == ["table-4b", "table-5d", "table-6d"]


def test_tables_have_the_records_that_they_were_given(experiment_folder, add_record):
    add_record()
    experiment = read_experiment(experiment_folder)
    runs = read_records(experiment)
    (line,) = [line for line in make_tables(experiment, runs)[1].lines if line.runs]
    assert line.runs == runs


def test_a_cross_validation_is_scored_over_all_subjects_with_and_without_network(
    tmp_path, make_tissue_record
):
    (tmp_path / "runs.yaml").write_text(
        "title: t\nrows:\n  - {row: 3d, label: 3D, overrides: [backbone=densenet, block=3d]}\n"
        "paper: {title: p, seeds: [0], overrides: [budget=quick, dataset=ibsr]}\n"
        "reduced:\n  - name: folds\n    title: f\n    seeds: [0]\n    rows: [3d]\n"
        "    overrides: [budget=quick, dataset=ibsr_sample, dataset.folds=2]\n"
    )
    (tmp_path / "paper.csv").write_text("row,metric,against,value,unit,place\n")
    experiment = read_experiment(tmp_path)
    protocol = experiment.protocol("folds")
    (planned,) = protocol.rows
    runs = []
    for fold, (name, dice, floor) in enumerate((("a", 0.5, 0.25), ("b", 0.75, 0.5))):
        made = make_tissue_record()
        config = asdict(planned.config)
        config["dataset"]["fold"] = fold
        tissues = [key for key in made.metrics["test"] if key.startswith("dice")]
        metrics = made.metrics | {"subjects": {name: dict.fromkeys(tissues, dice)}}
        metrics["baseline"] = metrics["baseline"] | {
            "subjects": {name: dict.fromkeys(tissues, floor)}
        }
        splits = {"train": ["b" if name == "a" else "a"], "validation": [], "test": [name]}
        record = replace(made, config=config, metrics=metrics, data=made.data | {"splits": splits})
        runs.append(RecordedRun(tmp_path / str(fold), record, protocol, planned))
    table = next(t for t in make_tables(experiment, runs) if t.protocol is protocol)
    found = cells(table)
    assert found["3D", "Dice GM [%]"] == "62.5 ± 17.7"
    assert found["intensity alone", "Dice GM [%]"] == "37.5 ± 17.7"
    assert found["3D", "seeds"] == "0 (folds 0, 1 of 2: 2 subjects)"
    assert "over the subjects that the folds tested" in table.legend
    table = next(t for t in make_tables(experiment, runs[1:]) if t.protocol is protocol)
    assert cells(table)["3D", "seeds"] == "0 (folds 1 of 2: 1 subject; 1 of 2 runs)"
