"""Convert a trained 3D network: ``python scripts/convert.py checkpoint=… m=2 output=…``.

Writes a checkpoint of the same network with separable convolutions (``psc.convert``), prints what
became of every layer, and writes that to ``report=…`` as JSON if asked for. With n=2 pairs of
convolutions become one block. ``calibrate=true`` then corrects every channel's gain and offset on
one batch of the checkpoint's training data, and ``match_steps=300`` trains the new blocks to give
the results of the layers that they replace; labels are not used. Other options, with their
defaults: width=eq5 (or exact, or a number) maximum_width=512 include=[…]
exclude=[…] merge=concatenate (or sum) activation=false init=svd (or random) unsupported=refuse (or
skip) runs=[…] match_learning_rate=1e-3 accelerator=auto (or cpu, gpu) overwrite=false.
"""

import sys
from dataclasses import dataclass, fields
from pathlib import Path

from psc.cli import (
    EXIT_FAILURE,
    MISSING,
    HydraException,
    OmegaConfBaseException,
    explain,
    from_arguments,
)
from psc.conversion.checkpoints import Correction, convert_checkpoint
from psc.conversion.conversion import ConversionArguments
from psc.conversion.factors import Initialisation
from psc.errors import ConfigError, PSCError, refused_by_the_system
from psc.files import write_json


@dataclass
class ConvertConfig(ConversionArguments):
    """The command line.

    Attributes:
        checkpoint: of train.py.
        output: the file to write.
        report: a JSON file for what became of every layer, and the losses of matching.
        init: "svd" or "random".
        calibrate: on a batch of training data; null: where these are read in any case.
        match_steps: of feature matching; 0: none.
        match_learning_rate: its first learning rate.
        accelerator: where to match.
        overwrite: whether ``output`` may exist.
    """

    checkpoint: str = MISSING
    output: str = MISSING
    report: str | None = None
    init: str = "svd"
    calibrate: bool | None = None
    match_steps: int = 0
    match_learning_rate: float = 1e-3
    accelerator: str = "auto"
    overwrite: bool = False


def main(arguments: list[str]) -> None:
    """Read the command line, convert, print.

    Raises:
        PSCError: for whatever the user can change.
    """
    config: ConvertConfig = from_arguments(ConvertConfig, arguments)
    inits: dict[str, Initialisation] = {"svd": "svd", "random": "random"}
    if config.init not in inits:
        raise ConfigError(f"init must be one of {', '.join(inits)}; got {config.init!r}")
    own = {field.name: getattr(config, field.name) for field in fields(ConversionArguments)}
    report, losses = convert_checkpoint(
        Path(config.checkpoint),
        Path(config.output),
        ConversionArguments(**own),
        init=inits[config.init],
        correction=Correction(
            config.calibrate, config.match_steps, config.match_learning_rate, config.accelerator
        ),
        overwrite=config.overwrite,
    )
    print(report)
    if losses:
        print(f"feature matching: loss {losses[0]:.3g} → {losses[-1]:.3g}")
    if config.report is not None:
        path = Path(config.report)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json({**report.to_dict(), "matching_losses": losses}, path)


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        sys.exit()
    try:
        main(sys.argv[1:])
    except (PSCError, HydraException, OmegaConfBaseException) as error:
        print(f"error: {explain(error)}", file=sys.stderr)
        sys.exit(EXIT_FAILURE)
    except OSError as error:
        print(f"error: {refused_by_the_system(error)}", file=sys.stderr)
        sys.exit(EXIT_FAILURE)
