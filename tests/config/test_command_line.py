"""Values and keys as they are typed: text is text, and a key that nothing reads is refused."""

import re
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import HydraException
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from psc.cli import explain, run
from psc.config import compose
from psc.config.compose import CONFIG_DIRECTORY, from_arguments, register, typed_node
from psc.config.overrides import as_hydra_reads
from psc.config.schema import SegmentConfig
from psc.em.settings import SlabConfig
from psc.errors import ConfigError, PSCError

NAMES = [
    *("epoch=3-step=100.ckpt", "my data", "a,b", "scan (1)", "x[0]", "50%", "größe", "it's", "a:b"),
    *(
        "{z}",
        "tag#2",
        "~old",
        "$x",
        'say "q"',
        "a&b",
        "a;b",
        "a!b",
        "a|b",
        "<a>",
        "日本",
        "e\u0301",
        "`a`",
    ),
    *("a=b,c=d", "range(3)", "choice(a,b)", "1e3", "1_000", "007", "nan", "true", "off", "[a,b]"),
    *(
        "{a:b}",
        "a\\b",
        "a\\,b",
        "ends with \\",
        "it's \\'",
        " x",
        "x ",
        "a  b",
        "\u00a0x",
        "*",
        "-1",
    ),
    *(
        "-1",
        "s3://bucket/x?y=1",
        "C:\\data\\em.h5",
        "@eaDir",
        "a+b",
        "'",
        "sub-01_T1w (copy),2.nii",
    ),
]


def composed(program, *arguments):
    """What a program is given, as ``psc.cli.run`` composes it."""
    register()
    with initialize_config_dir(str(CONFIG_DIRECTORY), version_base="1.3"):
        overrides = as_hydra_reads([*arguments])
        return hydra_compose(program, overrides=overrides)


@pytest.mark.parametrize("name", NAMES)
def test_text_is_taken_letter_for_letter(name):
    keys = ("input", "output", "input_key", "precision", *["checkpoint"] * (name != "[a,b]"))
    config = from_arguments(
        SegmentConfig, ["checkpoint=x", "levels=2", *(f"{key}={name}" for key in keys)]
    )
    assert [getattr(config, key) for key in keys] == [name] * len(keys)
    assert config.levels == 2


