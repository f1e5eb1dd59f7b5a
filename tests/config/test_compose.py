"""Every file of configs/ composes and builds; what cannot work is refused before any data."""

import copy
import functools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from psc import PSCBlock
from psc.config import choices, compose
from psc.config.checks import check_train
from psc.config.compose import CONFIG_DIRECTORY, register, to_typed
from psc.errors import CheckpointError, ConfigError
from psc.networks.build import (
    build_network,
    build_network_on_meta,
    paper_input_shape,
)
from psc.paper.account import compose_account


def names(group):
    return sorted(path.stem for path in (CONFIG_DIRECTORY / group).glob("*.yaml"))


@functools.cache
def chosen(group, name):
    """The part of a configuration that one choice makes; a network's two do not know each other."""
    return getattr(compose_account([f"{group}={name}"]), group)


NEAREST_AND = "[[-1,0,0],[0,-1,0],[0,0,-1],"

TRAINABLE = sorted(path.name for path in (CONFIG_DIRECTORY / "recipe").iterdir())


@pytest.mark.parametrize("block", ["3d", "p1sc1", "p2sc2", "p2sc3"])
@pytest.mark.parametrize("backbone", names("backbone"))
def test_every_network_of_the_paper_runs_at_its_size(backbone, block):
    config = chosen("backbone", backbone)
    network = build_network_on_meta(config, chosen("block", block))
    shape = paper_input_shape(config, network)
    with torch.no_grad():
        y = network(torch.zeros(shape, device="meta"))
    if backbone == "unet":  # valid sizes are far apart where n is 3: 46 comes after 44
        assert y.shape in ((1, 3, 44, 44, 44), (1, 3, 46, 46, 46))
    else:
        assert y.shape == ((1, 101) if "resnet" in backbone else (1, 4, *shape[2:]))


SMALL = {
    "unet": ("backbone.base_width=3", "backbone.depth=1", "backbone.padding=same"),
    "resnet18": ("backbone.base_width=4",),
    "resnet34": ("backbone.base_width=4",),
    "densenet": ("backbone.growth=4", "backbone.initial_channels=8", "backbone.dense_blocks=2"),
    "densenet_bui": ("backbone.growth=4", "backbone.initial_channels=8", "backbone.dense_blocks=2"),
}


@functools.cache
def small(backbone):
    return compose_account([f"backbone={backbone}", *SMALL[backbone]]).backbone


@pytest.mark.parametrize("block", names("block"))
@pytest.mark.parametrize("backbone", sorted(SMALL.keys() - {"resnet34"}))  # resnet18, but longer
def test_every_network_of_the_grid_runs_forward_and_backward_on_the_cpu(backbone, block):
    network = build_network(small(backbone), chosen("block", block))
    y = network(torch.randn(2, small(backbone).in_channels, 16, 16, 16))
    assert y.isfinite().all()
    y.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("backbone", SMALL)
def test_every_network_takes_blocks_of_summed_streams(backbone):
    block = ["block=psc", "block.m=3", "block.n=1", "block.merge=sum"]
    config = compose_account([f"backbone={backbone}", *block, *SMALL[backbone]])
    network = build_network(config.backbone, config.block)
    found = [module.merge for module in network.modules() if isinstance(module, PSCBlock)]
    assert set(found) == {"sum"}
    y = network(torch.randn(2, config.backbone.in_channels, 16, 16, 16))
    y.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_streams_are_concatenated_unless_asked_for():
    assert {compose_account([f"block={name}"]).block.merge for name in names("block")} == {
        "concatenate"
    }


@pytest.mark.parametrize("backbone", TRAINABLE)
@pytest.mark.parametrize("budget", names("budget"))
def test_every_recipe_composes(backbone, budget):
    config = compose([f"backbone={backbone}", f"budget={budget}"])
    assert config.recipe.name.startswith(f"{backbone}/")


