"""Convert a trained 3D network: ``python scripts/convert.py checkpoint=… m=2 output=…``.

Writes a checkpoint of the same network with separable convolutions (``psc.convert``), prints what
became of every layer, and writes that to ``report=…`` as JSON if asked for. Other options, with
their defaults: n=1 width=eq5 (or exact, or a number) maximum_width=512 include=[…] exclude=[…]
merge=concatenate (or sum) activation=false init=svd (or random) unsupported=refuse (or skip)
overwrite=false.
"""

import sys
from dataclasses import dataclass, fields
from pathlib import Path

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from psc.cli import EXIT_FAILURE, explain
from psc.conversion.arguments import ConversionArguments
from psc.conversion.factors import Initialisation
from psc.converted_checkpoints import convert_checkpoint
from psc.errors import ConfigError, PSCError
from psc.results import write_json


@dataclass
class ConvertConfig(ConversionArguments):
    """The command line.

    Attributes:
        checkpoint: of train.py.
        output: the file to write.
    """

    checkpoint: str = MISSING
    output: str = MISSING
    report: str | None = None
    init: str = "svd"
    overwrite: bool = False


def main(arguments: list[str]) -> None:
    """Read the command line, convert, print.

    Raises:
        PSCError: for whatever the user can change.
    """
    merged = OmegaConf.merge(OmegaConf.structured(ConvertConfig), OmegaConf.from_cli(arguments))
    config = OmegaConf.to_object(merged)
    assert isinstance(config, ConvertConfig)
    inits: dict[str, Initialisation] = {"svd": "svd", "random": "random"}
    if config.init not in inits:
        raise ConfigError(f"init must be one of {', '.join(inits)}; got {config.init!r}")
    own = {field.name: getattr(config, field.name) for field in fields(ConversionArguments)}
    report = convert_checkpoint(
        Path(config.checkpoint),
        Path(config.output),
        ConversionArguments(**own),
        init=inits[config.init],
        overwrite=config.overwrite,
    )
    print(report)
    if config.report is not None:
        path = Path(config.report)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(report.to_dict(), path)


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        sys.exit()
    try:
        main(sys.argv[1:])
    except (PSCError, OmegaConfBaseException) as error:
        print(f"error: {explain(error)}", file=sys.stderr)
        sys.exit(EXIT_FAILURE)