def test_the_home_folder_is_found_as_a_shell_would(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me, myself")
    given = ["checkpoint=~/a.ckpt", "input=~/em", "output=~/x y", "input_key=~raw"]
    config = from_arguments(SegmentConfig, given)
    assert config.output == "/home/me, myself/x y"
    assert (config.checkpoint, config.input_key) == ("/home/me, myself/a.ckpt", "~raw")
    assert composed("train", "output_directory=~/runs").output_directory == "/home/me, myself/runs"


def test_checkpoints_are_a_path_or_a_list_of_paths():
    given = ["input=x", "output=x"]
    config = from_arguments(SegmentConfig, ["checkpoint=[a.ckpt,b=1.ckpt]", *given])
    assert config.checkpoint == "[a.ckpt,b=1.ckpt]"  # which psc.training.checkpoints takes apart
    config = from_arguments(SegmentConfig, ["checkpoint=runs/*fold[0-2]*/best.ckpt", *given])
    assert config.checkpoint == "runs/*fold[0-2]*/best.ckpt"


KEYS = {
    "train": ["output_directory", "initial_weights", "logger.project", "logger.group"],
    "evaluate": ["checkpoint", "output"],
    "view": ["run", "raw", "raw_key", "report"],
    "account": ["into"],
}


@pytest.mark.parametrize("program", KEYS)
@pytest.mark.parametrize("name", ["epoch=3, (a) [b] {c} größe 'd'", "1e3"])
def test_text_of_every_program(program, name):
    config = composed(program, *(f"{key}={name}" for key in KEYS[program]))
    assert {OmegaConf.select(config, key) for key in KEYS[program]} == {name}


@pytest.mark.parametrize(
    ("backbone", "keys"),
    [
        ("densenet", ["dataset.folder", "dataset.split"]),
        ("densenet dataset=own_mri", ["dataset.images", "dataset.labels"]),
        ("resnet18 dataset=own_video", ["dataset.folder", "dataset.csv", "dataset.prepared"]),
        ("resnet18", ["dataset.videos", "dataset.lists", "dataset.prepared", "backbone.weights"]),
    ],
)
def test_text_of_data_sets(backbone, keys):
    name = "{c}/a=b, [1]" if "own" in backbone else "a=b,{c} [1]"
    arguments = [*f"backbone={backbone}".split(), *(f"{key}={name}" for key in keys)]
    config = composed("train", *arguments)
    assert {OmegaConf.select(config, key) for key in keys} == {name}


@dataclass
class ListsConfig:
    train: list[SlabConfig] = MISSING
    validation: list[SlabConfig] = MISSING
    test: list[SlabConfig] = MISSING


@dataclass
class Volumes:
    dataset: ListsConfig = field(default_factory=ListsConfig)


@pytest.mark.parametrize("name", [n for n in NAMES if n.strip() == n and n != "'"])
def test_text_in_the_entries_of_a_list(name):
    entries = f"[{{raw:{name},z:[0,24]}},{{raw: x.h5, labels: {name}}}]"
    lists = [f"dataset.{part}={entries}" for part in ("train", "validation", "test")]
    first, second = from_arguments(Volumes, lists).dataset.train
    assert (first.raw, first.z, first.labels) == (name, [0, 24], None)
    assert (second.raw, second.labels, second.z) == ("x.h5", name, None)


def test_what_is_quoted_or_null_or_a_reference_stays_hydras(monkeypatch):
    monkeypatch.setenv("PLACE", "here")
    config = composed("segment", "checkpoint='a=b'", 'input="c d"', "output=${oc.env:PLACE}/x=1")
    assert (config.checkpoint, config.input, config.output) == ("a=b", "c d", "here/x=1")
    assert composed("segment", "input_key=null").input_key is None
    assert composed("train", "resume=true").resume is True
    assert composed("train", "resume=a=b, [c].ckpt").resume == "a=b, [c].ckpt"
    once = as_hydra_reads(["input=a=b,c 'd'"])
    assert as_hydra_reads(once) == once  # a process of Lightning's is given them again


def test_sweeps_are_sweeps():
    arguments = ["--multirun", "output_directory=a,b", "seed=0,1", "block=3d,p1sc1"]
    assert as_hydra_reads(arguments) == arguments
    assert as_hydra_reads(["sweep=mn", "logger.group=a,b"]) == ["sweep=mn", "logger.group=a,b"]
    swept = as_hydra_reads(["-m", "output_directory=/runs/a=1", "seed=0,1"])
    assert swept == ["-m", "output_directory='/runs/a=1'", "seed=0,1"]
    flags = ["--cfg", "job", "--config-dir", "a=b", "-cn", "train"]
    assert as_hydra_reads(flags) == flags


REFUSED = {
    "input=my data.h5": "'input=my data.h5'",  # what the shell made two arguments of
    "dataset.train=[{raw:a=b.h5,k:1}": "dataset.train",
    "recipe.iterations=3=4": "Integer",
    "seed=[1": "seed",
    "recipe.learning rate=1": "recipe.learning rate",
    "größe=3": "größe",
    "=3": "=3",
    "block=3=d": "block/3=d",
    "dataset.raw==x": "dataset.raw",
    "backbone..name=unet": "backbone",
    "recipe.iterations=é": "recipe.iterations",
    "output_directory=${a": "output_directory",
    "output_directory=${nothing}": "\\${",
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_is_typed_wrong_is_told_in_words(line):
    arguments = line.split(" ") if line.startswith("input") else [line]
    program = "segment" if line.startswith("input") else "train"
    with pytest.raises((PSCError, HydraException, OmegaConfBaseException)) as refusal:
        typed_node(composed(program, *arguments))
    message = explain(refusal.value)
    assert REFUSED[line] in message
    assert not re.search(r"Lexer|EOF|mismatched|Traceback|token recog|extraneous", message)


def test_the_spelling_that_is_shown_is_right():
    broken = "segmentation.thresholds=[0.1,a=b]"
    with pytest.raises(ConfigError) as refusal:
        as_hydra_reads([broken])
    spelled = shlex.split(str(refusal.value).splitlines()[-1])[-1]
    assert as_hydra_reads([spelled]) == [spelled]


GIVEN = {
    "train": ["budget=quick", "dataset=fibsem_synthetic"],
    "evaluate": ["checkpoint=x", "dataset=fibsem_synthetic"],
    "segment": ["checkpoint=x", "input=x", "output=x"],
    "classify": ["checkpoint=x", "input=x"],
    "view": ["run=x"],
    "account": [],
}
UNREAD = ["+mistyped.key=1", "++mistyped=1"]
BELOW = {
    "train": ["+recipe.lerning_rate=1", "++dataset.foo.bar=x", "+trainer.x={a:1}", "+block.k=3"],
    "evaluate": ["+dataset.foo=1", "+segmentation.foo=1"],
    "segment": ["+segmentation.foo=1", "+intensity.range=[0,1]"],
    "classify": ["+labels.k=1"],
    "account": ["+backbone.foo=1", "++block.foo=1"],
    "view": ["+report.html=x", "+raw.key=x"],
}


@pytest.mark.parametrize(
    ("program", "argument"), [(p, a) for p in GIVEN for a in [*UNREAD, *BELOW[p]]]
)
def test_a_key_that_nothing_reads_is_refused(program, argument):
    with pytest.raises((PSCError, HydraException, OmegaConfBaseException)) as refusal:
        typed_node(composed(program, *GIVEN[program], argument))
    key = argument.lstrip("+").split("=")[0].split(".")
    assert key[0] in explain(refusal.value)
    assert re.search("known keys|not exist|Cannot convert", explain(refusal.value))


@dataclass
class Options:
    checkpoint: str
    output: str | None = None
    include: list[str] = field(default_factory=list)
    m: int = 1


@pytest.mark.parametrize("name", NAMES)
def test_programs_without_yaml_take_the_same_text(name):
    options = from_arguments(Options, [f"checkpoint={name}", "m=2", "include=[a.b,c]"])
    assert options == Options(name, None, ["a.b", "c"], 2)


@pytest.mark.parametrize(
    "argument", ["+mistyped=1", "mistyped=1", "++m.x=1", "m=many", "~m", "m", "m=1,2", "m=[1"]
)
def test_programs_without_yaml_refuse_the_same(argument):
    with pytest.raises((PSCError, HydraException, OmegaConfBaseException)) as refusal:
        from_arguments(Options, ["checkpoint=x", argument])
    assert "m" in explain(refusal.value)
    assert not re.search(r"Lexer|EOF|mismatched|multirun", explain(refusal.value))


def test_a_key_of_hydras_that_nothing_reads_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.py", "budget=quick", "+hydra.mistyped=1"])
    with pytest.raises(SystemExit):
        run("train", lambda config: pytest.fail("it ran"))
    assert "hydra.mistyped: nothing reads this key" in capsys.readouterr().err


NO_CHOICE = {
    "train backbone=null": "backbone=null: name one of densenet, ",
    "train dataset=[ibsr,ucf101]": ", ucf101, ",
    "train recipe=null": ", unet/quick, or leave it out",
    "train -m hydra/launcher=null": "name one of local, slurm",
    "train -m backbone=unet,null": "backbone=unet,null: name one of",
    "train +backbone=unet": "backbone is chosen already; write backbone=unet",
    "train ++block=3d": "write block=3d",
    "train backbone=resnet18 budget=quick dataset=own_em": "ResNets learn from videos",
    "evaluate checkpoint=x dataset=null": "or leave it out",
    "evaluate checkpoint=x dataset.test=[]": "dataset=NAME dataset.test=",
    "evaluate checkpoint=x +dataset.foo=1": "a data set that is not named",
}


def test_programs_that_compose_refuse_no_choice_too():
    with pytest.raises(ConfigError, match="name one of 3d, "):
        compose(["block=null"])


@pytest.mark.parametrize("line", NO_CHOICE)
def test_a_choice_that_cannot_be_is_refused_with_those_there_are(line, monkeypatch, capsys):
    program, *arguments = line.split()
    monkeypatch.setattr(sys, "argv", [f"{program}.py", *arguments])
    with pytest.raises(SystemExit) as refusal:
        run(program, lambda config: pytest.fail("it ran"))
    assert refusal.value.code == 1
    assert NO_CHOICE[line] in capsys.readouterr().err


def test_scripts_exist_for_all_programs():
    """The list above is that of ``configs/``: a program more is tested here as well."""
    found = {path.stem for path in Path(CONFIG_DIRECTORY).glob("*.yaml")}
    assert found == set(GIVEN)
