import json
import multiprocessing
import shutil
import time
from dataclasses import dataclass, field

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from known_affinities import FromArray, content, whole

from psc.blockwise import engine as engine_module
from psc.blockwise.engine import Engine
from psc.blockwise.grid import Grid
from psc.blockwise.images import StoredArray, dequantised, quantised
from psc.blockwise.pipeline import BlockwiseOptions, halved_mode, segment_blockwise
from psc.em.settings import SegmentationConfig
from psc.em.watershed import agglomerate, fragments_of
from psc.errors import ConfigError, DataError
from psc.metrics import segmentation_scores

HERE = Engine(progress=False)


@dataclass(eq=False)
class Counted:
    """Affinities that note what they were asked for."""

    affinities: np.ndarray
    asked: list = field(default_factory=list)

    def __call__(self, box):
        self.asked.append(box)
        return self.affinities[(slice(None), *box)]


def vi(one, two):
    score = segmentation_scores(one.astype(np.uint64), two)
    return score.split + score.merge


@pytest.fixture(scope="module")
def whole_fragments(neuropil):
    return fragments_of(neuropil[1], SegmentationConfig())


@pytest.mark.parametrize("scoring", ["hist_quant_50", "mean"])
def test_seams_leave_no_trace(neuropil, whole_fragments, options, tmp_path, scoring):
    labels, affinities = neuropil
    ((_, expected),) = agglomerate(affinities, whole_fragments, [0.4], scoring=scoring)
    grid = Grid(labels.shape, (40, 40, 40))
    result = segment_blockwise(
        FromArray(affinities), {}, grid, options(scoring=scoring), tmp_path / "out", engine=HERE
    )
    found = result.segmentation[0].read(whole(labels.shape))
    assert len(grid) == 8
    assert result.counts["joined"] > 20
    assert vi(expected, found) <= 0.02
    # without joining at seams every fragment that crosses one is two
    assert vi(whole_fragments, result.fragments.read(whole(labels.shape))) > 0.5
    assert np.array_equal(np.unique(found), np.arange(1, result.counts["segments"] + 1))


@pytest.mark.parametrize("scoring", ["hist_quant_50", "aff50_his256"])
def test_one_block_gives_the_very_segmentation_of_the_whole(neuropil, options, tmp_path, scoring):
    _, affinities = neuropil
    part = affinities[:, :40, :41, :39]
    fragments = fragments_of(part, SegmentationConfig())
    ((_, expected),) = agglomerate(part, fragments, [0.3], scoring=scoring)
    result = segment_blockwise(  # smaller than one block
        FromArray(part),
        {},
        Grid(part.shape[1:], (64, 64, 64)),
        options(0.3, scoring),
        tmp_path / "out",
        engine=HERE,
    )
    assert len(result.segmentation) == 1
    assert vi(expected, result.segmentation[0].read(whole(part.shape[1:]))) == 0


@settings(max_examples=3)
@given(st.tuples(*[st.integers(20, 44)] * 3), st.tuples(*[st.integers(16, 40)] * 3))
def test_any_shape_and_block_size_gives_the_same_up_to_little(
    neuropil, tmp_path_factory, shape, core
):
    _, affinities = neuropil
    part = np.ascontiguousarray(affinities[(slice(None), *whole(shape))])
    fragments = fragments_of(part, SegmentationConfig())
    ((_, expected),) = agglomerate(part, fragments, [0.5], scoring="hist_quant_50")
    result = segment_blockwise(
        FromArray(part),
        {},
        Grid(shape, core),
        BlockwiseOptions(
            segmentation=SegmentationConfig(scoring="hist_quant_50"), threshold=0.5, context=24
        ),
        tmp_path_factory.mktemp("random") / "out",
        engine=HERE,
    )
    assert np.array_equal(result.affinities.read(whole(shape)), quantised(part))
    assert vi(expected, result.segmentation[0].read(whole(shape))) <= 0.02


