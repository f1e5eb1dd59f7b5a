"""nnU-Net with our trainers: found, trained, predicted in a fresh process; what is refused."""

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from psc import make_unit
from psc.conversion import SeparableConv3d
from psc.errors import ConfigError

pytest.importorskip("nnunetv2", reason="the extra nnunet is not installed")
nibabel = pytest.importorskip("nibabel")
from nnunetv2.paths import nnUNet_extTrainer  # noqa: E402
from nnunetv2.run.run_training import get_trainer_from_args  # noqa: E402
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name  # noqa: E402
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager  # noqa: E402

from psc.integrations.nnunet import trainers  # noqa: E402

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/nnunet.md").read_text(encoding="utf-8")
FENCED = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
PYTHON = [code for language, code in FENCED if language == "python"]
COMMANDS = "".join(code for language, code in FENCED if not language).splitlines()
P1SC1, P2SC1, P2SC2, P2SC3 = (
    getattr(trainers, f"nnUNetTrainerP{m}SC{n}") for m, n in ((1, 1), (2, 1), (2, 2), (2, 3))
)


def configuration(family="PlainConvUNet", *, convolutions=2, kernel=(3, 3, 3), stages=3, **more):
    """A configuration as nnU-Net's planners write it, small."""
    kinds = {
        f"{k}_op": f"torch.nn.{v}" for k, v in (("conv", "Conv3d"), ("norm", "InstanceNorm3d"))
    }
    if len(kernel) == 2:
        kinds = {key: value.replace("3d", "2d") for key, value in kinds.items()}
    plain = family == "PlainConvUNet"
    architecture = {
        "n_stages": stages,
        "features_per_stage": [4 * 2**stage for stage in range(stages)],
        "kernel_sizes": [kernel] * stages,
        "strides": [[1] * len(kernel)] + [[2] * len(kernel)] * (stages - 1),
        "n_conv_per_stage" if plain else "n_blocks_per_stage": [convolutions] * stages,
        "n_conv_per_stage_decoder": [convolutions if plain else 1] * (stages - 1),
        "conv_bias": True,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
        **kinds,
        **more,
    }
    return ConfigurationManager(
        {
            "patch_size": [16] * len(kernel),
            "architecture": {
                "network_class_name": f"dynamic_network_architectures.architectures.unet.{family}",
                "arch_kwargs": architecture,
                "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
            },
        }
    )


def build(trainer, planned, *, supervised=True):
    return trainer.build_network_architecture(None, planned, 1, 3, supervised)


def blocks(network):
    return [part for part in network.modules() if isinstance(part, SeparableConv3d)]


@pytest.mark.parametrize(
    ("family", "trainer", "count", "alone"),
    [
        ("PlainConvUNet", P1SC1, 10, 10),
        ("PlainConvUNet", P2SC1, 10, 10),
        ("PlainConvUNet", P2SC2, 5, 0),
        ("ResidualEncoderUNet", P2SC1, 15, 15),
        # two of every residual block; the stem and each decoder's one are left over
        ("ResidualEncoderUNet", P2SC2, 9, 3),
    ],
)
def test_both_families_of_plans_are_built_supervised_and_not(family, trainer, count, alone):
    planned = configuration(family)
    network = build(trainer, planned)
    made = blocks(network)
    assert len(made) == count
    assert sum(block.n == 1 for block in made) == alone
    assert {len(block.widths) for block in made} == {trainer.m}
    left = [p for p in network.modules() if isinstance(p, nn.Conv3d) and p.kernel_size == (3,) * 3]
    assert not left
    for block in made:  # M is that of the paper's U-Net
        unit = make_unit(m=trainer.m, n=block.n)
        as_published = unit(
            block.in_channels, block.out_channels, depth=block.n, width_limit=block.out_channels
        )
        assert set(block.widths) == {as_published.blocks[0].width}
    # nnU-Net's own initialisation, and the plan's non-linearity after each 2D convolution
    for block in made:
        assert sum(isinstance(part, nn.LeakyReLU) for part in block.modules()) == (
            trainer.m * block.n
        )
        assert all(not p.any() for name, p in block.named_parameters() if name.endswith("bias"))
    x = torch.randn(1, 1, 16, 16, 16)
    results = network(x)
    assert [tuple(y.shape) for y in results] == [(1, 3, 16, 16, 16), (1, 3, 8, 8, 8)]
    sum(y.square().mean() for y in results).backward()
    # Predicting builds it without supervision, from the same weights.
    plain = build(trainer, planned, supervised=False)
    plain.load_state_dict(network.state_dict())
    assert torch.equal(plain.eval()(x), network.eval()(x)[0])


def test_three_in_a_row_are_a_matter_of_the_plan():
    with pytest.raises(ConfigError, match=r"(?s)nnUNetTrainerP2SC3: n=3: no 3 .*P2SC1.*per_stage"):
        build(P2SC3, configuration())
    assert [block.n for block in blocks(build(P2SC3, configuration(convolutions=3)))] == [3] * 5


