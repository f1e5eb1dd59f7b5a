"""Convert networks of other packages and say what came of it: ``docs/foreign-networks.md``.

    python experiments/conversion/foreign_networks.py --into docs/foreign-networks.md

Networks of random weights and small sizes. Every package is optional: pip install monai einops
torchvision dynamic-network-architectures pytorch3dunet segmentation-models-pytorch-3d timm-3d
diffusers transformers unet fvcore. Each network is converted exactly (n = 1) and in pairs (n = 2),
trained for a step and exported; parameters and MACs are compared with independent counts.
"""

import argparse
import importlib.metadata
import logging
import platform
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from psc import convert
from psc.accounting import account
from psc.accounting.forward import ExampleInput, counting, run_on, tensors_in
from psc.errors import PSCError, first_line
from psc.paper.text import insert_between

LARGE = 1_000_000
"""Parameters above which pairs begin at random: their decomposition would take minutes."""
PACKAGES = (
    *("monai", "dynamic-network-architectures", "torchvision", "pytorch3dunet"),
    *("segmentation-models-pytorch-3d", "timm-3d", "diffusers", "transformers", "unet"),
)
HEAD = ("package", "network", "parameters", "MACs", "exact", "error", "pairs", "export", "step")


def cube(size: int = 32, channels: int = 1, depth: int | None = None) -> Tensor:
    """A volume (1, C, D, H, W)."""
    return torch.randn(1, channels, depth or size, size, size)