def test_kill_minus_9_and_start_again_gives_the_same_bytes(
    small_case, options, tmp_path, whole_content
):
    source, grid = small_case
    output = tmp_path / "killed"

    def slowly(box):
        time.sleep(0.2)
        return source(box)

    process = multiprocessing.get_context("fork").Process(
        target=lambda: segment_blockwise(slowly, {}, grid, options(), output, engine=HERE)
    )
    process.start()
    markers = output / "work" / "done" / "affinities"
    while len(list(markers.glob("[0-9]*.json"))) < 3:
        assert process.is_alive()
        time.sleep(0.02)
    process.kill()
    process.join()
    done = {int(path.stem) for path in markers.glob("[0-9]*.json")}
    assert 3 <= len(done) < len(grid)
    again = Counted(source.affinities)
    segment_blockwise(again, {}, grid, options(), output, engine=HERE)
    assert again.asked == [block.core for block in grid if block.index not in done]
    assert content(output) == whole_content


@pytest.mark.parametrize("stage", ["fragments", "graph", "agglomeration", "segmentation"])
def test_an_interruption_in_any_stage_loses_nothing(
    small_case, options, tmp_path, monkeypatch, whole_content, stage
):
    source, grid = small_case
    mark, marked = engine_module.Ledger.mark, []

    def interrupted(ledger, name, index, report):
        marked.append(name)
        if name == stage and marked.count(stage) == (1 if stage == "agglomeration" else 3):
            raise KeyboardInterrupt  # data are written, the marker is not
        mark(ledger, name, index, report)

    with monkeypatch.context() as patch:
        patch.setattr(engine_module.Ledger, "mark", interrupted)
        with pytest.raises(KeyboardInterrupt):
            segment_blockwise(source, {}, grid, options(), tmp_path / "out", engine=HERE)
    again = Counted(source.affinities)
    segment_blockwise(again, {}, grid, options(), tmp_path / "out", engine=HERE)
    assert again.asked == []
    assert content(tmp_path / "out") == whole_content


def test_a_full_disk_is_told_and_loses_nothing(
    small_case, options, tmp_path, monkeypatch, whole_content
):
    source, grid = small_case
    write, written = StoredArray.write, []

    def full(array, box, values):
        if len(written) == 11:
            raise OSError(28, "No space left on device")
        written.append(box)
        write(array, box, values)

    with monkeypatch.context() as patch:
        patch.setattr(StoredArray, "write", full)
        with pytest.raises(DataError, match=r"disk is full.*run the same command again"):
            segment_blockwise(source, {}, grid, options(), tmp_path / "out", engine=HERE)
    again = Counted(source.affinities)
    segment_blockwise(again, {}, grid, options(), tmp_path / "out", engine=HERE)
    assert again.asked == []
    assert content(tmp_path / "out") == whole_content


@pytest.mark.parametrize(
    ("product", "asked_again"),
    [
        ("affinities.zarr", True),
        ("affinities.zarr/0", True),
        ("fragments.zarr", False),
        ("segmentation.zarr/0", False),
        ("segmentation.zarr/1", False),
    ],
)
def test_what_was_deleted_meanwhile_is_made_again(
    small_case, options, tmp_path, whole_content, caplog, product, asked_again
):
    """What is not there would be read as zeros."""
    source, grid = small_case
    output = tmp_path / "out"
    segment_blockwise(source, {}, grid, options(), output, engine=HERE)
    (output / "summary.json").unlink()  # as if it had been interrupted at the end
    shutil.rmtree(output / product)
    (output / "work/done/fragments/1.json").write_text("")  # a machine that crashed
    (output / "work/done/fragments/2.json").write_bytes(b"\0" * 20)
    again = Counted(source.affinities)
    segment_blockwise(again, {}, grid, options(), output, engine=HERE)
    assert content(output) == whole_content
    assert len(again.asked) == (len(grid) if asked_again else 0)
    assert f"{product} is gone" in caplog.text