def test_the_non_linearity_is_the_plans():
    network = build(P2SC1, configuration(nonlin="torch.nn.SiLU", nonlin_kwargs=None))
    assert not any(isinstance(part, nn.LeakyReLU) for part in network.modules())
    assert any(isinstance(part, nn.SiLU) for part in blocks(network)[0].modules())


def test_kernels_of_a_slice_stay_beside_those_of_three_axes():
    kernels = [(1, 3, 3), (3, 3, 3), (3, 3, 3)]
    network = build(P2SC1, configuration(kernel_sizes=kernels))
    assert len(blocks(network)) == 6
    assert any(getattr(part, "kernel_size", None) == (1, 3, 3) for part in network.modules())


@pytest.mark.parametrize("trainer", [P1SC1, P2SC2])
@pytest.mark.parametrize(
    ("planned", "message"),
    [
        (configuration(kernel=(3, 3)), r"is 2D \(patch 16 × 16\).* train 3d_fullres or 3d_lowres"),
        (configuration(kernel=(1, 3, 3)), "no 3×3×3 convolution, its kernels are 1×1×1, 1×3×3;"),
        (configuration(kernel=(5, 5, 5)), "no 3×3×3 convolution, its kernels are 1×1×1, 5×5×5;"),
    ],
    ids=["2D", "slices", "five"],
)
def test_what_has_nothing_to_convert_is_refused(trainer, planned, message):
    with pytest.raises(ConfigError, match=message):
        build(trainer, planned)


@pytest.mark.parametrize(
    ("attributes", "options", "message"),
    [
        ({"m": 4}, {}, "m=4: P_mSC_n has 1, 2 or 3 streams"),
        ({"n": 0}, {}, "n=0: P_mSC_n has at least one 2D convolution"),
        ({"m": 2, "n": 1}, {"features_per_stage": [1, 4, 8]}, "1 output channels cannot be shared"),
        ({}, {"strides": [[1] * 3, [2] * 3, [32] * 3]}, "PlainConvUNet itself does not run on"),
    ],
    ids=["streams", "planes", "channels", "pooled away"],
)
def test_impossible_trainers_and_plans_are_refused(attributes, options, message):
    trainer = type("Mine", (P2SC2,), attributes)
    with pytest.raises(ConfigError, match=message):
        build(trainer, configuration(**options))


def test_compiled_networks_follow_switches_of_supervision():
    network = build(P2SC2, configuration()).eval()
    compiled = torch.compile(network, backend="aot_eager")
    x = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        for supervised in (True, False, True):
            network.decoder.deep_supervision = supervised  # as nnU-Net does
            torch.testing.assert_close(compiled(x), network(x))