@pytest.mark.parametrize("backbone", TRAINABLE)
def test_every_block_composes_into_what_trains(backbone):
    config = compose([f"backbone={backbone}"])
    for block in names("block"):
        check_train(replace(config, block=chosen("block", block)))


@pytest.mark.parametrize("block", names("block"))
def test_a_block_is_the_same_for_training_and_account(block):
    assert compose([f"block={block}"]).block == chosen("block", block)
    assert chosen("block", block).name in (block, "p2sc2")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["backbone=densenet", "block=3d", "backbone.layers_per_segment=2"], "needs a block with"),
        (["backbone=densenet", "backbone.compression=0"], "compression"),
        (["backbone=densenet", "backbone.upsampling=nearest"], "interpolation, transposed"),
        (["backbone=densenet", "backbone.dense_blocks=0"], "dense_blocks"),
        (["backbone=densenet_bui", "backbone.classes=5"], "classes"),
        (["backbone=resnet34", "backbone.layers=50"], "backbone.layers=50: known are 18, 34"),
        (
            ["backbone=resnet34", "backbone.dropout=1"],
            r"backbone.dropout=1.0: must lie in \[0, 1\)",
        ),
        (["backbone=resnet34", "backbone.stem=flat"], "backbone.stem=flat: allowed are conv3d"),
        (["backbone=resnet34", "backbone.shortcut=none"], "allowed are projection, identity"),
        (["backbone=resnet34", "backbone.weights=missing.pth"], "missing.pth: no such file"),
        (["backbone=unet", "backbone.depth=0"], "backbone.depth=0"),
        (["backbone=unet", "backbone.base_width=2", "block=p3sc2"], "less than m=3"),
        (["block.width_divisor=0"], "block.width_divisor=0"),
        (["block.merge=mean"], "block.merge=mean: allowed are concatenate, sum"),
        (["block=3d", "block.merge=sum"], "block.merge=sum: .* no streams"),
    ],
)
def test_impossible_networks_are_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        compose_account(overrides)