def test_an_output_is_replaced_only_when_asked_and_only_as_far_as_needed(
    small_case, options, tmp_path
):
    source, grid = small_case
    output = tmp_path / "out"

    def run(made=None, inputs=None, **keywords):
        counted = Counted(source.affinities)
        result = segment_blockwise(
            counted, inputs or {}, grid, made or options(), output, engine=HERE, **keywords
        )
        return counted.asked, result

    asked, first = run()
    assert len(asked) == len(grid)
    before = content(output)
    for changes in ({}, {"made": options(0.9)}, {"inputs": {"weights": "others"}}):
        with pytest.raises(ConfigError, match="overwrite=true"):
            run(**changes)
        assert content(output) == before
    with pytest.raises(ConfigError, match=r"threshold: 0\.4 there, 0\.9 now"):
        run(options(0.9))
    asked, second = run(options(0.9), overwrite=True)
    assert asked == []  # affinities and fragments are those of before
    assert second.counts["segments"] < first.counts["segments"]
    run(overwrite=True)
    assert content(output) == before
    asked, _ = run(overwrite=True)  # the same once more: everything anew
    assert len(asked) == len(grid)
    asked, _ = run(inputs={"weights": "others"}, overwrite=True)
    assert len(asked) == len(grid)


def test_nothing_of_others_is_removed(small_case, options, tmp_path):
    source, grid = small_case
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years")
    with pytest.raises(ConfigError, match=r"thesis\.tex and was not written by this program"):
        segment_blockwise(
            source, {}, grid, options(), tmp_path / "mine", engine=HERE, overwrite=True
        )
    with pytest.raises(ConfigError, match="is a file"):
        segment_blockwise(
            source, {}, grid, options(), tmp_path / "mine/thesis.tex", engine=HERE, overwrite=True
        )
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years"


def test_two_at_once_in_one_folder_are_refused(small_case, options, tmp_path):
    source, grid = small_case

    def meanwhile(box):
        with pytest.raises(ConfigError, match="is at work there"):
            segment_blockwise(source, {}, grid, options(), tmp_path / "out", engine=HERE)
        return source(box)

    segment_blockwise(meanwhile, {}, grid, options(), tmp_path / "out", engine=HERE)


def test_affinities_that_are_none_are_refused(small_case, options, tmp_path):
    source, grid = small_case
    for wrong in (source.affinities[:2], source.affinities + np.nan, source.affinities * 2):
        with pytest.raises(DataError, match=r"expected affinities \(3, 12, 12, 12\) in \[0, 1\]"):
            segment_blockwise(FromArray(wrong), {}, grid, options(), tmp_path / "o", engine=HERE)
        assert not (tmp_path / "o" / "summary.json").exists()


def test_the_output_is_ome_zarr(small_case, options, tmp_path):
    source, grid = small_case
    result = segment_blockwise(
        source, {}, grid, options(), tmp_path / "out", engine=HERE, voxel_size=(40.0, 4.0, 4.0)
    )
    group = zarr.open_group(str(tmp_path / "out" / "segmentation.zarr"), mode="r")
    ome = group.attrs["ome"]
    assert ome["version"] == "0.5"
    assert "image-label" in ome
    (multiscale,) = ome["multiscales"]
    assert [axis["name"] for axis in multiscale["axes"]] == ["z", "y", "x"]
    assert {axis["unit"] for axis in multiscale["axes"]} == {"nanometer"}
    paths = [level["path"] for level in multiscale["datasets"]]
    assert paths == ["0", "1"]  # coarser ones would fit into one block
    scale, shift = multiscale["datasets"][1]["coordinateTransformations"]
    assert scale == {"type": "scale", "scale": [80.0, 8.0, 8.0]}
    assert shift == {"type": "translation", "translation": [20.0, 2.0, 2.0]}
    fine, coarse = group["0"][...], group["1"][...]
    assert fine.dtype == np.uint64
    assert np.array_equal(coarse, halved_mode(fine))
    affinities = zarr.open_group(str(tmp_path / "out" / "affinities.zarr"), mode="r")
    (channels,) = affinities.attrs["ome"]["multiscales"]
    assert [axis["name"] for axis in channels["axes"]] == ["c", "z", "y", "x"]
    assert np.allclose(dequantised(affinities["0"][...]), source.affinities, atol=1e-6)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["segments"] == result.counts["segments"] == fine.max()


def test_options_that_cannot_work_are_refused(options):
    for changes, message in (
        ({"threshold": 1.5}, "threshold=1.5"),
        ({"context": 0}, "context=0"),
        ({"levels": 0}, "levels=0"),
    ):
        with pytest.raises(ConfigError, match=message):
            options(**changes)