def networks(package: str) -> Iterator[tuple[str, Callable[[], nn.Module], ExampleInput]]:
    """Name, what builds it, and an input; of VAEs, U-Nets, GANs, transformers, classifiers."""
    names: tuple[str, ...]
    opt: dict[str, Any] = {}
    if package == "monai":
        n = import_module("monai.networks.nets")
        few, tiny, one = (8, 8, 8, 16, 16, 8), ((4, 8), (2, 2)), torch.tensor([3])
        levels, image = ((1, 1), (8, 8), (False, True)), (1, 16, 16, 16)
        vit = {"hidden_size": 24, "mlp_dim": 32, "num_heads": 2, "num_layers": 2}
        dyn = partial(n.DynUNet, 3, 1, 2, [3] * 4, [1, 2, 2, 2], [2] * 3, filters=[4, 8, 8, 8])
        vae = partial(n.AutoencoderKL, 3, 1, 1, *levels[:2], attention_levels=levels[2])
        seg = {"init_filters": 8, "in_channels": 1, "out_channels": 2}
        yield "AttentionUnet", partial(n.AttentionUnet, 3, 1, 2, (4, 8, 8), (2, 2)), cube(16)
        yield "AutoEncoder", partial(n.AutoEncoder, 3, 1, 1, *tiny, inter_channels=(8,)), cube(16)
        yield "AutoencoderKL", partial(vae, norm_num_groups=4, latent_channels=2), cube(16)
        yield "BasicUNet", partial(n.BasicUNet, 3, 1, 2, few), cube()
        yield "BasicUNetPlusPlus", partial(n.BasicUNetPlusPlus, 3, 1, 2, few, True), cube()
        yield "Classifier", partial(n.Classifier, image, 3, *tiny), cube(16)
        opt = {"norm_num_groups": 4, "conditioning_embedding_num_channels": (8,)}
        yield "ControlNet", partial(n.ControlNet, 3, 1, *levels, **opt), (cube(16), one, cube(16))
        yield "DAF3D", partial(n.DAF3D, 1, 2), cube()
        yield "DenseNet", partial(n.DenseNet, 3, 1, 2, 8, 4, (2, 2)), cube()
        opt = {"norm_num_groups": 4, "num_head_channels": 4}
        yield "Diffusion", partial(n.DiffusionModelUNet, 3, 1, 1, *levels, **opt), (cube(16), one)
        yield "DynUNet", dyn, cube(16)
        yield "DynUNet, residual", partial(dyn, res_block=True, deep_supervision=True), cube(16)
        b0 = partial(n.EfficientNetBN, "efficientnet-b0", False, True, 3, 1)
        yield "EfficientNetBN", b0, cube()
        yield "FlexibleUNet", partial(n.FlexibleUNet, 1, 2, "resnet18", spatial_dims=3), cube()
        yield "GlobalNet", partial(n.GlobalNet, image[1:], 3, 2, 4, 2), cube(16, 2)
        yield "LocalNet", partial(n.LocalNet, 3, 2, 4, (0, 1, 2), out_channels=3), cube(16, 2)
        yield "MedNeXt", partial(n.MedNeXt, 3, 4, 1, 2), cube()
        yield "PatchDiscriminator", partial(n.PatchDiscriminator, 3, 4, 1, 1, 3), cube()
        yield "RegUNet", partial(n.RegUNet, 3, 2, 4, 2), cube(16, 2)
        yield "resnet10", partial(n.resnet10, spatial_dims=3, n_input_channels=1), cube()
        yield "SegResNet", partial(n.SegResNet, blocks_down=(1, 1), blocks_up=(1,), **seg), cube(16)
        yield "SegResNetDS", partial(n.SegResNetDS, 3, 8, blocks_down=(1, 2), dsdepth=2), cube(16)
        yield "SegResNetVAE", partial(n.SegResNetVAE, (32,) * 3, spatial_dims=3, **seg), cube()
        yield (
            "SPADENet",
            partial(n.SPADENet, 3, 1, 1, 2, [16] * 3, [8, 8], is_vae=False),
            cube(16, 2),
        )
        opt = {"feature_size": 12, "depths": (1,) * 4, "num_heads": (1, 1, 2, 2)}
        yield "SwinUNETR", partial(n.SwinUNETR, 1, 2, **opt), cube(64)
        yield "UNet", partial(n.UNet, 3, 1, 2, (4, 8, 8), (2, 2), num_res_units=2), cube(16)
        yield "UNETR", partial(n.UNETR, 1, 2, (32,) * 3, 4, 24, 32, 2), cube()
        yield "VarAutoEncoder", partial(n.VarAutoEncoder, 3, image, 1, 4, *tiny), cube(16)
        yield "ViT", partial(n.ViT, 1, (32,) * 3, (8,) * 3, **vit), cube()
        yield "ViTAutoEnc", partial(n.ViTAutoEnc, 1, (32,) * 3, (4,) * 3, **vit), cube()
        yield "VoxelMorph", n.VoxelMorph, (cube(), cube())
        opt = {"upsample_parameters": ((2, 4, 1, 1, 0),) * 2, "num_embeddings": 8}
        opt |= {"downsample_parameters": ((2, 4, 1, 1),) * 2, "num_res_channels": (8, 8)}
        yield "VQVAE", partial(n.VQVAE, 3, 1, 1, (8, 8), 1, embedding_dim=4, **opt), cube()
    elif package == "dynamic-network-architectures":  # nnU-Net's
        unet = import_module("dynamic_network_architectures.architectures.unet")
        resnet = import_module("dynamic_network_architectures.architectures.resnet")
        opt = {"norm_op": nn.InstanceNorm3d, "conv_bias": True, "nonlin": nn.LeakyReLU}
        some = (1, 3, [8, 8, 16], nn.Conv3d, 3, [1, 2, 2])
        deep = partial(unet.PlainConvUNet, *some, 2, 2, 2, deep_supervision=True, **opt)
        yield "PlainConvUNet", deep, cube(16)
        for name in ("ResidualEncoderUNet", "ResidualUNet"):
            yield name, partial(getattr(unet, name), *some, [1, 2, 2], 2, [1, 1], **opt), cube(16)
        yield "ResNet18", partial(resnet.ResNet18, 2, 1, 3), cube()
    elif package == "torchvision":
        video = import_module("torchvision.models.video")
        for name in ("mc3_18", "mvit_v1_b", "r2plus1d_18", "r3d_18", "s3d", "swin3d_t"):
            x = cube(224, 3, 16) if name in ("mvit_v1_b", "s3d") else cube(64, 3, 8)
            yield name, partial(getattr(video, name), num_classes=4), x
    elif package == "pytorch3dunet":
        models = import_module("pytorch3dunet.unet3d.model")
        opt = {"f_maps": 8, "num_levels": 3, "num_groups": 4}
        for name in ("UNet3D", "ResidualUNet3D", "ResidualUNetSE3D"):
            yield name, partial(getattr(models, name), 1, 2, **opt), cube(16)
    elif package == "segmentation-models-pytorch-3d":
        smp = import_module("segmentation_models_pytorch_3d")
        opt = {"encoder_weights": None, "in_channels": 1}
        names = ("FPN", "Linknet", "MAnet", "PSPNet", "Unet", "UnetPlusPlus")
        for name in names:
            yield f"{name}, resnet18", partial(getattr(smp, name), "resnet18", **opt), cube()
        for name in ("densenet121", "efficientnet-b0"):
            yield f"Unet, {name}", partial(smp.Unet, name, **opt), cube()
    elif package == "timm-3d":
        create = import_module("timm_3d").create_model
        names = ("convnext_atto", "densenet121", "efficientnet_b0", "resnet18", "resnext50_32x4d")
        for name in names:
            yield name, partial(create, name, num_classes=2, in_chans=1), cube()
    elif package == "diffusers":
        d, four = import_module("diffusers"), (8, 8, 8, 8)
        base = {"block_out_channels": four, "latent_channels": 4, "layers_per_block": 1}
        for name in ("CogVideoX", "HunyuanVideo"):
            build = partial(getattr(d, f"AutoencoderKL{name}"), norm_num_groups=4, **base)
            yield f"AutoencoderKL{name}", build, cube(32, 3, 9)
        opt = {"layers_per_block": (1,) * 5, "decoder_layers_per_block": (1,) * 5}
        opt |= {"block_out_channels": four, "decoder_block_out_channels": four}
        yield "AutoencoderKLLTXVideo", partial(d.AutoencoderKLLTXVideo, **opt), cube(32, 3, 9)
        opt = {f"{part}_block_out_channels": (32,) * 4 for part in ("encoder", "decoder")}
        yield "AutoencoderKLMochi", partial(d.AutoencoderKLMochi, **opt), cube(16, 3, 7)
        opt = {"dim_mult": [1, 2], "num_res_blocks": 1, "temperal_downsample": [False]}
        yield "AutoencoderKLWan", partial(d.AutoencoderKLWan, 8, z_dim=4, **opt), cube(16, 3, 5)
    elif package == "transformers":
        t = import_module("transformers")
        qwen = import_module("transformers.models.qwen2_vl.modeling_qwen2_vl")
        size = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
        small = {**size, "image_size": 32, "num_frames": 4, "patch_size": 8}
        clip = torch.randn(1, 4, 3, 32, 32)
        mae, vivit = t.VideoMAEConfig(**small), t.VivitConfig(**small, tubelet_size=[2, 8, 8])
        yield "VideoMAE", partial(t.VideoMAEModel, mae), {"pixel_values": clip}
        yield "ViViT", partial(t.VivitModel, vivit), {"pixel_values": clip}
        opt = {f"pred_{key}": value for key, value in size.items()}
        opt |= {"crop_size": 32, "patch_size": 8, "frames_per_clip": 4, **size}
        yield "V-JEPA 2", partial(t.VJEPA2Model, t.VJEPA2Config(**opt)), (clip,)
        opt = {"depth": 1, "embed_dim": 32, "hidden_size": 16, "num_heads": 2, "patch_size": 8}
        config = qwen.Qwen2VLVisionConfig(**opt)
        tower = partial(qwen.Qwen2VisionTransformerPretrainedModel, config)
        yield "Qwen2-VL, tower", tower, (torch.randn(16, 384), torch.tensor([[1, 4, 4]]))
    elif package == "unet":
        u, opt = import_module("unet"), {"num_encoding_blocks": 3, "out_channels_first_layer": 4}
        opt["padding"] = 1
        yield "UNet3D", partial(u.UNet3D, normalization="batch", **opt), cube(16)
        yield "UNet, residual", partial(u.UNet, dimensions=3, residual=True, **opt), cube(16)