def folder():
    """What the documented command prints."""
    command = re.fullmatch(r"export nnUNet_extTrainer=\$\((python .*)\)", COMMANDS[1])[1].split()
    done = subprocess.run([sys.executable, *command[1:]], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.rstrip("\n")


def test_nnunets_search_finds_every_trainer_of_the_page(monkeypatch, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    (own / "my_trainers.py").write_text(PYTHON[0], encoding="utf-8")
    monkeypatch.setenv("nnUNet_extTrainer", os.pathsep.join((folder(), str(own))))
    assert nnUNet_extTrainer.is_set()
    shown = set(re.findall(r"nnUNetTrainerP\dSC\d\w*", PAGE))
    assert {"nnUNetTrainerP2SC2", "nnUNetTrainerP2SC2_20epochs"} <= shown
    for name in sorted(shown):
        found = recursive_find_trainer_class_by_name(name)
        assert issubclass(found, trainers.PSCTrainer)
        assert (found.m, found.n) == tuple(map(int, re.findall(r"\d", name)[:2]))
    assert recursive_find_trainer_class_by_name("nnUNetTrainerP2SC2") is P2SC2
    with pytest.raises(RuntimeError, match="nnUNetTrainerP9SC9"):
        recursive_find_trainer_class_by_name("nnUNetTrainerP9SC9")


@pytest.mark.parametrize(
    ("hidden", "message"),
    [
        ("sys.modules['nnunetv2'] = None", "nnunetv2 is not installed; psc's extra nnunet"),
        (
            "import nnunetv2.paths; del nnunetv2.paths.nnUNet_extTrainer; "
            "import types; sys.modules['nnunetv2.training.nnUNetTrainer.nnUNetTrainer'] = "
            "types.SimpleNamespace(nnUNetTrainer=object)",
            r"does not look for trainers in nnUNet_extTrainer; .*pip install -U 'nnunetv2>=2\.8'",
        ),
    ],
)
def test_an_nnunet_that_is_missing_or_too_old_is_told_in_a_line(hidden, message):
    program = f"import sys; {hidden}; from psc.integrations.nnunet.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert not done.stdout  # nnUNet_extTrainer stays empty
    assert re.fullmatch(rf"error: .*{message}.*\n", done.stderr)


# From raw files to a prediction, by the commands that a user types.

TINY = """
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from psc.integrations.nnunet.trainers import nnUNetTrainerP2SC2

class Tiny(nnUNetTrainerP2SC2):
    def __init__(self, plans, configuration, fold, dataset_json, device):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 1, 2, 1
"""


def write_cases(home):
    """Three cases of nested boxes, in nnU-Net's raw layout by the page's sample."""
    rng, source = np.random.default_rng(0), home / "volumes"
    source.mkdir()
    for case in range(3):
        labels = np.zeros((24, 20, 22), np.uint8)
        labels[4:-4, 4:-4, 4 + case : -4] = 1
        labels[7:-7, 7:-7, 7:-7] = 2
        labels[9:-9, 9:-9, 9:-9] = 3
        image = (labels * 50 + rng.normal(100, 5, labels.shape)).astype(np.float32)
        for what, values in (("image", image), ("labels", labels)):
            volume = nibabel.Nifti1Image(values[..., None], np.diag([1.0, 1.2, 1.1, 1.0]))
            nibabel.save(volume, source / f"case{case}_{what}.nii.gz")
    before = Path.cwd()
    try:
        os.chdir(home)
        exec(compile(PYTHON[1], "example", "exec"), {})
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A dataset planned, preprocessed and trained on, and the environment for more."""
    home = tmp_path_factory.mktemp("nnunet")
    (home / "trainers").mkdir()
    (home / "trainers/tiny_trainers.py").write_text(TINY, encoding="utf-8")
    kinds = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
    own = {kind: str(home / kind) for kind in kinds}
    own |= {"nnUNet_extTrainer": str(home / "trainers"), "PYTHONPATH": str(ROOT)}
    own |= {"nnUNet_n_proc_DA": "0", "nnUNet_def_n_proc": "1", "OMP_NUM_THREADS": "1"}
    write_cases(home)
    environment = os.environ | own
    prepare = "nnUNetv2_plan_and_preprocess -d 501 -c 3d_fullres -np 1 -npfp 1"
    run(f"{prepare} --verify_dataset_integrity", environment | {"nnUNet_n_proc_DA": "1"})
    path = home / "nnUNet_preprocessed/Dataset501_Brains/nnUNetPlans.json"
    plans = json.loads(path.read_text())
    small = plans["configurations"]["3d_fullres"]
    small |= {"patch_size": [16] * 3, "batch_size": 2}
    small["architecture"]["arch_kwargs"] |= {
        key: value
        for key, value in configuration().network_arch_init_kwargs.items()
        if key in small["architecture"]["arch_kwargs"]
    }
    path.write_text(json.dumps(plans))
    run("nnUNetv2_train 501 3d_fullres all -tr Tiny -device cpu", environment)
    return home, environment


def run(command, environment, code=0):
    program, *arguments = command.split()
    done = subprocess.run(
        [Path(sys.executable).with_name(program), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-4000:]
    return done


def test_a_checkpoint_predicts_in_a_fresh_process_what_training_saw(trained):
    home, environment = trained
    output = home / "predicted"
    run(
        "nnUNetv2_predict -d 501 -c 3d_fullres -f all -tr Tiny -device cpu -npp 1 -nps 1 "
        f"-i {home}/nnUNet_raw/Dataset501_Brains/imagesTr -o {output}",
        environment,
    )
    results = home / "nnUNet_results/Dataset501_Brains/Tiny__nnUNetPlans__3d_fullres/fold_all"
    seen = 0
    for path in sorted(output.glob("*.nii.gz")):
        predicted, validated = nibabel.load(path), nibabel.load(results / "validation" / path.name)
        assert np.array_equal(predicted.dataobj, validated.dataobj)
        assert np.allclose(predicted.affine, np.diag([1.0, 1.2, 1.1, 1.0]))
        seen += 1
    assert seen == 3
    weights = torch.load(results / "checkpoint_final.pth", weights_only=False)
    assert weights["trainer_name"] == "Tiny"
    assert any(".streams.1.plane_2.weight" in name for name in weights["network_weights"])


def test_training_goes_on_from_a_checkpoint(trained, monkeypatch):
    _, environment = trained
    for key in environment.keys() - os.environ.keys():
        monkeypatch.setenv(key, environment[key])
    trainer = get_trainer_from_args("501", "3d_fullres", "all", "Tiny", device=torch.device("cpu"))
    trainer.load_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    assert trainer.current_epoch == 1
    kept = torch.load(Path(trainer.output_folder) / "checkpoint_final.pth", weights_only=False)
    for name, value in trainer.network.state_dict().items():
        assert torch.equal(value, kept["network_weights"][name])


def test_a_2d_configuration_is_refused_before_anything_is_trained(trained):
    home, environment = trained
    path = home / "nnUNet_preprocessed/Dataset501_Brains/nnUNetPlans.json"
    plans = json.loads(path.read_text())
    flat = plans["configurations"]["2d"] = copy.deepcopy(plans["configurations"]["3d_fullres"])
    flat["patch_size"] = [16, 16]
    path.write_text(json.dumps(plans))
    done = run("nnUNetv2_train 501 2d all -tr Tiny -device cpu", environment, code=1)
    assert "ConfigError: Tiny: the configuration is 2D (patch 16 × 16)" in done.stderr
