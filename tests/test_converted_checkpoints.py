"""A checkpoint of train.py, converted by the command line, and read again."""

import functools
import importlib.util
import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from psc.build import build_network
from psc.checkpoints import CONFIG_KEY, NETWORK_PREFIX, load_checkpoint
from psc.config import compose
from psc.conversion import SeparableConv3d
from psc.converted_checkpoints import load_converted
from psc.errors import CheckpointError, ConfigError

SCRIPT = Path(__file__).parents[1] / "scripts" / "convert.py"
SMALL = ["backbone.base_width=4", "backbone.growth=2", "backbone.depth=1"]


@functools.cache
def config_of(block):
    return compose(["backbone=unet", f"block={block}", *SMALL])


@pytest.fixture(scope="module")
def command():
    spec = importlib.util.spec_from_file_location("convert_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture
def trained(tmp_path):
    """Function: a checkpoint as train.py writes it, of a tiny U-Net, and the network."""

    def write(block):
        torch.manual_seed(0)
        config = config_of(block)
        network = build_network(config.backbone, config.block)
        weights = {f"{NETWORK_PREFIX}{k}": v for k, v in network.state_dict().items()}
        path = tmp_path / "best.ckpt"
        content = {"state_dict": weights, "global_step": 7, CONFIG_KEY: asdict(config)}
        torch.save(content, path)
        return path, network.eval()

    return write


@pytest.mark.parametrize("options", [["m=1", "merge=sum"], ["m=2", "exclude=[decoder]"]])
def test_an_exact_conversion_of_a_checkpoint_is_the_same_network(
    command, trained, tmp_path, capsys, options
):
    path, network = trained("3d")
    arguments = [f"checkpoint={path}", f"output={tmp_path}/new.ckpt", "width=exact"]
    command([*arguments, f"report={tmp_path}/report.json", *options])
    converted = load_converted(tmp_path / "new.ckpt").eval()
    x = torch.randn(1, 1, 20, 20, 20)
    with torch.no_grad():
        assert torch.allclose(converted(x), network(x), atol=1e-5)
    report = json.loads((tmp_path / "report.json").read_text())
    layers = sum(isinstance(part, SeparableConv3d) for part in converted.modules())
    assert layers == sum(row["status"] == "converted" for row in report["layers"]) > 2
    assert f"total, {layers} of" in capsys.readouterr().out
    assert load_checkpoint(tmp_path / "new.ckpt")["global_step"] == 7
    with pytest.raises(ConfigError, match="overwrite=true"):
        command(arguments)
    with pytest.raises(ConfigError, match="converted already"):
        command([f"checkpoint={tmp_path}/new.ckpt", f"output={tmp_path}/again.ckpt"])


def test_what_cannot_be_converted_is_said(command, trained, tmp_path):
    path, _ = trained("p1sc1")
    output = tmp_path / "new.ckpt"
    for options, message in (
        ([], "no 3D convolution to convert"),
        (["width=wide"], "width must be eq5, exact or a number"),
        (["init=best"], "init must be one of"),
        (["m=5"], "m=5"),
    ):
        with pytest.raises(ConfigError, match=message):
            command([f"checkpoint={path}", f"output={output}", *options])
        assert not output.exists()
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        command([f"checkpoint={tmp_path}/none.ckpt", f"output={output}"])