def run(network: nn.Module, x: ExampleInput) -> Any:
    """A network's result, with the same chance for those that draw numbers."""
    torch.manual_seed(0)
    return run_on(network, x)


def tried(function: Callable[[], str]) -> str:
    """What a function says, or why it cannot: our own words, or, in bold, that it failed raw."""
    try:
        return function()
    except PSCError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        return f"none: {lines[min(1, len(lines) - 1)]}"[:110]
    except Exception as error:  # whatever the code of others raises
        return f"**{type(error).__name__}**: {first_line(error)}"[:110]


def macs(network: nn.Module, x: ExampleInput) -> tuple[int, str]:
    """An independent count: fvcore's, which traces the network, where it cannot torch's."""
    try:
        analysis = import_module("fvcore.nn").FlopCountAnalysis
        traced = analysis(network, x if isinstance(x, tuple) else (x,))
        counts = traced.by_operator()
        if any("attention" in name for name in traced.unsupported_ops()):  # fused: it misses that
            raise TypeError
        products = ("conv", "linear", "addmm", "matmul", "mm", "bmm", "einsum", "baddbmm")
        return int(sum(counts[name] for name in products)), "fvcore"
    except Exception:  # not installed, not to be traced, or not all of it
        with torch.no_grad(), counting() as (counter, _):
            run_on(network, x)
        return counter.get_total_flops() // 2, "torch"


@torch.no_grad()
def difference(a: Callable[..., Any], b: Callable[..., Any], x: ExampleInput) -> str:
    """The largest relative difference of all tensors in two networks' results."""
    results = ([t for t in tensors_in(run(f, x)) if t.is_floating_point()] for f in (a, b))  # type: ignore[arg-type]
    pairs = zip(*results, strict=True)
    return f"{max(float((a - b).norm() / b.norm().clamp(min=1e-12)) for a, b in pairs):.0e}"


