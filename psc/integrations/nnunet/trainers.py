"""nnU-Net's trainer with the planned network's 3×3×3 convolutions as P_mSC_n, new for training.

Everything else is nnU-Net's: plans, data, loss, deep supervision, checkpoints, prediction.
"""

import importlib.metadata as metadata
import pydoc
from functools import partial
from typing import Any, ClassVar

import torch
from torch import nn

from psc.accounting.forward import meta_copy
from psc.block.block import PUBLISHED_MAXIMUM_WIDTH, stream_width
from psc.conversion import SeparableConv3d, convert
from psc.errors import ConfigError, MissingPackageError, extra_needed

with extra_needed():
    import nnunetv2.paths
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

if not hasattr(nnunetv2.paths, "nnUNet_extTrainer"):
    raise MissingPackageError(
        f"nnunetv2 {metadata.version('nnunetv2')} does not look for trainers in nnUNet_extTrainer; "
        "from 2.8 on it does: pip install -U 'nnunetv2>=2.8'"
    )


class PSCTrainer(nnUNetTrainer):  # type: ignore[misc]
    """Base of the trainers: ``m`` streams of ``n`` 2D convolutions each.

    Derive from one of them for another length (with nnU-Net's own classes, such as
    ``nnUNetTrainer_20epochs``, as the second base), another ``m`` and ``n``, or whatever else
    a trainer of nnU-Net can change.
    """

    m: ClassVar[int] = 2
    n: ClassVar[int] = 2

    @classmethod
    def build_network_architecture(  # nnU-Net's is static; it calls both alike
        cls,
        plans_manager: Any,
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """Build the network of the plans, then convert it; nnU-Net calls this in predicting, too.

        Raises:
            ConfigError: for a 2D configuration, a plan without 3×3×3 convolutions, or one without n
                in a row.
        """
        patch = tuple(configuration_manager.patch_size)
        if len(patch) != 3:
            raise ConfigError(
                f"{cls.__name__}: the configuration is 2D (patch {' × '.join(map(str, patch))}), "
                "P_mSC_n stands for 3D convolutions; train 3d_fullres or 3d_lowres, or 2d without "
                "-tr, as nnU-Net does"
            )
        network: nn.Module = super().build_network_architecture(
            plans_manager,
            configuration_manager,
            num_input_channels,
            num_output_channels,
            enable_deep_supervision,
        )
        sizes = {tuple(p.kernel_size) for p in network.modules() if isinstance(p, nn.Conv3d)}
        if (3, 3, 3) not in sizes:
            raise ConfigError(
                f"{cls.__name__}: the plan has no 3×3×3 convolution, its kernels are "
                f"{', '.join('×'.join(map(str, size)) for size in sorted(sizes)) or 'none of 3D'}; "
                "P_mSC_n has nothing to stand for, train without -tr, as nnU-Net does"
            )
        planned = configuration_manager.network_arch_init_kwargs
        nonlinearity: Any = pydoc.locate(planned.get("nonlin") or "torch.nn.LeakyReLU")
        separate = partial(
            convert,
            m=cls.m,
            n=cls.n,
            init="random",
            kernel_sizes=[3],
            width=partial(_width, cls.m),
            # As in the paper's block one follows each convolution: the plan's.
            activation=partial(nonlinearity, **(planned.get("nonlin_kwargs") or {})),
        )
        runs = None
        if cls.n > 1:  # which convolutions follow each other; without computing or memory
            example = torch.zeros(1, num_input_channels, *patch, device="meta")
            try:
                runs = separate(meta_copy(network), example_input=example).report.runs
            except ConfigError as error:
                raise ConfigError(
                    f"{cls.__name__}: {error}\nHere that is nnUNetTrainerP{cls.m}SC1; or, for "
                    f"n={cls.n}, plan {cls.n} convolutions per stage (n_conv_per_stage in the "
                    "plans file)"
                ) from error
        done = separate(network, runs=runs, inplace=True)
        for block in network.modules():
            if isinstance(block, SeparableConv3d) and hasattr(network, "initialize"):
                block.apply(network.initialize)  # type: ignore[arg-type]
        before, after = done.report.parameters
        print(f"{cls.__name__}: {before:,} parameters as planned, {after:,} with P{cls.m}SC{cls.n}")
        return network


def _width(m: int, name: str, layer: nn.Conv3d) -> int:
    """M as in the paper's U-Net: Eq. 5, at most the channels of the level."""
    most = min(layer.out_channels, PUBLISHED_MAXIMUM_WIDTH)
    return stream_width(layer.in_channels, layer.out_channels, m, maximum=most)


class nnUNetTrainerP1SC1(PSCTrainer):  # noqa: N801 - as nnU-Net's are named
    """One stream, every convolution by itself."""

    m, n = 1, 1


class nnUNetTrainerP2SC1(PSCTrainer):  # noqa: N801
    """Two streams, every convolution by itself."""

    m, n = 2, 1


class nnUNetTrainerP2SC2(PSCTrainer):  # noqa: N801
    """Two streams, one block for every two convolutions that follow each other."""


class nnUNetTrainerP2SC3(PSCTrainer):  # noqa: N801
    """Two streams, one block for every three: for plans with so many in a stage."""

    m, n = 2, 3
