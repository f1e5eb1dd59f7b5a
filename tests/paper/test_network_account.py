"""scripts/account.py: one real call, its formats, and what it refuses."""

import copy
import json
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf

from psc.config.compose import CONFIG_DIRECTORY, register
from psc.errors import ConfigError
from psc.paper.account import (
    OTHER_FORM,
    compare_with_published,
    compose_account,
    network_account,
    to_account,
)
from psc.paper.published import CALIBRATED

ROOT = Path(__file__).parents[2]


def test_the_script_prints_the_account(program):
    done = program("scripts/account.py", "backbone=unet", "block=p2sc2")
    assert done.code == 0, done.errors
    for text in (
        "15,698,611 learnable",
        "75,466,317,624 = 75.5 G",
        "150,932,635,248; counted by torch: the same",
        "100×100×100 (D, H, W)",
        "1×3×44×44×44",
    ):
        assert text in done.output
    assert not list(ROOT.glob(".hydra"))


def summary(*overrides):
    return network_account(compose_account(overrides))


def test_markdown_has_a_row_per_layer():
    text = summary(
        "format=markdown", "backbone.base_width=2", "backbone.depth=1", "block=3d", "input_size=20"
    )
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + 6 + 1 + 1 + 1  # header, three levels, transposed, 1×1×1, head
    assert rows[2] == (
        "| encoder.0.layers.conv_1.conv | Conv3d | 3×3×3 | 1×1×1 | 1 | 1→2 | 1×2×18×18×18 | 56 "
        "| 314,928 |"
    )
    assert f"- verdict: {OTHER_FORM}" in text


def test_json_holds_the_same():
    held = json.loads(
        summary("format=json", "backbone=densenet", "block=p1sc1", "input_size=[16,16,32]")
    )
    assert held["parameters"] == 1_832_342 == sum(row["parameters"] for row in held["layers"])
    assert held["flops"] == 2 * held["multiply_adds"] == held["counted_flops"]
    assert held["input_shape"] == [1, 1, 16, 16, 32]
    assert held["activation_bytes"]["saved"] > held["activation_bytes"]["largest"] > 0
    assert held["comparison"]["verdict"] == "the paper does not say"
    assert held["block"]["name"] == "p1sc1"


def verdict(parameters, *overrides):
    return compare_with_published(compose_account(overrides), parameters).verdict


def test_the_calibration_is_labelled():
    found = verdict(33_027_525, "backbone=resnet34", "block=p2sc3_calibrated")
    assert found == f"match: {CALIBRATED}"


def test_a_network_under_a_known_name_but_changed_is_not_compared():
    assert verdict(15_698_611) == "match"
    assert verdict(15_698_611, "block=psc") == "match"  # it is p2sc2
    for change in ("backbone.base_width=23", "block.maximum_width=200", "block.m=1"):
        assert verdict(15_698_611, change) == OTHER_FORM
    assert verdict(15_698_611, "block=psc", "block.m=3", "block.n=1") == OTHER_FORM


def test_a_batch_is_counted():
    small = ("format=json", "backbone.base_width=2", "backbone.depth=1", "input_size=20")
    one, two = (json.loads(summary(*small, f"batch_size={n}")) for n in (1, 2))
    assert two["multiply_adds"] == 2 * one["multiply_adds"]
    assert two["activation_bytes"]["saved"] == 2 * one["activation_bytes"]["saved"]


def test_an_input_too_small_to_train_on_still_has_its_account():
    text = summary("backbone=resnet18", "block=3d", "input_size=[8,16,16]")
    assert "33,218,085 learnable" in text
    assert "too small an input for batch norm" in text


@pytest.fixture(scope="module")
def composed():
    """The configuration of scripts/account.py without overrides, not checked."""
    register()
    with initialize_config_dir(str(CONFIG_DIRECTORY), version_base="1.3"):
        return compose("account")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("input_size=131", "nearest valid sizes: 124"),
        ("input_size=0", "from 1 on"),
        ("input_size=1.5", "from 1 on"),
        ("input_size=[64,64]", "from 1 on"),
        ("input_size=true", "from 1 on"),
        ("batch_size=0", "batch_size=0: must be at least 1"),
        ("format=xml", "allowed are text, markdown, json"),
        ("into=README.md", "needs table=true"),
        ("block.m=4", "allowed are 1, 2 and 3"),
        ("backbone.depth=0", "backbone.depth"),
    ],
)
def test_values_that_cannot_work_are_refused(composed, override, message):
    key, value = override.split("=")
    config = copy.deepcopy(composed)
    OmegaConf.update(config, key, yaml.safe_load(value))
    with pytest.raises(ConfigError, match=message):
        network_account(to_account(config))


def test_a_file_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="is not a file"):
        compose_account(["table=true", "into=nowhere.md"])


@pytest.mark.parametrize(
    ("override", "known"), [("block=p9", "p2sc3_calibrated"), ("backbone=vgg", "densenet_bui")]
)
def test_unknown_names_list_the_known_ones(override, known):
    with pytest.raises(HydraException, match=known):
        compose_account([override])