def test_weights_start_a_network_and_others_are_refused(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "r3d_18.pth"
    torch.save(torchvision.models.video.r3d_18(num_classes=7).state_dict(), path)
    build = [f"backbone.weights={path}", "backbone=resnet18"]
    config = compose_account([*build, "block=3d"])
    network = build_network(config.backbone, config.block)
    theirs = torch.load(path, weights_only=True)
    convolution = network.stages[3][1].segment.layers.conv_2.conv
    assert torch.equal(convolution.weight, theirs["layer4.1.conv2.0.weight"])
    assert network.classifier.out_features == 101
    other = compose_account([*build, "block=p1sc1"])
    with pytest.raises(CheckpointError, match=r"stages\.0\.0.*block=3d"):
        build_network(other.backbone, other.block)


@pytest.mark.parametrize("group", ["dataset", "logger", "segmentation"])
def test_every_other_choice_composes(group):
    assert names(group)
    for name in names(group):
        reader = {"ucf101": "resnet34", "ibsr": "densenet"}
        backbone = reader.get(name.split("_")[0], "unet")
        if not name.startswith("own_"):  # which must be told where the data are
            compose([f"backbone={backbone}", f"{group}={name}"])


def test_the_paper_recipe_is_the_published_one():
    config = compose(["budget=paper", "block=p2sc2"])
    assert (config.backbone.base_width, config.backbone.growth, config.backbone.depth) == (24, 3, 3)
    recipe = config.recipe
    assert (recipe.iterations, recipe.malis_from) == (300_000, 100_000)
    assert (recipe.batch_size, recipe.output_size) == (1, 44)
    assert (recipe.optimizer.learning_rate, recipe.optimizer.betas) == (1e-4, [0.99, 0.999])
    assert (recipe.optimizer.epsilon, recipe.optimizer.weight_decay) == (1e-8, 5e-6)
    assert recipe.optimizer.bias_learning_rate_factor == 2
    assert (recipe.schedule.gamma, recipe.schedule.power) == (1e-4, 0.75)
    assert recipe.loss == "balanced_squared_error"
    assert (recipe.augmentation.contrast, recipe.augmentation.brightness) == (
        [0.8, 1.2],
        [-0.2, 0.2],
    )


def test_paper_patches_are_132_voxels_except_where_n_is_3():
    for block, expected in (("3d", 132), ("p1sc1", 132), ("p2sc2", 132), ("p2sc3", 178)):
        config = compose(["budget=paper", f"block={block}"])
        network = build_network_on_meta(config.backbone, config.block)
        assert config.recipe.patch_input(network) == expected


def test_free_m_and_n_name_themselves():
    config = compose(["block=psc", "block.m=3", "block.n=1"])
    assert (config.block.name, config.block.m, config.block.n) == ("p3sc1", 3, 1)


def test_the_command_line_wins_over_the_budget():
    config = compose(["budget=quick", "backbone.base_width=12", "recipe.iterations=7"])
    assert (config.backbone.base_width, config.recipe.iterations) == (12, 7)


@functools.cache
def choices_composed(*overrides):
    register()
    with initialize_config_dir(str(CONFIG_DIRECTORY), version_base="1.3"):
        return hydra_compose("train", overrides=list(overrides))


def compose_again(overrides):
    """``compose``, but the choices of files are composed once for all tests."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    values = [override for override in parsed if "." in override.key_or_group]
    files = [override.input_line for override in parsed if override not in values]
    config = copy.deepcopy(choices_composed(*files))
    ConfigLoaderImpl._apply_overrides_to_config(values, config)  # as Hydra does in the end
    return to_typed(config)


def test_composing_again_is_composing():
    for overrides in ([], ["backbone=densenet", "block.m=1", "recipe.schedule={name: constant}"]):
        assert compose_again(overrides) == compose(overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["block=psc", "block.m=4"], "block.m=4: allowed are 1, 2 and 3"),
        (["block.n=0"], "block.n=0: must be at least 1"),
        (["block=3d", "block.m=2"], "plain 3D convolutions have neither"),
        (["block.maximum_width=0"], "block.maximum_width=0"),
        (["budget=paper", "recipe.input_size=131"], r"recipe.input_size=131.*124.*132"),
        (["budget=quick", "recipe.input_size=50"], r"recipe.input_size=50.*48.*52"),
        (["budget=paper", "segmentation.tile_input=60"], "segmentation.tile_input=60.*100"),
        (["backbone.padding=full"], "backbone.padding=full: allowed are valid, same"),
        (["backbone.depth=0"], "backbone.depth=0"),
        (["recipe.loss=foo"], "recipe.loss=foo: allowed are balanced_squared_error"),
        (["recipe.iterations=0"], "recipe.iterations=0: must be at least 1"),
        (["recipe.optimizer.learning_rate=0"], "learning_rate=0.0: must be positive"),
        (["recipe.optimizer.betas=[1,0.9]"], "betas"),
        (["recipe.schedule.name=linear"], "allowed are constant, inverse, step, cosine"),
        (["recipe.augmentation.axis_swaps=xy"], "allowed are all, yx, none"),
        (["recipe.augmentation.contrast=[2,1]"], "contrast"),
        (["segmentation.thresholds=[]"], "segmentation.thresholds=.*at least one"),
        (["segmentation.thresholds=[1.5]"], "thresholds"),
        (["segmentation.scoring=foo"], "segmentation.scoring=foo: allowed are mean"),
        (["segmentation.boundary_threshold=1.5"], "boundary_threshold"),
        (["trainer.accelerator=tpu"], "allowed are auto, cpu, gpu, mps"),
        (["trainer.precision=fp8"], "trainer.precision=fp8: allowed are auto, 32-true"),
        (["trainer.compile=maybe"], "trainer.compile=maybe"),
        (["trainer.workers=many"], "trainer.workers='many'"),
        (["resume=3"], "resume=3"),
        (["seed=-1"], "seed=-1"),
        (["seed=5000000000"], "seed=5000000000"),
        (["trainer.workers=-1"], "trainer.workers=-1"),
        (["recipe.optimizer.weight_decay=-1"], "weight_decay"),
        (["recipe.optimizer.epsilon=0"], "epsilon"),
        (["recipe.optimizer.bias_learning_rate_factor=-2"], "bias_learning_rate_factor"),
        (["recipe.max_minutes=0"], "max_minutes"),
        (["dataset.intensity_range=[0]"], "dataset.intensity_range"),
        (["dataset.intensity_range=[9,3]"], "dataset.intensity_range"),
        (["dataset.voxel_size=[8,8]"], "dataset.voxel_size"),
        (["logger.mode=prompt"], "logger.mode=prompt"),
        (["dataset.train=[]"], "dataset.train is empty"),
        (["dataset=fibsem_sample", "dataset.test.0.z=[160,208]"], "overlap"),
        (["dataset=fibsem_sample", "dataset.test.0.z=[9,3]"], r"dataset.test\[0\].z"),
        (["recipe.malis_from=-1"], "recipe.malis_from=-1"),
        (["recipe.iterations=10", "recipe.malis_from=10"], r"recipe.malis_from=10: .*\[0, 10\)"),
        (["recipe.malis_normalization=none"], "allowed are counted, labelled"),
        (["recipe.schedule={name: step, step_size: 0}"], "recipe.schedule.step_size=0"),
        (["recipe.schedule={name: step, gamma: 2}"], "recipe.schedule.gamma=2"),
        (["backbone=densenet", "dataset=fibsem"], "allowed are ibsr, .*_synthetic.*backbone=unet"),
        (["dataset=ucf101"], "That data set is for backbone=resnet18 or resnet34"),
        (["dataset=ibsr"], "That data set is for backbone=densenet or densenet_bui"),
        (["backbone=densenet", "dataset.labels=some"], "allowed are given, filled, unfilled"),
        (["backbone=densenet", "dataset.voxel_size=[1,1]"], "three positive mm"),
        (["backbone=densenet", "dataset.folds=1"], "dataset.folds=1: must be at least 2"),
        (["backbone=densenet", "dataset.folds=3", "dataset.fold=3"], "dataset.fold=3"),
        (
            ["backbone=densenet", "dataset.folds=3", "dataset.validation_subjects=0"],
            "dataset.validation_subjects=0",
        ),
        (["backbone=densenet", "backbone.classes=3"], "backbone.classes=3: .* takes 4"),
        (["backbone=resnet18", "backbone.classes=3"], "classes=3, .* has 10 classes"),
        (["backbone.out_channels=4"], r"out_channels=4: .*offsets=\[\[-1, 0, 0\].* take 3"),
        (["recipe.offsets=[[0,-1,0],[-1,0,0],[0,0,-1]]"], "must begin with the nearest"),
        ([f"recipe.offsets={NEAREST_AND}[0,0]]"], r"recipe.offsets=.*each be another three"),
        ([f"recipe.offsets={NEAREST_AND}[0,-1,0]]"], "recipe.offsets=.*each be another"),
        (
            ["budget=paper", f"recipe.offsets={NEAREST_AND}[-3,0,0]]"],
            r"recipe.malis_from=100000: MALIS .*\[\[-3, 0, 0\]\] unlearned.*malis_from=null",
        ),
        (["backbone=densenet", "backbone.in_channels=2"], "backbone.in_channels=2"),
        (["backbone=densenet", "recipe.patch_size=40"], "recipe.patch_size=40: .* 32 .* 48"),
        (["backbone=densenet", "recipe.patch_size=16", "recipe.batch_size=1"], "single value"),
        (["backbone=densenet", "recipe.foreground_share=1.5"], "recipe.foreground_share=1.5"),
        (["backbone=densenet", "recipe.overlap=1"], r"recipe.overlap=1.0: must lie in \[0, 1\)"),
        (["backbone=densenet", "recipe.blending=sharp"], "allowed are constant, gaussian"),
        (["backbone=densenet", "recipe.loss=focal"], "cross_entropy, dice, dice_cross_entropy"),
        (["backbone=densenet", "recipe.augmentation.reflections=[true]"], "must be three of"),
        (["backbone=densenet", "recipe.augmentation.scaling=[2,1]"], "recipe.augmentation.scaling"),
        (["backbone=densenet", "recipe.augmentation.rotation=-5"], "rotation"),
        (["dataset.zero_label=maybe"], "dataset.zero_label=maybe"),
    ],
)
def test_impossible_values_are_refused_with_what_is_allowed(overrides, message):
    with pytest.raises(ConfigError, match=message):
        compose_again(overrides)


@pytest.mark.parametrize(
    "override", ["backbone.widht=4", "nothing=1", "block=4d", "seed=x", "block.n=two"]
)
def test_unknown_keys_and_wrong_types_do_not_compose(override):
    with pytest.raises(HydraException):
        compose([override])


def test_default_dataset_takes_what_is_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(choices, "WORKPLACE", tmp_path)
    monkeypatch.delenv(choices.SAMPLE_VARIABLE, raising=False)
    assert choices.default_dataset("unet") == "fibsem_synthetic"
    assert choices.default_dataset("densenet") == "ibsr_synthetic"
    sample = tmp_path / "sample"
    for name in choices.SAMPLES.values():
        (sample / name).parent.mkdir(parents=True)
        (sample / name).touch()
    monkeypatch.setenv(choices.SAMPLE_VARIABLE, str(sample))
    assert choices.default_dataset("unet") == "fibsem_sample"
    for name in choices.FIBSEM_FILES:
        path = tmp_path / "data" / "fibsem" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert choices.default_dataset("unet") == "fibsem"
    assert choices.default_dataset("densenet_bui") == "ibsr_sample"
    (tmp_path / "data" / "ibsr").mkdir()
    assert choices.default_dataset("densenet") == "ibsr"
    assert choices.default_dataset("resnet34") == "ucf101_synthetic"
    (tmp_path / "data" / "ucf101" / "prepared").mkdir(parents=True)
    (tmp_path / "data" / "ucf101" / "prepared" / "index.json").touch()
    assert choices.default_dataset("resnet34") == "ucf101"


def test_auto_budget_follows_the_device(monkeypatch):
    for gpus, expected in ((1, "paper"), (0, "quick")):
        monkeypatch.setattr(choices, "gpus", lambda gpus=gpus: gpus)
        assert choices.default_recipe("unet", "auto") == f"unet/{expected}"
        assert compose([]).recipe.name == f"unet/{expected}"
    assert choices.default_recipe("unet", "paper") == "unet/paper"


def test_a_backbone_that_no_task_trains_says_so(tmp_path, monkeypatch):
    (tmp_path / "configs" / "recipe" / "unet").mkdir(parents=True)
    (tmp_path / "configs" / "backbone").mkdir()
    (tmp_path / "configs" / "backbone" / "mine.yaml").touch()
    monkeypatch.setattr(choices, "CONFIG_DIRECTORY", tmp_path / "configs")
    with pytest.raises(ConfigError, match=r"backbone=mine: no task trains it yet \(only unet\)"):
        choices.default_recipe("mine", "quick")


def test_configs_hold_no_absolute_path():
    for path in CONFIG_DIRECTORY.rglob("*.yaml"):
        for line in Path(path).read_text().splitlines():
            value = line.split("#")[0].partition(":")[2].strip()
            assert not value.startswith("/"), f"{path}: {line}"