def step(network: nn.Module, x: ExampleInput) -> str:
    """One step of training, on two inputs where that is simple: norms want more than one value."""
    x = torch.cat((x, x)) if isinstance(x, Tensor) else x
    results = [t for t in tensors_in(run(network.train(), x)) if t.requires_grad]
    loss = torch.stack([tensor.square().mean() for tensor in results]).sum()
    torch.autograd.backward(loss)
    torch.optim.SGD(network.parameters(), 1e-4).step()
    finite = all(bool(p.grad.isfinite().all()) for p in network.parameters() if p.grad is not None)
    return "yes" if finite else "gradients are not finite"


def export(network: nn.Module, x: ExampleInput) -> str:
    """Whether an exported program computes the same."""
    args: tuple[Any, ...] = () if isinstance(x, Mapping) else x if isinstance(x, tuple) else (x,)
    program = torch.export.export(network, args, dict(x) if isinstance(x, Mapping) else None)
    return difference(program.module(), network, x)


def cells(build: Callable[[], nn.Module], x: ExampleInput) -> list[str]:
    """What came of one network, in the columns of the table."""
    torch.manual_seed(0)
    network = build().eval()
    for parameter in network.parameters():  # layers that begin at zero hide what is before them
        if parameter.requires_grad and not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    count = sum(parameter.numel() for parameter in network.parameters())
    kernels = [part.kernel_size for part in network.modules() if isinstance(part, nn.Conv3d)]
    full = sum(min(kernel) > 1 for kernel in kernels)

    def work() -> str:
        (independent, by), ours = macs(network, x), account(network, x)
        assert ours.parameters == count
        missed = f"; not counted: {', '.join(ours.uncounted)}" if ours.uncounted else ""
        off = ours.multiply_adds / max(1, independent) - 1
        return f"{ours.multiply_adds:,} ({by} {off:+.1%}{missed})"

    def pairs() -> str:
        options: Any = {"init": "svd" if count < LARGE else "random", "unsupported": "skip"}
        two = convert(network, 1, 2, width=4, sweeps=2, example_input=x, **options)
        run(two.model, x)
        passing = sum(any(name.startswith("(") for name in run) for run in two.report.runs)
        return f"{len(two.report.runs)}" + (f", {passing} past what stays" if passing else "")

    def exact() -> str:
        done.append(convert(network, width=None, example_input=x, unsupported="skip"))
        after = sum(parameter.numel() for parameter in done[0].model.parameters())
        assert done[0].report.parameters == (count, after)
        reasons = {row.reason for row in done[0].report.layers if row.status == "skipped"}
        return "; ".join([f"{len(done[0].report.converted)} of {full}", *map(str, reasons)])

    done: list[Any] = []
    told = [f"{count:,}", tried(work), tried(exact)]
    if not done or not done[0].report.converted:
        return [*told, *"––––"]
    told += [tried(lambda: difference(done[0].model, network, x)), tried(pairs)]
    for trial in (export, step):
        ours = tried(partial(trial, done[0].model, x))
        theirs = tried(partial(trial, network, x)) if ours.startswith("**") else ""
        told.append("nor the original" if theirs.startswith("**") else ours)
    return told


def main() -> None:
    """Convert them all and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="networks whose name or package holds this")
    parser.add_argument("--into", type=Path, help="a page, which keeps the rows that are not made")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable()
    rows: dict[tuple[str, str], str] = {}
    for line in () if options.into is None else options.into.read_text("utf-8").splitlines():
        if line.startswith("| ") and line.count(" | ") == len(HEAD) - 1:
            package, name = line.strip("| ").split(" | ")[:2]
            if " " in package:  # its version, which the head has not
                rows[package.rpartition(" ")[0], name] = line
    for package in PACKAGES:
        try:
            for name, build, x in networks(package):
                row = rows.pop((package, name), None)  # to its place, the last so far
                if options.only in f"{package} {name}":
                    made = [f"{package} {importlib.metadata.version(package)}", name]
                    row = f"| {' | '.join([*made, *cells(build, x)])} |"
                    print(row, flush=True)
                if row is not None:
                    rows[package, name] = row
        except ImportError as missing:
            print(f"{package}: {missing}")
        if options.into is not None:  # after each, as all together take an hour
            head = [f"| {' | '.join(HEAD)} |", "|" + " --- |" * len(HEAD)]
            with_what = f"torch {torch.__version__}, Python {platform.python_version()}"
            insert_between(options.into, "TABLE", "\n".join([*head, *rows.values(), "", with_what]))


if __name__ == "__main__":
    main()
